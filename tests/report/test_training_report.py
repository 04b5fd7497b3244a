import math
import re
import shutil
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError
from nanograd.models import model as model_io
from nanograd.nn import metrics
from nanograd.report import accuracy, training_report
from nanograd.runtime import json_files
from nanograd.runtime.events import count
from tests.helpers.models import some_net
from tests.helpers.reports import Page, check_page, confusion_cells


@pytest.fixture(scope="module")
def text(run: Path, few_digits: Mnist) -> str:
    return training_report.build(training_report.read_run(str(run)), few_digits.test).html


def test_report_is_one_small_file_with_accuracy_and_confusion_of_the_model(text, run, few_digits):
    model = model_io.load(str(run / "model"))
    predictions = model.probabilities(few_digits.test.images).argmax(axis=1)

    page = check_page(text)

    sections = {"learning", "draw", "digits", "confidence", "mistakes", "units"}
    assert sections < set(page.values("id"))
    accuracy = metrics.accuracy(predictions, few_digits.test.labels)
    assert f"{100 * accuracy:.2f} % of 193 test images" in page.text
    matrix = metrics.confusion_matrix(predictions, few_digits.test.labels, 10)
    assert confusion_cells(text) == matrix.ravel().tolist()
    assert model.params_sha256() in page.text
    last = training_report.read_run(str(run)).epochs[-1]
    assert f"{last['loss']:.5f}" in page.words


def test_failures_are_marked_and_listed(run, few_digits):
    events = [
        {"time": "2026-01-01T00:00:00Z", "event": "lost", "round": 7, "sentence": "1 failed"},
        {"time": "2026-01-01T00:00:01Z", "event": "mixed", "rank": 0, "sentence": "0 differs"},
        {"time": "2026-01-01T00:00:02Z", "event": "joined", "round": 8, "sentence": "1 joined"},
    ]
    finished = replace(training_report.read_run(str(run)), events=events)

    html = training_report.build(finished, few_digits.test.take(slice(0, 7))).html

    assert re.findall('circle class="(failed|joined|other)"', html) == ["failed", "joined"]
    assert all(event["sentence"] in Page(html).text for event in events)
    lost = replace(finished, epochs=[])  # metrics.jsonl is missing
    check_page(training_report.build(lost, few_digits.test.take(slice(0, 7))).html)


@pytest.mark.parametrize("value", ["x", None, [1], {}, -1, 0, math.nan, 10**400, "<missing>"])
@pytest.mark.parametrize("name", ["net", "epoch", "round", "loss", "val_accuracy", "images_per_s"])
def test_damaged_value_of_an_epoch_is_named_or_does_not_matter(
    run, few_digits, tmp_path, name, value
):
    folder = shutil.copytree(run, tmp_path / "run")
    first, second, *others = json_files.read_lines(str(folder / "metrics.jsonl"))
    second = {**second, name: value}
    if value == "<missing>":
        del second[name]
    data = json_files.encode_lines([first, second, *others])
    (folder / "metrics.jsonl").write_bytes(data)

    try:
        read = training_report.read_run(str(folder))
    except DataError as error:
        assert f"metrics.jsonl is damaged: line 2 has no usable {name!r}" in str(error)
    else:
        check_page(training_report.build(read, few_digits.test.take(slice(0, 7))).html)
        assert commands.compare(folder).runs == [str(folder)]
        assert value in (0, None, "<missing>")


@pytest.mark.parametrize("hidden", [1, 193])
def test_any_number_of_hidden_units_is_drawn(hidden):
    image, num_units = accuracy.draw_units(some_net(hidden).params)

    assert num_units == min(hidden, 60)
    assert f"weights of {count(num_units, 'hidden unit')} as" in image.alt
    picture = Image.open(BytesIO(b64decode(image.data))).convert("RGBA")
    # The largest weight of each unit is opaque, and its colour shows its sign.
    assert {colour[3] for _, colour in picture.getcolors()} >= {0, 255}
    assert {colour[:3] for _, colour in picture.getcolors()} == {(37, 99, 235), (217, 119, 6)}


def test_other_settings_of_a_run_are_shown_and_a_damaged_file_is_named(run, few_digits, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "config.toml").write_text("hidden = [1, 2]\npreset = ['fast']\ncolour = {a = 1}\n")

    assert "\nhidden  " in str(commands.compare([folder, run]))
    read = training_report.read_run(str(folder))
    check_page(training_report.build(read, few_digits.test.take(slice(0, 7))).html)
    (folder / "config.toml").write_text("hidden = [")
    with pytest.raises(DataError, match=r"config\.toml is not TOML"):
        training_report.read_run(str(folder))
