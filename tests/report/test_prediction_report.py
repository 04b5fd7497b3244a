import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nanograd import commands
from nanograd.config.command_configs import IngestConfig, PredictConfig
from nanograd.data.mnist import Mnist
from nanograd.errors import DataError, UsageError
from nanograd.nn import metrics
from nanograd.report import plots, prediction_report
from tests.conftest import Nanograd
from tests.helpers.reports import Page, check_page, confusion_cells
from tests.report.conftest import Predict


def words_of(out: Path) -> str:
    return Page((out / plots.REPORT).read_text()).text


@pytest.mark.parametrize(
    ("num_labelled", "present", "absent"),
    [
        (0, ["No row had a label", "Images by best score"], ["Worst mistakes", "Calibration"]),
        (100, ["Of 100 with a label", "without label", "Worst mistakes", "Calibration"], []),
        (193, ["Of 193 with a label", "Worst mistakes", "Calibration"], ["without label"]),
    ],
)
def test_report_is_one_small_file_with_sections_for_its_labels(
    predict: Predict, num_labelled: int, present: list[str], absent: list[str]
) -> None:
    text = check_page((predict(num_labelled) / plots.REPORT).read_text()).text

    assert [words for words in present if words not in text] == []
    assert [words for words in absent if words in text] == []


def test_report_and_metrics_account_for_every_row(predict: Predict) -> None:
    out = predict(193)

    table = pq.read_table(out / "predictions")
    label, read = table["label"].to_numpy(), table["prediction"].to_numpy()
    text, words = (out / plots.REPORT).read_text(), words_of(out)
    assert "194 rows: 193 classified, 1 in quarantine." in words
    assert f"{100 * (label == read).mean():.2f} % were classified correctly" in words
    assert confusion_cells(text) == metrics.confusion_matrix(read, label, 10).ravel().tolist()
    assert "broken_image" in words
    assert f"{(label != read).sum()} of 193 images were misclassified" in words
    assert "<s>.parquet, row" in words
    calibration = metrics.calibration(table["confidence"].to_numpy(), label == read)
    assert f"Expected calibration error {100 * calibration.error:.2f} %" in words
    rows = [json.loads(line) for line in (out / "_metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["complete"]
    assert rows[-1]["row"] == rows[-1]["rows"] == 194
    assert np.all(np.diff([row["time_s"] for row in rows]) > 0)


def test_job_without_a_single_readable_row_has_a_report(run: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"no", b"picture"]}), tmp_path / "bad.parquet")
    config = PredictConfig(model=str(run / "model"), output=str(tmp_path / "out"), workers=0)

    figures = commands.predict(config, [str(tmp_path / "bad.parquet")], [].append)

    assert figures["quarantined"] == 2
    assert "2 rows: 0 classified, 2 in quarantine" in words_of(tmp_path / "out")


def test_report_of_a_large_job_without_progress_and_quarantine(predict: Predict) -> None:
    finished = prediction_report.read_prediction(str(predict(0)))
    files = {f"part-{number:03}": f"{number:064x}" for number in range(201)}
    summary = finished.summary | {"reasons": {}}

    report = prediction_report.build(replace(finished, files=files, progress=[], summary=summary))

    text = check_page(report.html).text
    assert "201 files with their SHA-256, the first 200 (all are in _manifest.json)" in text
    assert "part-199" in text
    assert "part-200" not in text
    assert "No row is in quarantine." in text
    assert "No progress was recorded." in text
    assert sorted(report.plots) == ["confidence", "digits"]


def test_command_writes_the_report_again(predict: Predict) -> None:
    out = predict(7)
    before = (out / plots.REPORT).read_bytes()
    (out / plots.REPORT).unlink()

    figures = commands.report(str(out), None, [].append)

    assert Path(figures["report"]).read_bytes() == before
    with pytest.raises(UsageError, match="--data has no effect"):
        commands.report(str(out), "sample", [].append)


def test_report_of_an_unfinished_prediction_is_refused(predict: Predict) -> None:
    out = predict(7)
    (out / "_summary.json").unlink()

    with pytest.raises(DataError, match="neither a finished training run nor a finished"):
        commands.report(str(out), None, [].append)


def test_report_of_an_ingest_is_refused(sample: Mnist, tmp_path: Path) -> None:
    picture, rows = tmp_path / "7.png", str(tmp_path / "rows")
    Image.fromarray(sample.test.images[0].reshape(28, 28)).save(picture)
    commands.ingest(IngestConfig(output=rows, workers=0), [str(picture)], [].append)

    with pytest.raises(DataError, match="was written by ingest"):
        commands.report(rows, None, [].append)


@pytest.mark.parametrize("command", ["train", "predict"])
def test_bug_in_a_report_is_a_warning_and_exit_code_0(
    predict: Predict,
    run: Path,
    nanograd: Nanograd,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    predict(7)
    words = {
        "train": ["--data", "sample", "--epochs", "1"],
        "predict": ["rows", "--model", str(run / "model")],
    }[command]

    def bug(*_: Any) -> str:
        raise ZeroDivisionError("a bug")

    for module in ("training_report", "prediction_report"):
        monkeypatch.setattr(f"nanograd.report.{module}.build", bug)
    done = nanograd(command, *words, "--workers", "0", "--output", "new")

    assert done.code == 0
    assert "WARNING: no report (ZeroDivisionError('a bug'))" in done.stderr
    assert done.last["report"] is None
