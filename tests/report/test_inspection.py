import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

import nanograd
from nanograd import batch
from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, OutputExistsError, Reason, UnreadableError, UsageError
from nanograd.models import model
from nanograd.pictures import normalise
from nanograd.pictures.normalise import Candidate
from nanograd.report import sheet
from nanograd.report.sheet import Inspection
from nanograd.runtime.events import Event
from nanograd.settings.specs import InspectSpec
from simulators.strings import Style, write
from tests.helpers.models import some_model
from tests.helpers.sevens import bound, lit, pale_seven, squared, vignette

SEVEN = ((50, 50), (150, 50), (90, 160))


@pytest.fixture
def folder(tmp_path: Path, sample: Mnist) -> Path:
    """Return a folder with a drawing, an MNIST image, a blank picture and a broken file."""
    place = tmp_path / "in"
    place.mkdir()
    drawing = Image.new("RGB", (200, 180), "white")
    ImageDraw.Draw(drawing).line(SEVEN, fill="navy", width=12)
    ImageDraw.Draw(drawing).line(((5, 20), (9, 24)), fill="navy", width=3)
    drawing.save(place / "drawing.png")
    Image.fromarray(sample.test.images[0].reshape(28, 28)).save(place / "mnist.png")
    Image.new("L", (90, 60), 200).save(place / "blank.png")
    (place / "none.jpg").write_bytes(b"no picture")
    return place


@pytest.fixture
def model_directory(tmp_path: Path) -> str:
    model.save(some_model(), str(tmp_path / "model"))
    return str(tmp_path / "model")


def inspect(*inputs: Path, **settings: Any) -> tuple[dict[str, Any], Image.Image, list[str]]:
    events: list[Event] = []
    config = InspectSpec(**{"output": str(inputs[0].parent / "sheet.png"), **settings})
    figures = batch.inspect(
        [str(place) for place in inputs], spec=config, listener=events.append
    ).to_json()
    return figures, Image.open(config.output), [str(event) for event in events]


def test_result_has_prediction_or_reason_of_each_picture(folder, model_directory, sample):
    figures, _, _ = inspect(folder, model=model_directory)

    found = {Path(each["file"]).name: each for each in figures["results"]}
    [scores] = some_model().probabilities(sample.test.images[:1])
    expected = int(scores.argmax()), float(scores.max())
    assert (found["mnist.png"]["prediction"], found["mnist.png"]["confidence"]) == expected
    assert {name: each["reason"] for name, each in found.items()} == {
        "drawing.png": None, "mnist.png": None, "blank.png": "blank", "none.jpg": "broken_image",
    }  # fmt: skip
    assert found["blank.png"]["prediction"] is found["none.jpg"]["confidence"] is None
    assert (figures["pictures"], figures["read"], figures["refused"]) == (4, 2, 2)
    assert json.loads(json.dumps(figures)) == figures


def test_row_of_a_table_without_bytes_says_so(folder, tmp_path):
    data = (folder / "drawing.png").read_bytes()
    rows = [(data, "7.png"), (None, "a/7.png"), (None, None), (b"", None)]
    images = [dict(zip(("bytes", "path"), row, strict=True)) for row in rows]
    pq.write_table(pa.table({"image": images}), tmp_path / "rows.parquet")

    figures, _, _ = inspect(tmp_path / "rows.parquet")

    found = figures["results"]
    assert [each["reason"] for each in found] == [None, "no_bytes", "no_bytes", "empty"]
    assert "path instead of bytes, a/7.png; predict" in found[1]["detail"]


