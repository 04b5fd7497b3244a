import json

import numpy as np
import pyarrow as pa

from nanograd.errors import Reason, Rejection
from nanograd.images.writers import PREDICTIONS, QUARANTINE, encode, quarantine_table

REASONS = [
    *("broken_file", "wrong_schema", "no_file", "no_permission", "outside_root"),
    *("broken_archive", "broken_member", "bad_name", "encrypted"),
    *("no_bytes", "empty", "broken_image", "too_large", "wrong_shape", "bad_pixel"),
    *("blank", "low_contrast", "too_many_marks"),
]


def test_output_schemas_are_as_documented() -> None:
    assert PREDICTIONS.names == [
        *("source_file", "source_row", "prediction"),
        *("confidence", "unfamiliarity", "probabilities", "label"),
    ]
    assert PREDICTIONS.field("probabilities").type == pa.list_(pa.float32(), 10)
    assert QUARANTINE.names == ["source_file", "source_row", "reason", "detail"]


def test_reason_codes_are_as_documented() -> None:
    assert [str(reason) for reason in Reason] == REASONS


def test_quarantine_table_holds_rows_of_the_file_and_whole_files() -> None:
    rejected = [
        ("a.parquet", Rejection(3, Reason.BLANK, "nothing there")),
        ("\udcff.parquet", Rejection(None, Reason.BROKEN_FILE, "\udcff is no whole file")),
    ]

    table = quarantine_table(rejected, first_row=100)

    assert table.schema.equals(QUARANTINE)
    assert [list(row.values()) for row in table.to_pylist()] == [
        ["a.parquet", 103, "blank", "nothing there"],
        [r"\udcff.parquet", None, "broken_file", r"\udcff is no whole file"],
    ]
    assert quarantine_table([]).schema.equals(QUARANTINE)


def test_json_lines_have_the_shortest_digits_and_null_for_other_values() -> None:
    numbers = np.array([0.1, 1 / 3, 1e-7, 2, np.nan, np.inf], np.float32)
    pairs = pa.array([[0.1, np.nan], None, [3, None]] * 2, pa.list_(pa.float32(), 2))
    nested = [{"x": [float("inf"), 0.5]}] * 6
    table = pa.table({"number": numbers, "pair": pairs, "nested": nested})

    lines = encode(table, "jsonl").decode().splitlines()

    assert [json.loads(line)["number"] for line in lines] == [0.1, 0.33333334, 1e-7, 2, None, None]
    assert [json.loads(line)["pair"] for line in lines[:3]] == [[0.1, None], None, [3, None]]
    assert json.loads(lines[0])["nested"] == {"x": [None, 0.5]}
    assert lines[1] == '{"number": 0.33333334, "pair": null, "nested": {"x": [null, 0.5]}}'
