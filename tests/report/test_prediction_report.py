import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nanograd import batch, commands
from nanograd.errors import DataError, Reason, UnreadableError, UsageError
from nanograd.images.writers import quarantine_table, write_pictures
from nanograd.jobs.output import SUMMARY, Manifest
from nanograd.jobs.receipts import Written
from nanograd.nn import metrics
from nanograd.report import accuracy, html, prediction_report
from tests.helpers.reports import Page, check_page, confusion_cells


def words_of(out: Path) -> str:
    return Page((out / html.REPORT).read_text()).text


@pytest.mark.parametrize(
    ("num_labelled", "sections", "kinds"),
    [
        (0, {"review"}, []),
        (100, {"review", "mistakes"}, ["correct", "wrong", "without label"]),
        (193, {"review", "mistakes"}, ["correct", "wrong"]),
    ],
)
def test_report_is_one_small_file_with_sections_for_its_labels(
    predict, num_labelled, sections, kinds
):
    out = predict(num_labelled)

    report = prediction_report.build(str(out))

    page = check_page((out / html.REPORT).read_text())
    assert set(page.values("id")) & {"review", "mistakes"} == sections
    assert ("calibration" in report.plots) == ("confusion" in report.plots) == (num_labelled > 0)
    [histogram] = report.plots["confidence"]
    assert [name for _, name in histogram.legend] == kinds


