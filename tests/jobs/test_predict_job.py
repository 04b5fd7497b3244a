import json
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import csv

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, OutputExistsError, UsageError
from nanograd.images.writers import PREDICTIONS, QUARANTINE
from nanograd.jobs import predict
from nanograd.jobs.job import run_job
from nanograd.jobs.part import run_local
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.nn.metrics import confusion_matrix
from nanograd.runtime.events import Event, Message
from nanograd.settings.specs import PredictSpec
from tests.helpers.folders import untimed_contents
from tests.helpers.models import some_net, some_reference


def save_model(place: Path, seed: int = 3) -> str:
    nets = (some_net(seed=seed, loss="mse"),)
    model_io.save(Model(nets=nets, about={}, reference=some_reference()), str(place))
    return str(place)


@pytest.fixture
def rows(tmp_path: Path, sample: Mnist) -> Path:
    """Three files of 193 digits with more columns than needed; the last row is bad."""
    (tmp_path / "rows").mkdir()
    for number in range(3):
        part = sample.test.take(slice(193 * number, 193 * (number + 1)))
        pictures = [*(image.tobytes() for image in part.images[:-1]), b"no picture"]
        table = pa.table(
            {
                "label": part.labels,
                "id": pa.array(range(193), pa.uint16()),
                "image": pictures,
                "writer": pa.array(["ann", None, "ben"] * 64 + ["ann"]).dictionary_encode(),
                "box": [{"x": row, "words": [str(row)]} for row in range(193)],
            }
        )
        pq.write_table(table, tmp_path / "rows" / f"{number}.parquet")
    return tmp_path / "rows"


@pytest.fixture
def config(tmp_path: Path) -> PredictSpec:
    """Settings of a job in this process."""
    model = save_model(tmp_path / "model")
    return PredictSpec(model=model, output=str(tmp_path / "out"), workers=0)


