"""Accuracy of predictions, for both reports: confusion, confidence, mistakes, hidden units."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import NUM_CLASSES
from nanograd.nn import metrics
from nanograd.nn.mlp import Params
from nanograd.report.charts import Axis, Bars, Chart, Line, fit_axis
from nanograd.report.html import InlineImage, embed_image, percent

_NUM_MISTAKES = 24
_NUM_UNITS, _UNITS_ACROSS = 60, 12
_CLASSES = range(NUM_CLASSES)

Integers = NDArray[np.integer]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class ConfusionMatrix:
    """Predictions by true class."""

    counts: NDArray[np.int64]  # (10, 10) images, row = true class

    def cells(self) -> list[list[tuple[int, str, int]]]:
        """Return the images, class of page.css (hit, miss or none) and shade of each cell.

        Shades are percentages; those of misses are relative to the largest miss.
        """
        most_hits, most_misses = self.counts.max(), self._misses().max()

        def cell(label: int, prediction: int) -> tuple[int, str, int]:
            count = int(self.counts[label, prediction])
            if not count:
                return 0, "none", 0
            kind, most = ("hit", most_hits) if label == prediction else ("miss", most_misses)
            return count, kind, round(8 + 32 * count / most)

        return [[cell(label, prediction) for prediction in _CLASSES] for label in _CLASSES]

    def _misses(self) -> NDArray[np.int64]:
        return self.counts - np.diag(np.diag(self.counts))

    def classes(self) -> list[list[str]]:
        """Return digit, images, precision, recall, F1 and most frequent mistake of each class."""
        precision, recall = metrics.precision_and_recall(self.counts)
        with np.errstate(invalid="ignore"):
            f1 = 2 * precision * recall / (precision + recall)
        return [
            [
                str(digit),
                f"{self.counts[digit].sum():,}",
                *(percent(share[digit]) for share in (precision, recall, f1)),
                f"{row.argmax()} ({'once' if row.max() == 1 else f'{row.max():,} times'})"
                if row.any()
                else "-",
            ]
            for digit, row in enumerate(self._misses())
        ]


def histogram_chart(groups: Mapping[str, Integers]) -> Chart:
    """Plot the number of images by best score, several kinds side by side.

    The scale is logarithmic: a dozen mistakes among thousands of hits would be invisible.

    Args:
        groups: up to three kinds of images: name -> (n,) counts in n equal bins of the best score.
    """
    num_bins = len(next(iter(groups.values())))
    width = 1 / num_bins / len(groups)
    bars = []
    for place, (name, counts) in enumerate(groups.items()):
        filled = np.flatnonzero(counts)
        starts = (filled / num_bins + width * place).tolist()
        spans = [(start, start + width) for start in starts]
        labels = [f"{each / num_bins:.2f} to {(each + 1) / num_bins:.2f}" for each in filled]
        style = ("main", "second", "guide")[place]
        bars.append(Bars(name, spans, counts[filled].tolist(), labels, style))
    most = max(1, *(int(counts.max()) for counts in groups.values()))
    y = Axis("images", 10**-0.4, most * 10**0.2, ",.0f", log=True)
    return Chart("Images by best score (logarithmic)", Axis("best score", 0, 1, ".1f"), y, bars)


def reliability_chart(calibration: metrics.Calibration) -> Chart:
    """Plot the share of correct predictions by best score, a reliability diagram."""
    filled = calibration.counts > 0
    confidence, accuracy = calibration.confidence[filled], calibration.accuracy[filled]
    points = list(zip(confidence.tolist(), accuracy.tolist(), strict=True))
    return Chart(
        "Accuracy by best score",
        Axis("best score", 0, 1, ".1f"),
        Axis("accuracy", 0, 1, ".0%"),
        [
            Line(f"this model (calibration error {percent(calibration.error)})", points),
            Line("perfect calibration", [(0, 0), (1, 1)], "guide"),
        ],
    )


class Review(NamedTuple):
    """Accuracy of the rows that are left when the most doubtful ones are reviewed by people."""

    shares: list[float]  # of the rows that are reviewed, from 0 on
    accuracies: list[float]  # of the others

    def share_for(self, accuracy: float) -> float | None:
        """Return the least share to review for an accuracy of the rest; None if none suffices."""
        pairs = zip(self.shares, self.accuracies, strict=True)
        return next((share for share, reached in pairs if reached >= accuracy), None)

    def chart(self) -> Chart:
        """Plot the accuracy of the rest by the share that is reviewed."""
        points = list(zip(self.shares, self.accuracies, strict=True))
        return Chart(
            "Accuracy of the rest by the share of rows reviewed",
            Axis("share of rows reviewed, the most doubtful first", 0, self.shares[-1] or 1, ".1%"),
            fit_axis([*self.accuracies, 1], "accuracy", ".1%"),
            [Line("accuracy of the rest", points)],
        )


def review_by_doubt(labelled: Integers, correct: Integers) -> Review:
    """Review rows by their doubt, up to a quarter of them or until the rest is right.

    Args:
        labelled: (n,) rows at each level of doubt, the most doubtful first.
        correct: (n,) those of them that are predicted correctly.
    """
    reviewed, total = np.cumsum([0, *labelled]), labelled.sum()
    rest = total - reviewed
    wrong = (total - correct.sum()) - np.cumsum([0, *(labelled - correct)])
    keep = np.flatnonzero(
        (rest > 0) & (reviewed <= total / 4) & (np.diff(reviewed, prepend=-1) > 0)
    )
    end = next((at for at, place in enumerate(keep, 1) if not wrong[place]), len(keep))
    keep = keep[: max(end, 2)]
    return Review((reviewed[keep] / total).tolist(), (1 - wrong[keep] / rest[keep]).tolist())


class Mistake(NamedTuple):
    """A misclassified image, ink dark on white."""

    image: InlineImage
    label: int
    prediction: int
    confidence: float  # the score of the prediction
    origin: str = ""  # file and row; empty for test images


def draw_digit(pixels: NDArray[np.uint8], label: int) -> InlineImage:
    """Draw an image of (28, 28) uint8, ink 255 on 0, dark on white."""
    return embed_image(255 - pixels, f"a handwritten {label}")


def worst_mistakes(
    images: NDArray[np.uint8], labels: Integers, predictions: Integers, best: Floats
) -> list[Mistake]:
    """Return those of (N, 784) images misclassified with the highest scores, the worst first."""
    wrong = np.flatnonzero(predictions != labels)
    worst = wrong[np.argsort(-best[wrong], kind="stable")][:_NUM_MISTAKES]
    return [
        Mistake(
            draw_digit(images[each].reshape(28, 28), labels[each]),
            int(labels[each]),
            int(predictions[each]),
            float(best[each]),
        )
        for each in worst
    ]


def draw_units(net: Params) -> tuple[InlineImage, int]:
    """Draw the hidden units with the largest weights; return also their number.

    A tile of 28 x 28 pixels has the input weights of a unit, blue above 0, orange below.
    """
    strength = np.linalg.norm(net.w1, axis=0) * np.linalg.norm(net.w2, axis=1)
    order = np.argsort(-strength, kind="stable")[:_NUM_UNITS]
    num_rows = -(-len(order) // _UNITS_ACROSS)
    tiles = np.zeros((num_rows * _UNITS_ACROSS, 28, 28, 4), np.uint8)
    for tile, unit in zip(tiles, order, strict=False):
        weights = net.w1[:, unit].reshape(28, 28) / np.abs(net.w1[:, unit]).max(initial=1e-12)
        tile[..., :3] = np.where(weights[..., None] > 0, (37, 99, 235), (217, 119, 6))
        tile[..., 3] = np.round(255 * np.abs(weights))
    rows = tiles.reshape(num_rows, _UNITS_ACROSS, 28, 28, 4)
    framed = np.pad(rows, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    sheet = framed.swapaxes(1, 2).reshape(num_rows * 30, _UNITS_ACROSS * 30, 4)
    alt = f"weights of {len(order)} hidden units as images of 28 x 28 pixels"
    return embed_image(np.ascontiguousarray(sheet), alt), len(order)