def test_column_that_the_message_asks_for_is_drawn(folder, tmp_path):
    """`predict` takes the same setting, so both see the same pictures."""
    data, table = (folder / "drawing.png").read_bytes(), tmp_path / "rows.parquet"
    paths = ["7.png", "7.png"]
    pq.write_table(pa.table({"scan": [data, data], "photo": [data, b""], "path": paths}), table)

    with pytest.raises(DataError, match="may be in scan or photo; choose with --image-column"):
        inspect(table)
    figures, _, _ = inspect(table, image_column="scan")

    assert (figures["read"], figures["refused"]) == (2, 0)
    figures, _, _ = inspect(table, image_column="path")
    assert {each["reason"] for each in figures["results"]} == {"no_bytes"}
    with pytest.raises(UsageError, match="--image-column has no effect"):
        inspect(folder, image_column="scan")


def test_sheet_shows_a_picture_in_which_no_number_is_read(tmp_path):
    shade = Image.fromarray(np.tile(np.arange(100, 200, dtype=np.uint8), (100, 1)))
    shade.save(tmp_path / "shade.png")

    figures, image, _ = inspect(tmp_path / "shade.png", digits="many")

    assert (figures["refused"], figures["results"][0]["reason"]) == (1, "blank")
    top = sheet.HEAD + sheet.NAME + sheet.CAPTION
    shown = image.crop((sheet.MARGIN, top, sheet.MARGIN + sheet.SIDE, top + sheet.SIDE))
    assert len(set(shown.convert("L").tobytes()).intersection(range(110, 190))) > 50


def test_sheet_has_the_exact_input_of_the_net(folder):
    _, image, _ = inspect(folder / "drawing.png")

    image_28 = normalise.normalise(Image.open(folder / "drawing.png"))
    left = sheet.MARGIN + (sheet.NUM_PANELS - 1) * (sheet.SIDE + 14) + 10
    top = sheet.HEAD + sheet.NAME + sheet.CAPTION + 10
    drawn = np.asarray(image.crop((left, top, left + 140, top + 140)).convert("L"))
    assert np.array_equal(drawn, np.kron(image_28, np.ones((5, 5), np.uint8)))


def test_picture_adds_a_row_and_another_model_changes_only_the_probabilities(
    folder, model_directory
):
    output = str(folder.parent / "sheet.png")
    _, image, _ = inspect(*sorted(folder.iterdir())[:2], output=output)
    _, first, _ = inspect(folder, output=output)
    first.load()

    _, second, _ = inspect(folder, model=model_directory, output=output)

    one, two = np.asarray(first), np.asarray(second)
    assert first.height - image.height > 2 * sheet.SIDE
    assert one.shape == two.shape
    assert np.array_equal(one[60:, :500], two[60:, :500])
    assert not np.array_equal(one[60:, 500:], two[60:, 500:])


def panels(picture: Image.Image) -> list[sheet.Panel | None]:
    steps = normalise.trace(picture)
    return sheet.draw_panels(Inspection(file="x", picture=picture, size=picture.size, steps=steps))


def has_orange(panel: sheet.Panel | None) -> bool:
    assert panel
    red, _, blue = np.asarray(panel.image, np.int16).transpose(2, 0, 1)
    return bool((red - blue > 80).any())


def test_panels_are_the_steps_that_were_reached(folder):
    def captions(picture: Image.Image) -> list[str | None]:
        return [panel and panel.caption for panel in panels(picture)]

    assert captions(Image.open(folder / "drawing.png")) == [
        "picture, 200 x 180", "paper removed", "all marks", "marks kept, orange: dropped",
        "stroke width adjusted", "28 x 28, input of the net",
    ]  # fmt: skip
    assert captions(Image.open(folder / "mnist.png"))[1:5] == [None] * 4
    assert captions(Image.open(folder / "blank.png"))[2:] == [None] * 4
    assert sheet.draw_panels(Inspection(file="x", steps=Candidate())) == [None] * sheet.NUM_PANELS
    dark_corners, on_squares = lit(pale_seven(), vignette(0.8)), squared(pale_seven(), 0.35)
    assert captions(dark_corners)[1] == "paper, light removed"
    assert captions(on_squares)[1] == "paper, lines removed"
    assert has_orange(panels(on_squares)[1])
    assert not has_orange(panels(dark_corners)[1])
    assert has_orange(panels(bound(pale_seven(), 0))[0])


