"""Accuracy of predictions, for both reports: confusion, confidence, mistakes, hidden units."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from nanograd.digits.dataset import SIDE
from nanograd.images.inputs import Origin
from nanograd.nn import metrics
from nanograd.nn.mlp import Params
from nanograd.report.charts import Axis, Chart, Series, fit_axis, plot
from nanograd.report.html import InlineImage, embed_image
from nanograd.runtime.arrays import Bytes, Ints
from nanograd.runtime.events import count, percent, shorten

# Number of pictures that a report shows of each kind.
NUM_SHOWN = 24
_CONFIDENCE = Axis("confidence", 0, 1, ".0%")
_NUM_UNITS, _UNITS_ACROSS = 60, 12
_TILE = SIDE + 2  # side of a unit's image with its margin, in pixels
# Colours of weights above and below 0, and number of steps from transparent to opaque.
_SIGNS, _STEPS = ((37, 99, 235), (217, 119, 6)), 18


def classes_of(confusion: Ints) -> list[tuple[Any, ...]]:
    """Return images, precision, recall, F1, commonest mistake and its count of each true digit."""
    precision, recall = metrics.precision_and_recall(confusion)
    with np.errstate(invalid="ignore"):
        f1 = 2 * precision * recall / (precision + recall)
    misses = confusion - np.diag(np.diag(confusion))
    mistakes = misses.argmax(axis=1), misses.max(axis=1)
    columns = confusion.sum(axis=1), precision, recall, f1, *mistakes
    return list(zip(*(each.tolist() for each in columns), strict=True))


def histogram_chart(groups: Mapping[str, Ints]) -> Chart:
    """Plot a histogram of confidence for up to three groups of images.

    A group is (n,) counts in n equal bins. The scale is logarithmic, because on a linear scale a
    dozen mistakes beside thousands of hits would be invisible.
    """
    kinds = {name: counts for name, counts in groups.items() if counts.any()}
    series, most = [], 1
    for number, (name, counts) in enumerate(kinds.items()):
        filled, most = np.flatnonzero(counts), max(most, int(counts.max()))
        edges, width = np.linspace(0, 1, len(counts) + 1), 1 / len(counts) / len(kinds)
        points = [(edges[each] + width * number, int(counts[each])) for each in filled]
        labels = [_range(edges[each], edges[each + 1]) for each in filled]
        series.append(Series(name, points, ("main", "second", "guide")[number], width, labels))
    y = Axis("images", 10**-0.4, most * 10**0.2, ",.0f", log=True)
    return plot("Images by confidence (logarithmic)", _CONFIDENCE, y, series)


def reliability_chart(calibration: metrics.Calibration) -> Chart:
    """Plot the share of correct predictions by confidence, a reliability diagram.

    The area of a dot is proportional to the number of images.
    """
    found = [
        (f"{text} ({count(number, 'image')})", number, shares)
        for text, number, *shares in bins_of(calibration)
        if number
    ]
    labels, weights, points = zip(*found, strict=True)
    model = Series("this model (area: images)", points, labels=labels, weights=weights)
    perfect = Series("perfect calibration", [(0, 0), (1, 1)], "guide")
    y = Axis("accuracy", 0, 1, ".0%")
    return plot("Accuracy by confidence", _CONFIDENCE, y, [model, perfect])


def bins_of(calibration: metrics.Calibration) -> list[tuple[str, int, float, float]]:
    """Return range of confidence, number of images, mean confidence and accuracy of each bin."""
    *columns, _ = calibration
    edges = np.linspace(0, 1, len(columns[0]) + 1)
    ranges = map(_range, edges[:-1], edges[1:])
    return list(zip(ranges, *(each.tolist() for each in columns), strict=True))


def _range(low: float, high: float) -> str:
    """Format a range of shares.

    >>> _range(0.25, 0.3)
    '25 to 30 %'
    """
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def review_chart(review: Sequence[tuple[float, float]]) -> Chart:
    """Plot the accuracy of the rest by the share of rows reviewed."""
    least_first = "rows reviewed, the least certain first"
    x = Axis(least_first, 0, review[-1][0] or 1, ".1%", max_ticks=5)
    y = fit_axis([*(reached for _, reached in review), 1], "accuracy", ".1%")
    series = Series("accuracy of the rest", review)
    return plot("Accuracy of the rest by rows reviewed", x, y, [series])


def review_by_doubt(labelled: Ints, correct: Ints) -> list[tuple[float, float]]:
    """Compute the accuracy of the rows that are left after reviewing the most doubtful ones.

    The number of reviewed rows grows up to a quarter of all rows, or until no mistake is left. The
    arguments are (n,) counts at each level of doubt, the most doubtful first. The result has pairs
    of the share of the rows that are reviewed, and the accuracy of the others.
    """
    reviewed, total = np.cumsum([0, *labelled]), labelled.sum()
    mistakes = np.cumsum([0, *(labelled - correct)])
    rest, wrong = total - reviewed, mistakes[-1] - mistakes
    has_rows = np.diff(reviewed, prepend=-1) > 0
    levels = np.flatnonzero(has_rows & (rest > 0) & (reviewed <= total / 4))
    # End at the first level that leaves no mistake; keep two levels, because a line needs them.
    levels = levels[: max(2, np.count_nonzero(wrong[levels]) + 1)]
    points = np.stack([reviewed[levels] / total, 1 - wrong[levels] / rest[levels]], axis=1)
    return [(share, reached) for share, reached in points.tolist()]


def draw_prediction(
    pixels: Bytes,
    true: int | None,
    prediction: int,
    confidence: float,
    source: Origin | None = None,
) -> InlineImage:
    """Draw a classified image, (784,) uint8, ink 255 on 0, with its label, if it has one."""
    digits = str(prediction) if true in (None, prediction) else f"{true} as {prediction}"
    alt = f"classified as {prediction}" if true is None else f"a handwritten {true}"
    name, title = ("", "") if source is None else (shorten(source.name, 23, "…"), source.place)
    caption = (digits, percent(confidence), name)
    return embed_image(Image.fromarray(255 - pixels.reshape(SIDE, SIDE)), alt, caption, title)


def draw_units(net: Params) -> tuple[InlineImage, int]:
    """Draw the hidden units that count most; return the image and how many units it shows.

    A unit counts by the norm of its input weights, times the norm of its output weights.

    A tile of 28 x 28 pixels shows the input weights of a unit, blue above 0, orange below.
    """
    strength = np.linalg.norm(net.w1, axis=0) * np.linalg.norm(net.w2, axis=1)
    order = np.argsort(-strength, kind="stable")[:_NUM_UNITS]
    num_rows = -(-len(order) // _UNITS_ACROSS)
    tiles = np.zeros((num_rows * _UNITS_ACROSS, _TILE, _TILE), np.uint8)
    for tile, unit in zip(tiles[:, 1:-1, 1:-1], order, strict=False):
        weights = net.w1[:, unit].reshape(SIDE, SIDE) / np.abs(net.w1[:, unit]).max(initial=1e-12)
        tile[:] = np.round((_STEPS - 1) * np.abs(weights)) + _STEPS * (weights < 0)
    rows = tiles.reshape(num_rows, _UNITS_ACROSS, _TILE, _TILE).swapaxes(1, 2)
    sheet = Image.fromarray(rows.reshape(num_rows * _TILE, -1), "P")
    opacities = np.linspace(0, 255, _STEPS, dtype=np.uint8)
    colours = [(*sign, opacity) for sign in _SIGNS for opacity in opacities]
    sheet.putpalette(np.array(colours, np.uint8).tobytes(), "RGBA")
    alt = f"weights of {count(len(order), 'hidden unit')} as images of 28 x 28 pixels"
    return embed_image(sheet, alt), len(order)