def run(config: PredictSpec, *inputs: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the result line and the messages."""
    events: list[Event] = []
    figures = commands.predict(
        [str(place) for place in inputs], spec=config, listener=events.append
    ).to_json()
    return figures, [str(event) for event in events if isinstance(event, Message)]


def changed(config: PredictSpec, **values: Any) -> PredictSpec:
    return PredictSpec.resolve(vars(config), values)


def parts_in(folder: str, name: str) -> list[Path]:
    return sorted((Path(folder) / name).iterdir())


def read_table(config: PredictSpec, name: str = "predictions") -> pa.Table:
    order = [("source_file", "ascending"), ("source_row", "ascending")]
    return pq.read_table(Path(config.output) / name).sort_by(order)


def replace_id(file: Path, column: pa.Array | None) -> None:
    """Rewrite a file with another column `id`, or without it."""
    table = pq.read_table(file).drop(["id"])
    pq.write_table(table if column is None else table.append_column("id", column), file)


def test_output_files_have_the_documented_schemas(config: PredictSpec, rows: Path) -> None:
    run(config, rows)

    predictions, quarantine = (
        parts_in(config.output, name) for name in ("predictions", "quarantine")
    )
    assert len(predictions) == len(quarantine) == 3
    assert all(pq.read_schema(file).equals(PREDICTIONS) for file in predictions)
    assert all(pq.read_schema(file).equals(QUARANTINE) for file in quarantine)


def test_kept_columns_come_first_with_their_types_and_values(
    config: PredictSpec, rows: Path
) -> None:
    run(changed(config, keep=("writer", "id", "box", "image")), rows)

    source = pq.read_schema(rows / "0.parquet")
    table = read_table(config)
    assert table.schema.names == ["writer", "id", "box", "image", *PREDICTIONS.names]
    assert table.schema.field("id").type == pa.uint16()
    assert table.schema.field("box").type == source.field("box").type
    assert table["id"].to_pylist() == table["source_row"].to_pylist() == [*range(192)] * 3
    assert table["writer"].to_pylist() == ["ann", None, "ben"] * 192
    assert table["box"][7].as_py() == {"x": 7, "words": ["7"]}


def test_kept_column_of_some_files_is_null_for_the_others(config: PredictSpec, rows: Path) -> None:
    replace_id(rows / "1.parquet", None)

    run(changed(config, keep=("id",)), rows)

    table = read_table(config)
    assert table["id"].to_pylist() == [*range(192), *[None] * 192, *range(192)]


def test_kept_column_gets_a_type_that_holds_all_values(config: PredictSpec, rows: Path) -> None:
    replace_id(rows / "1.parquet", pa.array(range(10**10, 10**10 + 193), pa.int64()))

    run(changed(config, keep=("id", "writer")), rows)

    kept = read_table(config)
    assert kept.schema.field("id").type == pa.int64()
    assert max(kept["id"].to_pylist()) == 10**10 + 191


def test_kept_columns_that_do_not_go_together_are_named(config: PredictSpec, rows: Path) -> None:
    replace_id(rows / "1.parquet", pa.array([{"x": row} for row in range(193)]))

    with pytest.raises(DataError, match=r"--keep id: .*uint16.*leave it out"):
        run(changed(config, keep=("id",)), rows)


@pytest.mark.parametrize(
    ("name", "format_", "error", "words"),
    [
        ("idd", "parquet", UsageError, "--keep idd: no file has this column; there are label, id"),
        *(
            (name, "parquet", UsageError, f"--keep {name}: ")
            for name in PREDICTIONS.names
            if name != "label"
        ),
        ("box", "csv", UsageError, "--format csv cannot hold column 'box'"),
        ("image", "csv", UsageError, "--format csv cannot hold column 'image'"),
        ("image", "jsonl", UsageError, "--format jsonl cannot hold column 'image'"),
    ],
)
def test_column_that_cannot_be_kept_is_refused(
    config: PredictSpec, rows: Path, name: str, format_: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run(changed(config, keep=("id", name), format=format_), rows)

    assert not Path(config.output).exists()


def test_large_row_groups_are_cut_and_every_row_is_predicted_once(
    config: PredictSpec, sample: Mnist, tmp_path: Path
) -> None:
    distinct = [image.tobytes() for image in sample.test.images[:193]]
    pictures = [distinct[row % 193] for row in range(10_001)]
    pictures[9_999] = pictures[10_000] = b"\0"
    pq.write_table(pa.table({"image": pictures}), tmp_path / "big.parquet", row_group_size=5_000)

    figures, _ = run(config, tmp_path / "big.parquet")

    parts = [len(pq.read_table(file)) for file in parts_in(config.output, "predictions")]
    table, bad = read_table(config), read_table(config, "quarantine")
    predictions = table["prediction"].to_numpy()
    assert sorted(parts) == [0, 2499, 2500, 2500, 2500]
    assert table["source_row"].to_pylist() == list(range(9_999))
    assert bad["source_row"].to_pylist() == [9_999, 10_000]
    assert figures["rows"] == figures["predicted"] + figures["quarantined"] == 10_001
    np.testing.assert_array_equal(predictions, np.resize(predictions[:193], 9_999))


def test_damaged_row_group_does_not_affect_others(config: PredictSpec, rows: Path) -> None:
    digits = pq.read_table(rows / "0.parquet", columns=["image"])[:192]
    table, options = pa.concat_tables([digits] * 22), {"use_dictionary": False}
    pq.write_table(
        table, rows / "3.parquet", row_group_size=1056, write_page_checksum=True, **options
    )
    group = pq.read_metadata(rows / "3.parquet").row_group(1).column(0)
    data = bytearray((rows / "3.parquet").read_bytes())
    data[group.data_page_offset + group.total_compressed_size // 2] ^= 1
    (rows / "3.parquet").write_bytes(data)

    figures, _ = run(config, rows / "3.parquet")

    table, bad = read_table(config), read_table(config, "quarantine").to_pylist()
    assert figures["rows"] == figures["predicted"] + figures["quarantined"] == 4 * 1056
    lost = [row["source_row"] for row in bad]
    assert lost == list(range(lost[0], 2 * 1056))
    assert 1056 <= lost[0] < 2 * 1056
    assert table["source_row"].to_pylist() == [*range(lost[0]), *range(2 * 1056, 4 * 1056)]
    assert {row["reason"] for row in bad} == {"broken_file"}


@pytest.mark.parametrize("verify", [False, True])
def test_repeated_job_does_nothing_and_has_the_same_result(
    config: PredictSpec, rows: Path, *, verify: bool
) -> None:
    first, _ = run(config, rows)
    out = Path(config.output)
    before = untimed_contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    again, messages = run(changed(config, verify=verify), rows)

    timed = ("start_s", "predict_s", "rows_per_s")
    assert (again["predict_s"], again["rows_per_s"]) == (0, 0)
    assert [line for line in messages if "nothing to do" in line] == messages
    assert untimed_contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in first.items() if k not in timed
    }


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_other_formats_hold_the_same_values(
    config: PredictSpec, rows: Path, tmp_path: Path, format_: str
) -> None:
    run(changed(config, keep=("id", "writer")), rows)
    place = tmp_path / format_
    run(changed(config, keep=("id", "writer"), format=format_, output=str(place)), rows)

    expected = read_table(config).to_pylist()
    read = read_csv if format_ == "csv" else read_json_lines
    found = [row for file in sorted((place / "predictions").iterdir()) for row in read(file)]
    found.sort(key=lambda row: (row["source_file"], row["source_row"]))
    assert len(found) == 576
    for row, other in zip(found, expected, strict=True):
        assert np.array_equal(
            np.float32(row.pop("probabilities")), np.float32(other.pop("probabilities"))
        )
        for name in ("confidence", "unfamiliarity"):
            assert np.float32(row.pop(name)) == np.float32(other.pop(name))
        assert row == other
    bad = [row for file in (place / "quarantine").iterdir() for row in read(file)]
    assert [row["source_row"] for row in bad] == [192] * 3


def read_csv(file: Path) -> list[dict[str, Any]]:
    rows = csv.read_csv(
        file,
        convert_options=csv.ConvertOptions(
            strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    ).to_pylist()
    for row in rows:
        if "probability_0" in row:
            row["probabilities"] = [row.pop(f"probability_{digit}") for digit in range(10)]
    return rows


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_summary_has_accuracy_confusion_and_the_worst_mistakes(
    config: PredictSpec, rows: Path
) -> None:
    figures, _ = run(config, rows)

    table = read_table(config)
    label, prediction = table["label"].to_numpy(), table["prediction"].to_numpy()
    summary = json.loads((Path(config.output) / "_summary.json").read_text())
    confidence = table["confidence"].to_numpy()[label != prediction]
    assert summary["accuracy"] == figures["accuracy"] == (label == prediction).mean()
    assert np.array_equal(summary["confusion"], confusion_matrix(prediction, label, 10))
    assert figures["confusion"] == summary["confusion"]
    assert sum(summary["labelled_by_confidence"]) == 576
    assert sum(summary["correct_by_confidence"]) == (label == prediction).sum()
    worst = [each["confidence"] for each in summary["worst"]]
    assert worst == sorted(worst, reverse=True)
    assert worst[0] == pytest.approx(confidence.max(), abs=1e-6)
    first = summary["worst"][0]
    [row] = [
        row for row in table.to_pylist()
        if (row["source_file"], row["source_row"]) == (first["source_file"], first["source_row"])
    ]  # fmt: skip
    assert (row["label"], row["prediction"]) == (first["label"], first["prediction"])
    with Image.open(BytesIO(b64decode(first["png"]))) as picture:
        source = pq.read_table(first["source_file"])["image"][first["source_row"]].as_py()
        assert picture.tobytes() == source


@pytest.mark.parametrize(
    "change",
    [
        {"format": "csv"},
        {"normalise": "never"},
        {"image_root": "/data"},
        {"keep": ("id",)},
        {"polarity": "dark-on-light"},
        {"max_pixels": 784},
        {"image_column": "image"},
        {"label_column": "id"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_are_another_job(
    config: PredictSpec, rows: Path, change: dict[str, Any]
) -> None:
    run(config, rows)
    before = untimed_contents(Path(config.output))

    with pytest.raises(OutputExistsError, match="another job"):
        run(changed(config, **change), rows)

    assert untimed_contents(Path(config.output)) == before


def test_other_model_is_another_job_and_the_same_elsewhere_is_not(
    config: PredictSpec, rows: Path, tmp_path: Path
) -> None:
    run(config, rows)

    _, messages = run(changed(config, model=save_model(tmp_path / "copy")), rows)
    with pytest.raises(OutputExistsError, match="another job"):
        run(changed(config, model=save_model(tmp_path / "other", seed=4)), rows)

    assert "nothing to do" in messages[0]


def test_model_that_changes_during_a_job_stops_it(
    config: PredictSpec, rows: Path, tmp_path: Path
) -> None:
    job, work = predict.plan([str(rows)], config)
    save_model(tmp_path / "model", seed=4)

    with pytest.raises(DataError, match="has changed since the job began"):
        run_job(job, run_local(work))

    assert not (tmp_path / "out" / "_SUCCESS").exists()
