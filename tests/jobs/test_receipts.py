import json

import numpy as np
import pyarrow as pa
import pytest

from nanograd.errors import Reason, UnreadableError
from nanograd.images.parquet import RowRange
from nanograd.images.writers import PREDICTIONS, refuse_rows
from nanograd.jobs import receipts
from nanograd.settings.specs import ReadOptions


def counts_of(labels: list[int | None], best: list[int]) -> receipts.Counts:
    source = {"path": "a", "source_file": "a", "source_row": 0}
    rows = [
        {**source, "label": label, "prediction": prediction, "confidence": 0.25}
        for label, prediction in zip(labels, best, strict=True)
    ]
    table = pa.Table.from_pylist(rows, PREDICTIONS)
    return receipts.count_predictions(table, np.zeros((len(table), 784), np.uint8))


@pytest.mark.parametrize("num_parts", [1, 3])
def test_counts_add_up_to_the_summary(num_parts):
    counts = counts_of([7, 7, 7, 0, None], [1, 1, 7, 0, 3])
    counts += receipts.count_quarantine(
        refuse_rows("a", [5], [UnreadableError(Reason.BLANK, "no ink")])
    )

    added = sum([counts] * num_parts, receipts.Counts())

    expected = np.zeros((10, 10), int)
    expected[7, 1], expected[7, 7], expected[0, 0] = 2, 1, 1
    summary = added.summary()
    assert summary["confusion"] == (num_parts * expected).tolist()
    assert summary["accuracy"] == 0.5
    assert summary["predicted_as"] == {
        str(d): num_parts * n for d, n in [(0, 1), (1, 2), (3, 1), (7, 1)]
    }
    assert (summary["rows"], summary["quarantined"]) == (6 * num_parts, num_parts)
    [detail] = summary["details"]
    assert (detail["rows"], detail["source_row"], detail["detail"]) == (num_parts, 5, "no ink")


def test_reason_of_most_rows_is_named_before_files_without_a_known_number():
    broken = UnreadableError(Reason.BROKEN_FILE, "cut")
    counts = receipts.count_quarantine(refuse_rows("a", [None], [broken]), rows=0, files=1)
    blank = [UnreadableError(Reason.BLANK, "no ink")] * 2

    assert counts.most_often().startswith("broken_file: cut")
    assert (counts + receipts.count_quarantine(refuse_rows("b", [3, 4], blank))).most_often() == (
        "blank: no ink (first: b, row 3)"
    )


@pytest.mark.parametrize(
    "counts", [receipts.Counts(rows=7), counts_of([7, 7], [1, 7])], ids=["any", "digits"]
)
def test_receipt_is_read_as_it_was_written(counts):
    receipt = receipts.Receipt(
        part="0",
        name="7",
        inputs=("ä", "l\udce4ufe.png"),
        versions=((1, 2, "tag"), (3, 4, None)),
        contents=("5", None),
        files={"rows/part-0": receipts.Written(7, "abc")},
        ranges=(RowRange((0, 1), 0, 0, 9), RowRange((1, 3), 5, 12, 7)),
        readings=(ReadOptions(), ReadOptions(image_column="scan")),
        counts=counts,
    )

    again = receipts.Receipt.from_json(json.loads(json.dumps(receipt.to_json())))

    assert again.to_json() == receipt.to_json()
    assert type(again.counts) is type(counts)
    assert (again.files, again.ranges, again.readings) == (
        receipt.files,
        receipt.ranges,
        receipt.readings,
    )


@pytest.mark.parametrize(
    ("unfamiliar", "predicted", "share"), [(0, 0, ""), (5, 10, ""), (6, 10, "60%"), (1, 1, "100%")]
)
def test_most_rows_that_are_unfamiliar_are_told(unfamiliar, predicted, share):
    counts = receipts.Counts(unfamiliar=unfamiliar, predicted_as=np.array([predicted]))
    told = list(counts.remarks())

    assert len(told) == bool(share)
    assert all(f"({share})" in text for text in told)
