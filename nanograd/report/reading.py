"""How well digits were read, as sections of a page: confusion, classes, confidence, mistakes."""

from html import escape

import numpy as np
from numpy.typing import NDArray

from nanograd import metrics
from nanograd.mlp import Params
from nanograd.report.charts import Axis, Bars, Line, around, chart
from nanograd.report.markup import folded, paragraph, picture, scrolling, table

_NUM_MISTAKES = 24
_CLASSES = range(metrics.NUM_CLASSES)

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


def confidence(best: Floats, right: NDArray[np.bool_] | None) -> str:
    """How sure the net is, and whether it may be.

    Args:
        best: (N,) the best score of each image, 0 to 1.
        right: (N,) whether it was read right; None where labels are not known.
    """
    if right is None:
        return f'<div class="plots">{_histogram({"all": best})}</div>'
    found = metrics.calibration(best, right)
    histogram = _histogram({"read right": best[right], "read wrong": best[~right]})
    return (
        paragraph(
            f"Expected calibration error {percent(found.error)}: so far on average is the share "
            "of right readings from what the scores claim. Below the dashed line the net is too "
            "sure of itself, above it not sure enough."
        )
        + f'<div class="plots">{_reliability(found)}{histogram}</div>'
        + folded("Calibration as a table", _calibration_table(found))
    )


def _histogram(groups: dict[str, Floats]) -> str:
    """How many images have which best score, several kinds side by side.

    On a logarithmic scale: among thousands that are sure a dozen mistakes would not be seen.
    """
    num_bins = 20
    width = 1 / num_bins / len(groups)
    bars, most = [], 1
    for place, (name, values) in enumerate(groups.items()):
        counts, edges = np.histogram(values, num_bins, (0, 1))
        starts = edges[:-1] + width * place
        filled = counts > 0
        spans = [(float(start), float(start) + width) for start in starts[filled]]
        heights = np.log10(counts[filled]).tolist()
        bars.append(Bars(name, spans, heights, "second" if place else "main"))
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
    if not len(wrong):
        return paragraph("Every image was read right.")
    worst = wrong[np.argsort(-best[wrong], kind="stable")][:_NUM_MISTAKES]
    items = "".join(
        f"<li>{picture(255 - images[each].reshape(28, 28), f'a handwritten {labels[each]}')}"
        f"<strong>{labels[each]} read as {predictions[each]}</strong>"
        f"{escape(percent(float(best[each])))}</li>"
        for each in worst
    )
    return (
        paragraph(
            f"{len(wrong):,} of {len(labels):,} images were misread; these are the "
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
    w1, w2 = net.w1, net.w2
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
            f"The {len(order)} of {net.hidden} hidden units with the most effect. Blue: ink here "
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
