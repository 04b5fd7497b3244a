"""Lines of digits as input of a prediction: each picture is in numbers or in quarantine."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import nanograd
from nanograd.console.preview import preview_rows
from nanograd.images.writers import NUMBERS, PLACE, QUARANTINE, WITHOUT_PROBABILITIES
from nanograd.jobs.part import wanted_rows
from nanograd.models import model as model_io
from nanograd.models.reference import UNFAMILIAR
from nanograd.numbers.recognise import read_numbers
from nanograd.pictures.decode import decode as decode_picture
from nanograd.report.review import Decisions, read_list
from nanograd.runtime.lease import exclusive
from nanograd.settings.specs import PictureOptions
from simulators.strings import Style, write
from tests.helpers.folders import untimed_contents
from tests.jobs.conftest import Case
from tests.jobs.test_kills import killed_at_each_write

SIDES = ("left", "top", "right", "bottom")


def write_line(case: Case, name: str, first: int, count: int, rows: int = 1) -> Path:
    """Write lines of digits below each other, as dark ink on light paper."""
    draw = np.random.default_rng(first)
    images = case.digits.images.reshape(-1, 28, 28)
    lines = [
        255 - write(images[first + count * row : first + count * (row + 1)], Style(), draw)
        for row in range(rows)
    ]
    width = max(line.shape[1] for line in lines)
    padded = [
        np.pad(line, ((10, 10), (0, width - line.shape[1])), constant_values=255) for line in lines
    ]
    file = case.folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(padded)).save(file)
    return file


@pytest.fixture
def pictures(case: Case) -> Case:
    """Three usable pictures, with four lines, and two others."""
    write_line(case, "ä 1.png", 0, 3)
    write_line(case, "b/2.png", 10, 5, rows=2)
    write_line(case, "b/3.png", 30, 1)
    Image.new("L", (200, 100), 240).save(case.folder / "blank.png")
    (case.folder / "c.png").write_bytes(b"no picture")
    return case


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])
def test_each_picture_is_in_numbers_or_in_quarantine(pictures, format_):
    figures = pictures.run(digits="many", format=format_)

    numbers, lost = pictures.read("numbers", NUMBERS), pictures.read("quarantine", QUARANTINE)
    digits = pictures.read("predictions", [*WITHOUT_PROBABILITIES, *PLACE])
    assert figures["rows"] == 5
    assert figures["predicted"] == 3
    assert figures["quarantined"] == len(lost) == 2
    lines = Counter(numbers["source_file"].to_pylist())
    assert {Path(name).name: count for name, count in lines.items()} == {
        "ä 1.png": 1, "2.png": 2, "3.png": 1,
    }  # fmt: skip
    texts = {(row["source_file"], row["line"]): row["text"] for row in numbers.to_pylist()}
    spelt: dict[tuple[str, int], str] = {}
    for row in digits.to_pylist():
        key = row["source_file"], row["line"]
        assert row["position"] == len(spelt.get(key, ""))
        spelt[key] = spelt.get(key, "") + str(row["prediction"])
    assert spelt == texts
    assert sum(figures["predicted_as"].values()) == len(digits)


def test_rows_are_the_numbers_of_the_api_and_shown_on_the_terminal(pictures):
    pictures.run(digits="many")
    first, *shown = preview_rows(str(pictures.out)).splitlines()
    model = model_io.load(pictures.model)
    rows = pictures.table("numbers").to_pylist()

    assert first.split() == ["picture", "number", "confidence"]
    texts = [row.rsplit("%", 1)[0].split()[-2] for row in shown if "%" in row]
    assert sorted(texts) == sorted(row["text"] for row in rows)
    assert sum(": " in row for row in shown) == 2
    for file in [*sorted(pictures.folder.rglob("[23].png")), pictures.folder / "ä 1.png"]:
        numbers = read_numbers(decode_picture(file.read_bytes(), PictureOptions()), model)
        found = [row for row in rows if row["source_file"] == str(file)]
        assert [row["text"] for row in found] == [number.text for number in numbers]
        assert [tuple(row[side] for side in SIDES) for row in found] == [
            number.box for number in numbers
        ]


def test_boxes_are_in_pixels_of_a_large_photo(pictures):
    for file in pictures.folder.rglob("*.png"):
        file.unlink()
    line = Image.open(write_line(pictures, "line.png", 10, 5))
    photo = Image.new("L", (4000, 3000), 255)
    photo.paste(line, (2600, 1900))
    photo.save(pictures.folder / "photo.jpg")
    (pictures.folder / "line.png").unlink()
    data = (pictures.folder / "photo.jpg").read_bytes()
    pictures.write("rows.parquet", {"image": pa.array([data], pa.binary())})

    pictures.run(digits="many")

    edges = np.array([2600, 1900, 2600 + line.width, 1900 + line.height])
    boxes = [[row[side] for side in SIDES] for row in pictures.table("numbers").to_pylist()]
    [number] = nanograd.read_numbers(pictures.folder / "photo.jpg")
    for box in (*boxes, number.box):
        assert np.abs(np.array(box) - edges).max() <= 25
    assert len(boxes) == 2


def test_report_shows_lines_and_counts_the_shares_of_digits_among_all_digits(pictures):
    figures = pictures.run(digits="many")

    page = (pictures.out / "report.html").read_text()

    lines = page.partition("<caption>Least certain lines</caption>")[2].partition("</table>")[0]
    texts = pictures.table("numbers").sort_by("confidence")["text"].to_pylist()
    assert re.findall(r'<th scope="row">(\d+)</th>', lines) == texts
    assert f"4 lines with {sum(map(len, texts))} digits" in page
    assert "accuracy" not in page.partition("</header>")[0]
    unfamiliarity = pictures.table()["unfamiliarity"].to_numpy()
    assert figures["unfamiliar"] == (unfamiliarity > UNFAMILIAR).sum()
    table = page.partition("<caption>Rows by digit</caption>")[2].partition("</table>")[0]
    shares = [float(each) for each in re.findall(r"<td>([\d.]+).%</td>", table)]
    assert len(shares) == 10
    assert sum(shares) == pytest.approx(100, abs=0.1)


def test_rows_per_file_limit_each_table(pictures):
    image = pa.array([b"no picture"] * 3, pa.binary())
    bad = [pictures.write(f"{n}.parquet", {"image": image[: n + 1]}) for n in range(3)]

    pictures.run(digits="many", rows_per_file=2)
    pictures.run(digits="many", rows_per_file=2, retry_quarantine=True)

    files = {each: [*(pictures.out / each).iterdir()] for each in ("numbers", "quarantine")}
    assert all(pq.read_metadata(file).num_rows <= 2 for each in files.values() for file in each)
    assert pictures.table("numbers").num_rows == 4
    assert pictures.table("quarantine").num_rows == 2 + sum(range(1 + len(bad)))


def test_killed_job_ends_with_the_same_bytes(pictures, tmp_path):
    (tmp_path / "saved").mkdir()
    settings = {"digits": "many", "rows_per_file": 4}
    pictures.run(**settings)
    expected = untimed_contents(pictures.out)

    for _ in killed_at_each_write(pictures, tmp_path / "saved", **settings):
        pictures.run(**settings)

        assert untimed_contents(pictures.out) == expected


def test_parts_have_few_pictures(case):
    """A stopped job repeats a part, and a picture takes up to a second."""
    for number in range(45):
        write_line(case, f"{number:02}.png", number, 2)

    many, one = (case.plan(digits=digits)[0].parts for digits in ("many", "one"))

    assert [part.num_rows for part in many] == [20, 20, 5]
    assert [part.num_rows for part in one] == [45]
    assert wanted_rows(1_000_000, has_numbers=True) == 400


def test_rows_of_tables_are_read_as_pictures_are_and_have_their_columns_to_keep(pictures):
    expected = pictures.run(digits="many"), pictures.table("numbers")
    files = sorted(pictures.folder.rglob("*.png"))
    data = [file.read_bytes() for file in files]
    columns = {"image": pa.array(data, pa.binary()), "text": [file.stem for file in files]}
    table = pictures.write("rows.parquet", {**columns, "line": ["x"] * len(files)})

    settings = {"keep": ("text", "line"), "review_share": 1.0, "overwrite": True}
    figures = pictures.run(table, digits="many", **settings)

    assert figures["predicted"] == expected[0]["predicted"] == 3
    values = ("line", "text", "confidence", *SIDES)
    assert pictures.table("numbers").select(values).equals(expected[1].select(values))
    rows = {name: pictures.table(name).to_pylist() for name in ("numbers", "predictions")}
    assert {row["input_text"] for row in rows["numbers"]} == {"ä 1", "2", "3"}
    assert {(row["input_line"], row["line"]) for row in rows["predictions"]} == {("x", 0), ("x", 1)}
    assert {row["input_text"] for row in pictures.table("quarantine").to_pylist()} == {"blank", "c"}
    output, listed = str(pictures.out), read_list(str(pictures.out))
    names = ("input_text", "source_row", "line", "position", "prediction")
    assert sorted(tuple(row[name] for name in names) for row in listed.to_pylist()) == sorted(
        tuple(row[name] for name in names) for row in rows["predictions"]
    )
    with exclusive(output) as lease:
        decisions = Decisions(output, listed, lease)
        for number, row in enumerate(listed.to_pylist()):  # the page says where each digit is
            place = f" · line: {row['line']} · position: {row['position']}"
            assert decisions.state(number)["place"].endswith(place)


@pytest.mark.parametrize(
    "columns",
    [{"label": ["12"], "Label": ["x"]}, {"digit": [[1, 2]]}, {"label": [b"12"], "digit": [7]}],
)
def test_columns_of_labels_have_no_effect(pictures, columns):
    image = (pictures.folder / "b" / "2.png").read_bytes()
    table = pictures.write("rows.parquet", {"image": pa.array([image], pa.binary()), **columns})

    figures = pictures.run(table, digits="many")

    assert (figures["predicted"], figures["numbers"], figures["labelled"]) == (1, 2, 0)
    assert not [each for each in pictures.messages if "label" in each]
