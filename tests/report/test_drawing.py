"""The JavaScript of the page, run by the Node of Playwright, gives the results of Python."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import playwright
import pytest
from numpy.typing import NDArray
from PIL import Image

from nanograd.digits.deskew import Size, deskew
from nanograd.errors import UnreadableError
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.pictures import normalise
from nanograd.report.html import render
from nanograd.report.training_report import pack_model, page_code
from tests.helpers.drawings import Drawing, drawings, painted
from tests.helpers.models import some_net, some_reference

_NODE = Path(playwright.__file__).parent / "driver" / "node"
_RUN = """
const run = (each) => { try { return evaluate(each); } catch (error) { return error.message; } };
const plain = (value) => (typeof value === "string" ? value : Array.from(value));
process.stdout.write(JSON.stringify(values.map((each) => plain(run(each)))));
"""

Bytes = NDArray[np.uint8]


def run_in_node(expression: str, values: list[Any], before: str = "") -> list[Any]:
    """Return the value of an expression of `each` in the page's code, for each of `values`."""
    script = (
        f"{page_code()}\n{before}\nconst evaluate = (each) => {expression};\n"
        f"const values = {json.dumps(values)};\n{_RUN}"
    )
    done = subprocess.run([_NODE, "-"], input=script, capture_output=True, text=True, check=True)
    results: list[Any] = json.loads(done.stdout)
    return results


def as_json(picture: Image.Image) -> dict[str, Any]:
    data = np.asarray(picture).ravel().tolist()
    return {"width": picture.width, "height": picture.height, "data": data}


def normalise_in_page(pictures: list[Image.Image]) -> list[Any]:
    values = [as_json(picture) for picture in pictures]
    return run_in_node("normalise({...each, data: Uint8ClampedArray.from(each.data)})", values)


def assess_in_page(model: Model, images: Bytes) -> list[Any]:
    """Return ten probabilities and the unfamiliarity of each image."""
    return run_in_node(
        "((found) => [...found.probabilities, found.unfamiliarity])(assess(model, each))",
        images.tolist(),
        f"const model = unpack({json.dumps(json.dumps(pack_model(model)))});",
    )


def odd_drawings() -> list[Image.Image]:
    """Digits with a bar apart, in a box, and among dots."""
    stem = [(120.0, 60.0), (120.0, 180.0)]
    five = [[(90.0, 40.0), (160.0, 40.0)], [(95.0, 85.0), (95.0, 115.0), (150.0, 140.0)]]
    five[1] += [(140.0, 190.0), (90.0, 200.0)]
    box = [(40.0, 20.0), (200.0, 20.0), (200.0, 215.0), (40.0, 215.0), (40.0, 20.0)]
    seven = [(90.0, 70.0), (150.0, 70.0), (110.0, 170.0)]
    dots = [[(x, y), (x + 1, y)] for x in (20.0, 120.0, 220.0) for y in (15.0, 225.0)]
    strokes = [five, [box, seven], [box, stem], [seven, *dots], [box, seven, *dots]]
    return [painted(Drawing(5, each), pen) for each in strokes for pen in (7, 10, 14)]


@pytest.mark.parametrize("pen", [6, 18, 30, None])
def test_page_and_python_normalise_drawings_to_the_same_bytes(pen):
    pictures = [painted(each, pen) for each in drawings(2, seed=pen)] if pen else odd_drawings()

    in_page = normalise_in_page(pictures)

    wanted = [normalise.normalise(picture).ravel().tolist() for picture in pictures]
    differing = [place for place, (a, b) in enumerate(zip(in_page, wanted, strict=True)) if a != b]
    assert differing == []


def test_page_refuses_what_python_refuses():
    bar = [(60.0, 40.0), (60.0, 200.0)]
    two = Drawing(1, [bar, [(x + 110, y) for x, y in bar]])
    pictures = [painted(two), Image.new("L", (240, 240), 255)]

    in_page = normalise_in_page(pictures)

    assert [type(each) for each in in_page] == [str, str]
    for picture in pictures:
        with pytest.raises(UnreadableError):
            normalise.normalise(picture)


@pytest.mark.parametrize("size", [Size(), Size(height=5.3), Size(3.3, 5.7)])
def test_page_and_python_deskew_digits_to_the_same_bytes(sample, size):
    images = sample.test.images[:193]

    in_page = run_in_node(f"deskew(each, {size.width}, {size.height})", images.tolist())

    assert in_page == deskew(images, size).tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "unit"},
        {"name": "standard", "activation": "tanh"},
        {"name": "deskewed", "activation": "sigmoid", "loss": "mse"},
        {"name": "deskewed", "width": 3.0, "hidden": 1},
        {"name": "deskewed", "width": 3.5, "height": 5.5, "hidden": 7},
    ],
)
def test_page_and_python_compute_the_same_probabilities(sample, settings):
    nets = (some_net(**{"hidden": 37, "scale": 3, **settings}), some_net(37, seed=6, scale=3))
    model = Model(nets=nets, about={}, reference=some_reference())
    images = sample.test.images[:23]

    in_page = np.array(assess_in_page(model, images))

    expected = model.assess(images)
    np.testing.assert_allclose(in_page[:, :10], expected.probabilities, rtol=0, atol=1e-3)
    np.testing.assert_allclose(in_page[:, 10], expected.unfamiliarity, rtol=0, atol=1e-5)


def test_page_predicts_the_digits_that_python_predicts(run, sample):
    model, images = model_io.load(str(run / "model")), sample.test.images

    in_page = np.array(assess_in_page(model, images))

    assert np.array_equal(in_page[:, :10].argmax(axis=1), model.predict(images))


@pytest.mark.parametrize(
    ("hidden", "num_packed"), [([1200], 1), ([1250], 0), ([200] * 6, 6), ([700, 700], 1)]
)
def test_page_has_the_nets_that_fit_and_reports_the_others(hidden, num_packed):
    model = Model(nets=tuple(map(some_net, hidden)), about={}, reference=some_reference())

    packed = pack_model(model)

    section = render("draw.html", run=SimpleNamespace(model=model), packed=packed, code="")
    assert len(packed["nets"]) == num_packed
    assert ("<canvas" in section) == (num_packed > 0)
    assert ("is too large for a page" in section) == (num_packed == 0)
    assert (f"The page holds {num_packed} of" in section) == (0 < num_packed < len(hidden))


@pytest.mark.parametrize("scale", [0, 1e-6, 1, 1e6])
def test_weights_of_any_scale_are_stored_within_half_a_step(scale):
    net = some_net(3, scale=scale)
    packed = pack_model(Model(nets=(net,), about={}, reference=some_reference()))

    [weights] = run_in_node(
        "[...layer.numbers].map((number, place) => number * layer.steps[Math.floor(place / 784)])",
        [0],
        f"const [layer] = unpack({json.dumps(json.dumps(packed))}).nets[0].layers;",
    )

    half_a_step = np.abs(net.params.w1).max() / 32767 * 0.501
    np.testing.assert_allclose(weights, net.params.w1.T.ravel(), rtol=0, atol=half_a_step)
