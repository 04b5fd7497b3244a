import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nanograd import cli, commands
from nanograd.config.command_configs import IngestConfig, PredictConfig
from nanograd.data.mnist import Mnist
from nanograd.errors import DataError, UsageError
from nanograd.nn import metrics
from nanograd.report import prediction_report
from tests.helpers.runs import train
from tests.report.test_training_report import MOST_BYTES, Page

Predict = Callable[..., Path]


@pytest.fixture(scope="module")
def model(few_digits: Mnist, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("model") / "run"
    train(few_digits, place)
    return str(place / "model")


@pytest.fixture
def predict(model: str, sample: Mnist, tmp_path: Path) -> Predict:
    """Predict 193 digits, some of them with a label, and a bad row; the output folder."""

    def run(labelled: int, name: str = "<i>&out") -> Path:
        digits = sample.test.take(slice(0, 193))
        labels = [int(each) if row < labelled else None for row, each in enumerate(digits.labels)]
        pictures = [*(image.tobytes() for image in digits.images), b"no picture"]
        table = pa.table({"image": pictures, "label": pa.array([*labels, None], pa.int8())})
        (tmp_path / "rows").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "rows" / "<s>.parquet")
        config = PredictConfig(model=model, output=str(tmp_path / name), workers=0)
        commands.predict(config, [str(tmp_path / "rows")], [].append)
        return tmp_path / name

    return run


def words_of(out: Path) -> str:
    return " ".join(Page((out / prediction_report.NAME).read_text()).words)


@pytest.mark.parametrize("labelled", [0, 100, 193])
def test_report_is_one_small_file_that_asks_nobody(predict: Predict, labelled: int) -> None:
    text = (predict(labelled) / prediction_report.NAME).read_text()

    page = Page(text)
    assert len(text.encode()) < MOST_BYTES
    assert all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not re.search(r"<i>&|<s>\.", text)


def test_report_says_what_became_of_the_rows(predict: Predict) -> None:
    out = predict(193)

    table = pq.read_table(out / "predictions")
    label, read = table["label"].to_numpy(), table["prediction"].to_numpy()
    text, words = (out / prediction_report.NAME).read_text(), words_of(out)
    cells = re.findall(r'<td class="(?:hit|miss|none)"[^>]*>(\d*)·?</td>', text)
    assert "194 rows: 193 read, 1 in quarantine." in words
    assert f"{100 * (label == read).mean():.2f} % were read right" in words
    assert [int(cell or 0) for cell in cells] == metrics.confusion_matrix(
        read, label, 10
    ).ravel().tolist()
    assert "not_a_picture" in words or "unreadable" in words or "wrong" in words
    assert f"{(label != read).sum()} of 193 images were misread" in words
    assert "<s>.parquet, row" in words


def test_calibration_from_counts_is_that_of_the_rows(predict: Predict) -> None:
    out = predict(193)

    table = pq.read_table(out / "predictions")
    right = table["label"].to_numpy() == table["prediction"].to_numpy()
    expected = metrics.calibration(table["confidence"].to_numpy(), right)
    assert f"Expected calibration error {100 * expected.error:.2f} %" in words_of(out)


def test_rows_without_labels_have_no_accuracy(predict: Predict) -> None:
    words = words_of(predict(0))

    assert "nobody knows how many were read right" in words
    assert "Worst mistakes" not in words
    assert "Images by best score" in words
    assert "Calibration" not in words


def test_some_labels_are_counted_apart(predict: Predict) -> None:
    words = words_of(predict(100))

    assert "Of 100 with a label" in words
    assert "without label" in words


def test_job_without_a_single_readable_row_has_a_report(
    model: str, tmp_path: Path, predict: Predict
) -> None:
    pq.write_table(pa.table({"image": [b"no", b"picture"]}), tmp_path / "bad.parquet")
    config = PredictConfig(model=model, output=str(tmp_path / "out"), workers=0)

    figures = commands.predict(config, [str(tmp_path / "bad.parquet")], [].append)

    assert figures["quarantined"] == 2
    assert "2 rows: 0 read, 2 in quarantine" in words_of(tmp_path / "out")


def test_metrics_say_how_the_rows_came_in(predict: Predict) -> None:
    out = predict(7)

    rows = [json.loads(line) for line in (out / "_metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["complete"]
    assert rows[-1]["row"] == rows[-1]["rows"] == 194
    assert np.all(np.diff([row["time_s"] for row in rows]) > 0)


def test_command_writes_the_report_anew(predict: Predict) -> None:
    out = predict(7)
    before = (out / prediction_report.NAME).read_bytes()
    (out / prediction_report.NAME).unlink()

    figures = commands.report(str(out), None, [].append)

    assert Path(figures["report"]).read_bytes() == before
    with pytest.raises(UsageError, match="--data has no effect"):
        commands.report(str(out), "sample", [].append)


def test_report_of_an_unfinished_prediction_is_refused(predict: Predict) -> None:
    out = predict(7)
    (out / "_summary.json").unlink()

    with pytest.raises(DataError, match="neither a finished training run nor a finished"):
        commands.report(str(out), None, [].append)


def test_there_is_no_report_of_an_ingest(sample: Mnist, tmp_path: Path) -> None:
    picture, rows = tmp_path / "7.png", str(tmp_path / "rows")
    Image.fromarray(sample.test.images[0].reshape(28, 28)).save(picture)
    commands.ingest(IngestConfig(output=rows, workers=0), [str(picture)], [].append)

    with pytest.raises(DataError, match="is what ingest wrote"):
        commands.report(rows, None, [].append)


@pytest.mark.parametrize("command", ["train", "predict"])
def test_bug_in_a_report_is_a_warning_and_exit_code_0(
    predict: Predict,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    predict(7)
    words = {
        "train": ["--data", "sample", "--epochs", "1"],
        "predict": [str(tmp_path / "rows"), "--model", model],
    }[command]

    def bug(*_: Any) -> str:
        raise ZeroDivisionError("a bug")

    for module in ("training_report", "prediction_report"):
        monkeypatch.setattr(f"nanograd.report.{module}.page", bug)
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, *words, "--workers", "0", "--output", str(tmp_path / "new")])

    stdout, stderr = capsys.readouterr()
    assert exit_.value.code == 0
    assert "WARNING: no report (ZeroDivisionError('a bug'))" in stderr
    assert json.loads(stdout.splitlines()[-1])["report"] is None
