"""Rows of a prediction whose pictures hold lines of digits.

    OUT/numbers/part-NAME.parquet   kept columns, path, source_file, source_row, line, text,
                                    confidence, left, top, right, bottom, digits, left_out

Numbers have a row for each line of digits: its text, its box, the number of its digits and of the
marks that are left out. Predictions have a row for each digit, with its line, position and box. A
row of the input is a picture: either its lines are in numbers, or it is in quarantine.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS
from nanograd.images.reader import Batch
from nanograd.images.writers import NUMBERS, PREDICTIONS, SIDES, WITHOUT_PROBABILITIES
from nanograd.jobs.receipts import PredictionCounts
from nanograd.models.model import Assessment
from nanograd.models.reference import UNFAMILIAR
from nanograd.numbers.recognise import Number
from nanograd.runtime.arrays import Mask
from nanograd.settings.specs import PredictSpec

# Columns of predictions that say where a digit is. Positions and lines count from 0.
PLACE = pa.schema([(name, pa.int32()) for name in ("line", "position", *SIDES)])


def predicted_fields(spec: PredictSpec) -> list[pa.Field]:
    """Return the columns of predictions that follow the kept columns."""
    own = WITHOUT_PROBABILITIES if spec.no_probabilities else PREDICTIONS
    return [*own, *(PLACE if spec.digits == "many" else ())]


def divide_batch(found: Batch) -> tuple[pa.Table, Batch, Assessment, dict[str, pa.Array]]:
    """Divide n pictures with numbers into lines and digits.

    Returns:
        A table with a row for each line; a batch with a row for each digit; the assessment of these
        digits, whose probabilities sum to at most 1, because a mark may be no digit; and columns
        with the line, position and box of each digit.
    """
    pictures: Sequence[Sequence[Number]] = found.images.tolist()
    lines = [(line, number) for numbers in pictures for line, number in enumerate(numbers)]
    digits = [
        (line, position, digit)
        for line, number in lines
        for position, digit in enumerate(number.digits)
    ]
    each = np.arange(len(pictures))
    of_line = found.take(np.repeat(each, list(map(len, pictures))))
    boxes = np.array([number.box for _, number in lines], np.int32).reshape(-1, len(SIDES))
    columns = {
        **of_line.origins(),
        "line": [line for line, _ in lines],
        "text": [number.text for _, number in lines],
        "confidence": np.array([number.confidence for _, number in lines], np.float32),
        **dict(zip(SIDES, boxes.T, strict=True)),
        "digits": [len(number.digits) for _, number in lines],
        "left_out": [len(number.left_out) for _, number in lines],
    }
    own = {field.name: pa.array(columns[field.name], field.type) for field in NUMBERS}
    numbers = pa.table({**of_line.kept, **own})
    num_digits = [sum(len(number.digits) for number in numbers) for numbers in pictures]
    batch = replace(
        found.take(np.repeat(each, num_digits)),
        images=np.array([digit.image for *_, digit in digits], np.uint8).reshape(-1, NUM_PIXELS),
        labels=np.full(len(digits), -1, np.int8),
        bad_labels=np.zeros(0, np.int64),
    )
    probabilities = np.array([digit.probabilities for *_, digit in digits], np.float32)
    assessed = Assessment(
        probabilities.reshape(-1, NUM_CLASSES),
        np.array([digit.unfamiliarity for *_, digit in digits], np.float32),
    )
    places = np.array([(line, position, *digit.box) for line, position, digit in digits], np.int32)
    places = places.reshape(-1, len(PLACE))
    return numbers, batch, assessed, dict(zip(PLACE.names, map(pa.array, places.T), strict=True))


def count_pictures(
    counts: PredictionCounts, digits: Batch, assessed: Assessment, num_lines: int
) -> PredictionCounts:
    """Count pictures instead of digits as rows, and lines. A picture may have unfamiliar digits."""

    def num_pictures(which: Mask) -> int:
        places = np.stack([digits.owners[which], digits.rows[which]])
        return int(np.unique(places, axis=1).shape[1])

    rows = num_pictures(np.ones(len(digits.rows), np.bool_))
    unfamiliar = num_pictures(assessed.unfamiliarity > UNFAMILIAR)
    return replace(counts, rows=rows, predicted=rows, unfamiliar=unfamiliar, numbers=num_lines)