def test_longest_bar_is_the_prediction_in_colour():
    probabilities = np.array([0, 0, 0.25, 0, 0, 0, 0, 0.75, 0, 0], np.float32)

    pixels = np.asarray(sheet.draw_probabilities(probabilities).image)

    blue = (pixels == sheet.BLUE).all(axis=2)
    rows = np.flatnonzero(blue.any(axis=1)) * 10 // sheet.SIDE
    whole = (pixels == sheet.PALE).all(axis=2)[8].sum()
    assert set(rows) == {7}
    assert blue.sum(axis=1).max() == pytest.approx(0.75 * whole, abs=2)


@pytest.mark.parametrize("text", ["", "m" * 500, "a b " * 200, "\udcff\n\0", "é … 中"])
def test_text_of_any_length_fits_and_is_drawn(text):
    refused = UnreadableError(Reason.BLANK, text)
    long = Inspection(file=text, steps=Candidate(refused=refused))

    assert Image.open(BytesIO(sheet.draw_sheet([long], text))).format == "PNG"
    assert sheet.load_font(15).getlength(sheet.shorten_text(text, 15, 200)) <= 200


def test_output_replaces_an_earlier_sheet_but_no_picture(folder):
    output, before = str(folder / "sheet.png"), (folder / "mnist.png").read_bytes()

    first, _, _ = inspect(folder / "mnist.png", output=output)
    again, _, said = inspect(folder, output=output, limit=3)

    # The sheet lies in the folder of its pictures and is none of them.
    assert (first["pictures"], again["pictures"], again["left_out"]) == (1, 3, 1)
    assert said == ["4 pictures; the sheet shows the first 3 (--limit)"]
    with pytest.raises(OutputExistsError, match=r"is not a sheet of this command"):
        inspect(folder, output=str(folder / "mnist.png"))
    assert (folder / "mnist.png").read_bytes() == before


def test_usage_errors_are_raised_before_anything_is_written(folder, tmp_path):
    (folder / "rows").mkdir()
    os.mkfifo(folder / "pipe")
    for inputs, settings, error in (
        (folder, {"output": str(tmp_path / "sheet.jpg")}, UsageError),
        (folder, {"formats": "svg"}, UsageError),
        (folder, {"model": str(tmp_path)}, DataError),
        (folder / "gone.png", {}, DataError),
        (folder / "pipe", {}, DataError),  # opening it would wait for a writer
        (folder / "rows", {}, DataError),
    ):
        with pytest.raises(error):
            inspect(inputs, **{"output": str(tmp_path / "sheet.png"), **settings})

    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_sheet_of_numbers_has_a_box_around_each_digit(tmp_path, sample):
    ink = write(sample.test.images[:3].reshape(3, 28, 28), Style(), np.random.default_rng(0))
    Image.fromarray(255 - np.pad(ink, 20)).save(tmp_path / "number.png")
    Image.new("L", (90, 60), 200).save(tmp_path / "blank.png")

    figures, image, _ = inspect(tmp_path / "blank.png", tmp_path / "number.png", digits="many")

    blank, read = figures["results"]
    assert (blank["reason"], blank["numbers"]) == ("blank", None)
    [line] = read["numbers"]
    [number] = nanograd.read_numbers(tmp_path / "number.png")
    assert (line["text"], line["confidence"]) == (number.text, number.confidence)
    top = image.height - 20 - 40 - ink.shape[0]
    drawn = np.asarray(image.convert("RGB")).astype(int)
    for digit in number.digits:
        left, upper, right, lower = digit.box
        corner = drawn[top + lower, sheet.MARGIN + right]
        assert tuple(corner) in (sheet.BLUE, sheet.RED)
        assert tuple(drawn[top + upper, sheet.MARGIN + left]) == tuple(corner)
