import numpy as np
import pyarrow as pa
import pytest

from nanograd.errors import Origin, Reason, Rejected
from nanograd.images.writers import PREDICTIONS, quarantine_table
from nanograd.jobs.account import REVIEW, count_part, remarks, summarise
from nanograd.jobs.part import Part, total


def predictions(labels: list[int | None], best: list[int]) -> pa.Table:
    rows = [
        {"label": label, "prediction": prediction, "confidence": 0.25}
        for label, prediction in zip(labels, best, strict=True)
    ]
    return pa.Table.from_pylist(rows, PREDICTIONS)


@pytest.mark.parametrize("num_parts", [1, 3])
def test_confusion_of_receipts_adds_up_to_the_matrix_of_the_summary(num_parts: int) -> None:
    table = predictions([7, 7, 7, 0, None], [1, 1, 7, 0, 3])
    part = Part(id="a", files=("a.parquet",), num_rows=5)

    counts = count_part(part, table, quarantine_table([]), [])
    summary = summarise(total([counts] * num_parts))

    expected = np.zeros((10, 10), int)
    expected[7, 1], expected[7, 7], expected[0, 0] = 2, 1, 1
    assert counts["confusion"] == {"0 as 0": 1, "7 as 1": 2, "7 as 7": 1}
    assert summary["confusion"] == (num_parts * expected).tolist()
    assert summary["accuracy"] == 0.5


@pytest.mark.parametrize(
    "rejection", [None, Rejected(Origin("a", None), Reason.WRONG_SCHEMA, "no images")]
)
def test_part_survives_the_way_to_another_process(rejection: Rejected | None) -> None:
    part = Part(id="a", files=("a.parquet",), num_rows=5, rejection=rejection)

    again = Part.from_json(part.to_json())

    assert (again.id, again.num_rows, again.rejection) == ("a", 5, rejection)
    assert again.rejection is None or isinstance(again.rejection.reason, Reason)


@pytest.mark.parametrize(
    ("unfamiliar", "predicted", "share"), [(0, 0, ""), (5, 10, ""), (6, 10, "60%"), (1, 1, "100%")]
)
def test_most_rows_that_are_unfamiliar_are_told(
    unfamiliar: int, predicted: int, share: str
) -> None:
    told = list(remarks({"unfamiliar": unfamiliar, "predicted": predicted}))

    assert len(told) == bool(share)
    assert all(f"({share})" in text and REVIEW in text for text in told)
