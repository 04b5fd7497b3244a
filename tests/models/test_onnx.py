import sys
from functools import partial

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from nanograd import commands
from nanograd.errors import UsageError
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.models.onnx import graph
from tests.helpers.models import some_model, some_net, some_reference

net = partial(some_net, name="deskewed", scale=3)


def run_graph(model: Model, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(graph(model), providers=["CPUExecutionProvider"])
    names = ["probabilities", "unfamiliarity"]
    return list(session.run(names, {"images": images.reshape(-1, 28, 28)}))


def unusual_images() -> NDArray[np.uint8]:
    """Noise, sparse noise, a blank and a full image, and ink in a single row."""
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (193, 784), dtype=np.uint8)
    images[::3] = np.where(draws.random((65, 784)) < 0.02, images[::3], 0)
    images[0], images[1], images[2] = 0, 255, 0
    images[2, 28 * 13 : 28 * 14] = 255
    return images


@pytest.mark.parametrize(
    "nets",
    [
        [net(37, name="unit"), some_net()],
        [net(37, name="standard", activation="tanh")],
        [net(37, activation="sigmoid", loss="mse")],
        [net(193, width=3.5)],
        [net(7, width=3.5, height=5.5)],
        [net(37), net(37, seed=6, width=3), net(7, loss="mse", width=4, height=5)],
    ],
    ids=["unit", "standard", "deskewed", "width", "size", "ensemble"],
)
def test_graph_computes_what_the_model_computes(sample, nets):
    model = Model(nets=tuple(nets), about={}, reference=some_reference(1.3))
    digits = sample.test.images[:193].copy()
    digits[5] //= 9
    images = np.concatenate([digits, unusual_images()])
    expected = model.assess(images)

    for part in (slice(0), slice(1), slice(None)):
        found = run_graph(model, images[part])
        np.testing.assert_allclose(found[0], expected.probabilities[part], rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[1], expected.unfamiliarity[part], rtol=0, atol=1e-5)
    assert expected.probabilities.max() > 0.2  # far from uniform
    assert 0.1 < np.median(expected.unfamiliarity[:193]) < 0.9 < expected.unfamiliarity[193]


def test_graph_computes_small_scores_of_a_squared_error(sample):
    # A net with few training images has small scores and a high temperature.
    weak = net(37, activation="sigmoid", loss="mse")
    weak.params.b2[:] -= np.linspace(12, 48, 10, dtype=np.float32)
    model = Model(nets=(weak,), about={}, reference=some_reference(5.0))
    images = sample.test.images[:193]

    found = run_graph(model, images)

    expected = model.assess(images)
    np.testing.assert_allclose(found[0], expected.probabilities, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[1], expected.unfamiliarity, rtol=0, atol=1e-5)


def test_command_writes_the_graph_of_a_model_directory(tmp_path, monkeypatch):
    model, place, file = some_model(), tmp_path / "model", tmp_path / "out" / "m.onnx"
    model_io.save(model, str(place))

    done = commands.export(place, file)

    data = file.read_bytes()
    assert (done.bytes, done.nets) == (len(data), 1)
    assert done.params_sha256 == model.params_sha256()
    assert data == graph(model)
    with pytest.raises(UsageError, match=r"must end in \.onnx"):
        commands.export(place, "model.pt")
    monkeypatch.setitem(sys.modules, "nanograd.models.onnx", None)
    with pytest.raises(UsageError, match="needs the package onnx: pip install"):
        commands.export(place, file)
