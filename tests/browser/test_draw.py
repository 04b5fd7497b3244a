import json
import re
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from nanograd import batch
from nanograd.models import model as model_io
from nanograd.pictures import normalise
from tests.helpers.drawings import Drawing, drawings
from tests.helpers.pages import opened

_CLASSIFY = "(() => { try { return JSON.stringify(nanograd.classify(), (_, value) => "
_CLASSIFY += "ArrayBuffer.isView(value) ? Array.from(value) : value) } catch { return '{}' } })()"


@pytest.fixture(scope="module")
def page(browser: Browser, address: str) -> Iterator[Page]:
    with opened(browser, address, viewport={"width": 390, "height": 844}, offline=True) as page:
        page.wait_for_function("window.nanograd")
        yield page


def draw(page: Page, drawing: Drawing) -> None:
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    assert box
    scale = box["width"] / 240
    for stroke in drawing.strokes:
        (x, y), *rest = [(box["x"] + scale * x, box["y"] + scale * y) for x, y in stroke]
        page.mouse.move(x, y)
        page.mouse.down()
        for x, y in rest:
            page.mouse.move(x, y)
        page.mouse.up()
    page.evaluate("new Promise(requestAnimationFrame)")


def pad(page: Page) -> Image.Image:
    to_array = "({width, height, data}) => ({width, height, data: Array.from(data)})"
    drawn = page.evaluate(f"({to_array})(nanograd.padPixels())")
    pixels = np.array(drawn["data"], np.uint8).reshape(drawn["height"], drawn["width"])
    return Image.fromarray(pixels)


def test_page_classifies_drawings_as_python_does(page, run):
    model = model_io.load(str(run / "model"))
    images, in_page = [], []
    # The flag of this five is along the border.
    five = [(72.0, 48.0), (72.0, 120.0), (144.0, 132.0), (156.0, 192.0), (72.0, 228.0)]
    at_border = Drawing(5, [five, [(86.0, 1.5), (192.0, 1.5)]])

    for drawing in [at_border, *islice(drawings(1, seed=3), 3, 6)]:
        page.click("#clear")
        draw(page, drawing)
        in_page.append(json.loads(page.evaluate(_CLASSIFY)))
        images.append(normalise.normalise(pad(page)).ravel())

    assert [each["image"] for each in in_page] == [image.tolist() for image in images]
    for name, expected in model.assess(np.stack(images))._asdict().items():
        found = [each[name] for each in in_page]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_verdict_says_what_is_no_digit(page):
    [seven] = [each for each in drawings(1, seed=3) if each.label == 7]
    dot, two = [[(120.0, 120.0)]], [[(60.0, 40.0), (60.0, 200.0)], [(180.0, 40.0), (180.0, 200.0)]]
    for strokes, verdict, words in (
        (seven.strokes, "", "The net predicts"),
        (dot, "?", "No digit?"),
        (two, "\u2013", "Several digits"),
        ([], "\u2013", "Draw a digit"),
    ):
        page.click("#clear")

        draw(page, Drawing(0, strokes))

        expect(page.locator("#status")).to_contain_text(words)
        expect(page.locator("#verdict")).to_contain_text(verdict)


def test_kept_drawings_are_saved_with_their_labels(page, tmp_path):
    wanted = list(drawings(1, seed=4))[:4]
    for number, drawing in enumerate(wanted, 1):
        page.click("#clear")
        draw(page, drawing)
        page.click(f"[data-label='{drawing.label}']")
        expect(page.locator("#save")).to_have_text(re.compile(rf"Save {number} drawings?"))

    with page.expect_download() as saved:
        page.click("#save")

    saved.value.save_as(tmp_path / "drawings.zip")
    done = batch.ingest(tmp_path / "drawings.zip", output=tmp_path / "rows")
    assert done.ingested == done.labelled == len(wanted)
    labels = pq.read_table(tmp_path / "rows")["label"].to_pylist()
    assert sorted(labels) == sorted(drawing.label for drawing in wanted)
