"""Decisions about rows of a review list: outputs that are refused, and later predictions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd import batch, commands
from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, NanogradError, OutputExistsError
from nanograd.models import model as model_io
from nanograd.report.review import Decisions, read_list
from nanograd.settings.specs import DataExportSpec
from tests.helpers.folders import contents
from tests.helpers.models import some_ensemble
from tests.helpers.reviews import corrections, predict

ROWS = 13


class Held:
    is_lost = False

    def check(self) -> None:
        if self.is_lost:
            raise OutputExistsError("another process took it over")


def open_decisions(output: str, lease: Any = None) -> Decisions:
    return Decisions(output, read_list(output), lease or Held())


def test_lost_lease_or_end_saves_nothing_more(output):
    lease = Held()
    decisions = open_decisions(output, lease)
    assert decisions.decide(0, 7)
    before = contents(Path(output))

    lease.is_lost = True
    for change in (lambda: decisions.decide(1, 7), lambda: decisions.undo(0)):
        with pytest.raises(NanogradError):
            change()
    lease.is_lost = False
    assert decisions.close()["reviewed"] == 1
    with pytest.raises(NanogradError):
        decisions.decide(1, 7)

    assert contents(Path(output)) == before
    assert decisions.state()["row"] == 1


def no_output(output: str) -> None:
    for file in Path(output).rglob("*"):
        if file.is_file():
            file.unlink()


def other_command(output: str) -> None:
    commands.export_data(DataExportSpec(data="sample", output=f"{output}/../png"))
    no_output(output)
    for each in sorted(Path(output).iterdir(), reverse=True):
        each.rmdir()
    batch.ingest(f"{output}/../png/7", output=output)


def other_table(name: str) -> Callable[[str], None]:
    return lambda output: pq.write_table(pa.table({"label": [7]}), f"{output}/{name}")


def cut(name: str) -> Callable[[str], None]:
    def change(output: str) -> None:
        data = Path(f"{output}/_review.pq").read_bytes()
        Path(f"{output}/{name}").write_bytes(data[: len(data) // 2] + data[-8:])

    return change


REFUSED: dict[str, tuple[Callable[[str], Any], str]] = {
    "an empty folder": (no_output, "is not an output of nanograd predict; check the path"),
    "another command": (other_command, "was written by ingest; only predictions"),
    "not finished": (lambda out: Path(f"{out}/_SUCCESS").unlink(), "is not finished; start"),
    "no list": (lambda out: Path(f"{out}/_review.pq").unlink(), "_review.pq does not exist; start"),
    "another list": (other_table("_review.pq"), "_review.pq is damaged, or another program"),
    "a damaged list": (cut("_review.pq"), "_review.pq is damaged, or another program"),
    "other corrections": (other_table("_corrections.pq"), "_corrections.pq is damaged, or another"),
    "damaged corrections": (cut("_corrections.pq"), "_corrections.pq is damaged, or another"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_output_that_cannot_be_reviewed_is_refused_as_it_is(output, nanograd, name):
    change, words = REFUSED[name]
    change(output)
    before = contents(Path(output))

    done = nanograd("review", output, "--no-browser")

    assert done.code == DataError.exit_code, done.stderr
    assert words in done.last["reason"]
    assert output in done.last["reason"]
    assert "\n" not in done.last["reason"]
    assert contents(Path(output)) == before


@pytest.mark.parametrize("name", ["nowhere", "nowhere/read", "in", "out/_review.pq"])
def test_place_that_is_no_output_is_refused_and_not_made(output, nanograd, tmp_path, name):
    before = contents(tmp_path)

    done = nanograd("review", str(tmp_path / name), "--no-browser")

    assert done.code == DataError.exit_code, done.stderr
    assert str(tmp_path / name) in done.last["reason"]
    assert contents(tmp_path) == before
    assert (tmp_path / name).exists() == (name in ("in", "out/_review.pq"))


def test_empty_list_ends_without_a_page(sample, tmp_path, nanograd):
    output = predict(sample.test.take(slice(0, ROWS)), tmp_path, review_share=0.02, review_below=0)

    done = nanograd("review", output)

    assert (done.code, done.last["rows"], done.last["corrections"]) == (0, 0, None)
    assert "nothing to review" in done.stderr
    assert batch.review(output).to_json()["rows"] == 0


def test_later_predictions_are_complete_and_keep_the_decisions(output, sample, tmp_path):
    decisions = open_decisions(output)
    for row in range(5):
        decisions.decide(row, row)
    saved, whole = corrections(output), contents(Path(output))

    predict(sample.test.take(slice(0, ROWS)), tmp_path)
    assert contents(Path(output)) == whole
    predict(sample.test.take(slice(0, ROWS + 7)), tmp_path)  # another file
    grown = open_decisions(output)
    model_io.save(some_ensemble(), str(tmp_path / "other"))
    more = {"model": str(tmp_path / "other"), "overwrite": True, "no_probabilities": True}
    predict(sample.test.take(slice(0, ROWS)), tmp_path, **more)
    replaced = open_decisions(output)

    assert corrections(output) == saved
    assert (Path(output) / "_SUCCESS").exists()
    for after in (grown, replaced):
        state = after.state()
        assert (len(after), state["decided"]) == (2 * ROWS + 7, 5)
        rows = [row for row in range(len(after)) if after.state(row)["row"] != row]
        listed = read_list(output).to_pylist() if after is replaced else None
        if listed:
            keys = {(each["source_file"], each["source_row"]) for each in saved}
            assert {(listed[n]["source_file"], listed[n]["source_row"]) for n in rows} == keys
    assert replaced.state()["probabilities"] is None
    assert len(grown.state()["probabilities"]) == 10
    assert replaced.undo(replaced.state()["last"])
    assert corrections(output) == saved[:-1]


def test_row_with_another_picture_is_to_decide_again(output, sample, tmp_path):
    decisions = open_decisions(output)
    for row in range(ROWS):
        decisions.decide(row, 7)
    file = tmp_path / "in" / f"{ROWS}.parquet"
    table = pq.read_table(file)
    images = [sample.test.images[500].tobytes(), *table["image"].to_pylist()[1:]]
    pq.write_table(pa.table({"image": images}), file)

    predict(sample.test.take(slice(0, ROWS)), tmp_path, sync=True)

    state = open_decisions(output).state()
    assert (state["decided"], state["row"] is not None) == (ROWS - 1, True)
    assert "row 0" in state["place"]


@pytest.fixture
def predict_with(output: str, tmp_path: Path, sample: Mnist) -> Callable[[pa.Array], Decisions]:
    """Predict again with a column to keep, `id`, and open the decisions."""

    def run(column: Any) -> Decisions:
        file = tmp_path / "in" / f"{ROWS}.parquet"
        images = pq.read_table(file, columns=["image"])
        pq.write_table(images.append_column("id", pa.array(column)), file)
        predict(sample.test.take(slice(0, ROWS)), tmp_path, keep=("id",), overwrite=True)
        return open_decisions(output)

    return run


def test_decisions_have_the_columns_to_keep(output, predict_with):
    open_decisions(output).decide(0, 7)  # of a list without them
    decisions = predict_with([f"id {n}" for n in range(ROWS)])
    state = decisions.state()

    assert decisions.decide(state["row"], 3)

    listed = read_list(output).slice(state["row"], 1).to_pylist()[0]
    first, second = corrections(output)
    assert (first["id"], first["label"]) == (None, 7)
    assert (second["id"], second["label"]) == (listed["id"], 3)
    assert listed["id"] == f"id {listed['source_row']}"
    assert state["place"].endswith(f"row {listed['source_row']} · id: {listed['id']}")
    with pytest.raises(DataError, match=r"_corrections.pq has columns .*id.*; move it to another"):
        predict_with(range(ROWS))  # another type


@pytest.mark.parametrize(
    ("type_", "value"),
    [(pa.date32(), 2**30), (pa.timestamp("ms", "Mars/X"), 0), (pa.time64("ns"), 1)],
    ids=str,
)
def test_value_that_python_lacks_is_kept_by_decisions_and_leaves_the_report_complete(
    type_, value, output, predict_with
):
    column = pa.array([value] * ROWS, type_)
    decisions = predict_with(column)

    assert "id: " in decisions.state(0)["place"]
    assert decisions.decide(0, 7)
    assert decisions.decide(1, None)

    saved = pq.read_table(f"{output}/_corrections.pq")
    assert saved["id"].combine_chunks().equals(column[:2])
    assert saved["label"].to_pylist() == [7, None]
    assert (Path(output) / "report.html").exists()
