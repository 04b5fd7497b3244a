"""How well digits were read, as sections of a page: confusion, classes, confidence, mistakes."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import NUM_CLASSES
from nanograd.nn import metrics
from nanograd.nn.mlp import Params
from nanograd.report.charts import Axis, Bars, Line, around, chart
from nanograd.report.html import folded, paragraph, picture, scrolling, table

_NUM_MISTAKES = 24
_CLASSES = range(NUM_CLASSES)

Integers = NDArray[np.integer]
Floats = NDArray[np.floating]


def percent(share: float) -> str:
    """A share with two decimals; a dash where there is none.

    >>> percent(0.98254), percent(float("nan"))
    ('98.25 %', '-')
    """
    return "-" if np.isnan(share) else f"{100 * share:.2f} %"


def confusion(matrix: NDArray[np.int64]) -> str:
    """The confusion matrix and what follows from it for each digit.

    Args:
        matrix: (10, 10) counts, row = true class.
    """
    head = "".join(f'<th scope="col">{each}</th>' for each in _CLASSES)
    rows = "".join(
        f'<tr><th scope="row">{label}</th>{"".join(_cells(matrix, label))}</tr>'
        for label in _CLASSES
    )
    grid = (
        '<table class="confusion"><caption>Rows: what the digit is. Columns: what was read.'
        f'</caption><thead><tr><th scope="col">digit</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
    return scrolling("Confusion matrix", grid) + _classes(matrix)


def _cells(matrix: NDArray[np.int64], label: int) -> list[str]:
    """A row of counts; the shade of a mistake is its share of the most frequent one."""
    wrong = matrix - np.diag(np.diag(matrix))
    cells = []
    for read in _CLASSES:
        count = int(matrix[label, read])
        most = matrix.max() if read == label else wrong.max()
        kind = "none" if not count else "hit" if read == label else "miss"
        share = round(8 + 32 * count / most) if count else 0
        cells.append(f'<td class="{kind}" style="--share:{share}">{count or "·"}</td>')
    return cells


def _classes(matrix: NDArray[np.int64]) -> str:
    precision, recall = metrics.precision_and_recall(matrix)
    with np.errstate(invalid="ignore"):
        f1 = 2 * precision * recall / (precision + recall)
    rows = [
        [
            str(digit),
            f"{matrix[digit].sum():,}",
            percent(precision[digit]),
            percent(recall[digit]),
            percent(f1[digit]),
            _most_often(matrix[digit], digit),
        ]
        for digit in _CLASSES
    ]
    head = ["digit", "images", "precision", "recall", "F1", "most often misread as"]
    return table("Each digit", head, rows)


def _most_often(counts: NDArray[np.int64], digit: int) -> str:
    wrong = np.where(np.arange(len(counts)) == digit, 0, counts)
    return f"{wrong.argmax()} ({wrong.max()} times)" if wrong.any() else "-"


def confidence(best: Floats, right: NDArray[np.bool_]) -> str:
    """How sure the net is, and whether it may be.

    Args:
        best: (N,) the best score of each image, 0 to 1.
        right: (N,) whether it was read right.
    """
    groups = {"read right": best[right], "read wrong": best[~right]}
    return confidence_of(
        {name: np.histogram(values, 20, (0, 1))[0] for name, values in groups.items()},
        metrics.calibration(best, right),
    )


def confidence_of(groups: Mapping[str, Integers], found: metrics.Calibration | None) -> str:
    """How sure the net is, and whether it may be, of what was counted already.

    Args:
        groups: up to three kinds of images by name: (n,) their counts in n equal bins of the best
            score.
        found: calibration of those with a label; None if there are none.
    """
    histogram = _histogram(groups)
    if found is None:
        return f'<div class="plots">{histogram}</div>'
    return (
        paragraph(
            f"Expected calibration error {percent(found.error)}: so far on average is the share "
            "of right readings from what the scores claim. Below the dashed line the net is too "
            "sure of itself, above it not sure enough."
        )
        + f'<div class="plots">{_reliability(found)}{histogram}</div>'
        + folded("Calibration as a table", _calibration_table(found))
    )


def _histogram(groups: Mapping[str, Integers]) -> str:
    """How many images have which best score, several kinds side by side.

    On a logarithmic scale: among thousands that are sure a dozen mistakes would not be seen.
    """
    num_bins = len(next(iter(groups.values())))
    width = 1 / num_bins / len(groups)
    bars, most = [], 1
    for place, (name, counts) in enumerate(groups.items()):
        starts = np.arange(num_bins) / num_bins + width * place
        filled = counts > 0
        spans = [(float(start), float(start) + width) for start in starts[filled]]
        heights = np.log10(counts[filled]).tolist()
        bars.append(Bars(name, spans, heights, ("main", "second", "guide")[place]))
        most = max(most, int(counts.max()))
    return chart(
        "Images by best score (logarithmic)",
        Axis("best score", 0, 1, lambda value: f"{value:.1f}"),
        Axis("images", -0.4, float(np.log10(most)) + 0.2, lambda value: f"{10**value:,.0f}"),
        bars,
    )


def _reliability(found: metrics.Calibration) -> str:
    filled = found.counts > 0
    points = list(
        zip(found.confidence[filled].tolist(), found.accuracy[filled].tolist(), strict=True)
    )
    return chart(
        "Share read right, by best score",
        Axis("best score", 0, 1, lambda value: f"{value:.1f}"),
        Axis("read right", 0, 1, lambda value: f"{value:.0%}"),
        [
            Line("this net", points),
            Line("scores that mean what they say", [(0.0, 0.0), (1.0, 1.0)], "guide"),
        ],
    )


def _calibration_table(found: metrics.Calibration) -> str:
    bins = len(found.counts)
    rows = [
        [
            f"{place / bins:.1f} to {(place + 1) / bins:.1f}",
            f"{found.counts[place]:,}",
            percent(found.confidence[place]),
            percent(found.accuracy[place]),
        ]
        for place in range(bins)
    ]
    return table("Calibration", ["best score", "images", "mean score", "read right"], rows)


def mistakes(
    images: NDArray[np.uint8], labels: Integers, predictions: Integers, best: Floats
) -> str:
    """The images that were misread with the most confidence, as pictures.

    Args:
        images: (N, 784) uint8, ink 255 on 0.
        labels: (N,) what they are.
        predictions: (N,) what was read.
        best: (N,) the best score of each.
    """
    wrong = np.flatnonzero(predictions != labels)
    worst = wrong[np.argsort(-best[wrong], kind="stable")][:_NUM_MISTAKES]
    found = [
        Mistake(
            pixels=images[each].reshape(28, 28),
            label=int(labels[each]),
            prediction=int(predictions[each]),
            confidence=float(best[each]),
        )
        for each in worst
    ]
    return worst_of(found, len(wrong), len(labels))


class Mistake(NamedTuple):
    """An image that was misread.

    Args:
        pixels: (28, 28) uint8, ink 255 on 0.
        label: what it is.
        prediction: what was read.
        confidence: the score of that.
        origin: where it is from, in words; may be empty.
    """

    pixels: NDArray[np.uint8]
    label: int
    prediction: int
    confidence: float
    origin: str = ""


def worst_of(worst: Sequence[Mistake], num_wrong: int, number: int) -> str:
    """Some mistakes as pictures.

    Args:
        worst: the surest ones, the worst first.
        num_wrong: how many there are in all.
        number: of images with a label.
    """
    if not worst:
        return paragraph("Every image was read right.")
    items = "".join(
        f"<li>{picture(255 - each.pixels, f'a handwritten {each.label}')}"
        f"<strong>{each.label} read as {each.prediction}</strong>"
        f"{escape(percent(each.confidence))}"
        f"{f'<br>{escape(each.origin)}' if each.origin else ''}</li>"
        for each in worst
    )
    return (
        paragraph(
            f"{num_wrong:,} of {number:,} images were misread; these are the "
            f"{len(worst)} the net was surest about, with its score."
        )
        + f'<ul class="digits">{items}</ul>'
    )


def units(net: Params) -> str:
    """What the hidden units of a net look for: their weights from each pixel, the strongest first.

    Args:
        net: its parameters.
    """
    across, most = 12, 60
    w1, w2, hidden = net.w1, net.w2, net.architecture.hidden
    strength = np.linalg.norm(w1, axis=0) * np.linalg.norm(w2, axis=1)
    order = np.argsort(-strength, kind="stable")[:most]
    shown = -(-len(order) // across) * across
    tiles = np.zeros((shown, 28, 28, 4), np.uint8)
    for tile, unit in zip(tiles, order, strict=False):
        weights = w1[:, unit].reshape(28, 28) / np.abs(w1[:, unit]).max(initial=1e-12)
        tile[..., :3] = np.where(weights[..., None] > 0, (37, 99, 235), (217, 119, 6))
        tile[..., 3] = np.round(255 * np.abs(weights))
    rows = tiles.reshape(-1, across, 28, 28, 4)
    framed = np.pad(rows, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    sheet = framed.swapaxes(1, 2).reshape(len(rows) * 30, across * 30, 4)
    words = f"weights of {len(order)} hidden units as images of 28 x 28 pixels"
    return (
        paragraph(
            f"The {len(order)} of {hidden} hidden units with the most effect. Blue: ink here "
            "excites the unit; orange: ink here silences it."
        )
        + f'<div class="units">{picture(np.ascontiguousarray(sheet), words)}</div>'
    )


def epochs_axis(count: int) -> Axis:
    """The x axis of what happens once an epoch."""
    return Axis("epoch", 0, max(count, 1), lambda value: f"{value:g}")


def curve(title: str, name: str, points: list[tuple[float, float]], format_: str) -> str:
    """A figure an epoch as a line."""
    y = around([value for _, value in points], name, lambda value: format(value, format_))
    return chart(title, epochs_axis(int(points[-1][0])), y, [Line(name, points)])