def test_report_and_metrics_account_for_every_row(predict):
    out = predict(193)

    table = pq.read_table(out / "predictions")
    label, read = table["label"].to_numpy(), table["prediction"].to_numpy()
    calibration = metrics.calibration(table["confidence"].to_numpy(), label == read)
    text, words = (out / html.REPORT).read_text(), words_of(out)
    assert confusion_cells(text) == metrics.confusion_matrix(read, label, 10).ravel().tolist()
    for figure in (
        "194 rows: 193 classified, 1 in quarantine.",
        f"{100 * (label == read).mean():.2f} % were classified correctly",
        f"{(label != read).sum()} of 193 images were misclassified",
        f"Expected calibration error {100 * calibration.error:.2f} %",
        "<s>.parquet, row",
        "broken_image",
        "its content (10 bytes) is not a picture",
        "<s>.parquet, row 193",
        f"{out}/_review.pq",
    ):
        assert figure in words
    summary = json.loads((out / "_summary.json").read_text())
    for place in (*summary["inputs"], summary["model"]):
        assert Path(place).exists()
        assert place in text
    rows = [json.loads(line) for line in (out / "_metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["complete"]
    assert rows[-1]["row"] == rows[-1]["rows"] == 194
    assert np.all(np.diff([row["time_s"] for row in rows]) > 0)
    (out / html.REPORT).unlink()
    figures = commands.report(out).to_json()  # writes the same page again
    assert Path(figures["report"]).read_text() == text
    with pytest.raises(UsageError, match="--data has no effect"):
        commands.report(out, ["sample"])


def test_report_says_how_many_rows_to_review_for_an_accuracy(predict):
    out = predict(193)
    manifest = Manifest.read(str(out))
    [receipt] = manifest.receipts
    labelled = np.array([5, 5, 183, *[0] * 118])
    some = {"labelled_by_doubt": labelled, "correct_by_doubt": labelled - [4, 1, *[0] * 119]}
    receipt = replace(receipt, counts=replace(receipt.counts, **some))
    replace(manifest, receipts=[receipt]).commit(str(out))

    text = prediction_report.build(str(out)).html

    found = re.findall(r"Review (\S+) % of the rows to have (\S+) %", text)
    assert found == [("2.59", "99.00"), ("5.18", "99.50"), ("5.18", "99.90")]


def test_report_counts_the_pictures_that_ingest_rejected(run, sample, tmp_path):
    write_pictures(sample.test.take(slice(0, 7)), str(tmp_path / "in"))
    for number in range(3):
        (tmp_path / f"in/bad-{number}.png").write_bytes(b"no picture" * (number % 2))
    rows, out = tmp_path / "rows", tmp_path / "out"
    batch.ingest(tmp_path / "in", output=rows)

    result = batch.predict(rows, model=run / "model", output=out)

    assert result.ingest_quarantined == {"broken_image": 1, "empty": 2}
    words = words_of(out)
    assert "rejected pictures, which are not counted as rows: 1 broken_image, 2 empty." in words
    assert {f"bad-{number}.png" for number in range(3)} < set(words.split())
    assert "ingest had quarantined 3 pictures" in str(result)


def change_summary(out: Path, **values: Any) -> None:
    file = out / "_summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_report_of_a_large_job_without_mistakes_progress_and_quarantine(predict):
    out = predict(7)
    (out / "_metrics.jsonl").unlink()
    change_summary(out, reasons={}, worst=[])
    manifest = Manifest.read(str(out))
    files = {f"part-{number:03}": Written(7, f"{number:064x}") for number in range(201)}
    replace(manifest, receipts=[replace(manifest.receipts[0], files=files)]).commit(str(out))

    report = prediction_report.build(str(out))

    text = check_page(report.html).text
    assert "201 files with SHA-256, the first 200 (all are in _manifest.json)" in text
    assert "part-199" in text
    assert "part-200" not in text
    assert "No row is in quarantine." in text
    assert "Every image was classified correctly." in text
    assert "speed" not in report.plots


def test_report_without_labels_shows_the_doubtful_rows_and_says_where_the_list_is(predict):
    out = predict(0)
    change_summary(out, unfamiliar=1)
    [file] = (out / "_review").iterdir()
    rows = pq.read_table(file)
    values = np.where(np.arange(len(rows)) == 30, 0.97, 0.1).astype(np.float32)
    place = rows.schema.get_field_index("unfamiliarity")
    pq.write_table(rows.set_column(place, "unfamiliarity", pa.array(values)), file)

    page = check_page(prediction_report.build(str(out)).html)

    numbers = rows["source_row"].to_pylist()
    names = [f"<s>.parquet, row {number}" for number in [*numbers[:24], numbers[30]]]
    found = [title.rpartition("/")[2] for title in page.values("title")]
    assert [title for title in found if title.startswith("<s>")][: len(names)] == names
    assert len([each for each in page.values("alt") if each.startswith("classified as")]) == 25
    texts = ("Least certain", "Unfamiliar", f"{out}/_review.pq", "rows (4)", "nanograd review ")
    assert all(text in page.text for text in (*texts, "This page shows 24 rows"))


def test_only_pictures_of_the_input_are_shown_in_quarantine(predict, tmp_path):
    for folder in ("in", "elsewhere"):
        (tmp_path / folder).mkdir()
        Image.new("L", (900, 600), 200).save(tmp_path / folder / "IMG_2041.jpg")
    (tmp_path / "in/notes.png").write_bytes(b"no picture")
    out = predict(0)
    given, table = str(tmp_path / "in/IMG_2041.jpg"), str(tmp_path / "in/rows.parquet")
    other = str(tmp_path / "elsewhere/IMG_2041.jpg")
    rows = [(given, given), (given, table), (other, other), (table, table)]
    rows += [(str(tmp_path / f"in/{name}"),) * 2 for name in ("notes.png", "gone.png")]
    paths, files = zip(*rows, strict=True)
    origins = {"path": paths, "source_file": files, "source_row": [0] * len(rows)}
    errors = [UnreadableError(Reason.BLANK, "no ink")] * len(rows)
    [file] = (out / "quarantine").iterdir()
    pq.write_table(quarantine_table(pa.table(origins), errors), file)

    for inputs in ([str(tmp_path / "in")], [str(tmp_path / "in/*.jpg")], [given]):
        change_summary(out, inputs=inputs)
        page = check_page(prediction_report.build(str(out)).html)

        assert page.values("alt").count("the picture") == 1
        assert page.words.count("IMG_2041.jpg") == 3
        assert "rows.parquet, row 0" in page.words


def test_damaged_unfinished_and_other_outputs_have_no_report(predict, sample, tmp_path):
    out, rows = predict(7), tmp_path / "ingested"
    write_pictures(sample.test.take(slice(0, 1)), str(tmp_path / "in"))
    batch.ingest(tmp_path / "in", output=rows)

    with pytest.raises(DataError, match="was written by ingest; only training runs"):
        commands.report(rows)
    with pytest.raises(DataError, match=f"{out} was written by predict or ingest; name a training"):
        commands.compare(out)
    for name, text in {"_review.pq": "{", "_metrics.jsonl": '{"row": "x"}', SUMMARY: "{"}.items():
        (out / name).write_text(text)
        with pytest.raises(DataError, match=f"{name} is damaged"):
            commands.report(out)
    (out / "_summary.json").unlink()
    with pytest.raises(DataError, match="neither a finished training run"):
        commands.report(out)


def test_bug_in_a_report_is_a_warning_and_exit_code_0(predict, run, nanograd, monkeypatch):
    predict(7)
    for module in ("training_report", "prediction_report"):
        monkeypatch.setattr(f"nanograd.report.{module}.build", lambda *_: 1 / 0)

    for words in ("train --data sample --epochs 1", f"predict rows --model {run}/model"):
        done = nanograd(*words.split(), "--workers", "0", "--output", f"new-{words[0]}")

        assert done.code == 0
        assert "WARNING: no report (ZeroDivisionError" in done.stderr
        assert done.last["report"] is None


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_of_the_rest_is_that_after_the_review_of_whole_levels(seed):
    draws = np.random.default_rng(seed)
    labelled = draws.integers(0, 40, 61)
    labelled[0] = 0
    wrong = draws.binomial(labelled, np.linspace(0.6, 0, 61))

    review = accuracy.review_by_doubt(labelled, labelled - wrong)

    total = labelled.sum()
    assert review[0] == (0, pytest.approx(1 - wrong.sum() / total))
    for share, reached in review:
        level = np.searchsorted(np.cumsum(labelled), round(share * total)) + 1 if share else 0
        assert labelled[:level].sum() == round(share * total)
        assert reached == pytest.approx(1 - wrong[level:].sum() / labelled[level:].sum())
