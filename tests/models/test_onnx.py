"""A model as an ONNX graph, run by onnxruntime: the scores of this program."""

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.errors import UsageError
from nanograd.models import model as model_io
from nanograd.models.model import Model, Net
from nanograd.models.onnx import graph
from nanograd.settings.specs import ExportSpec
from tests.helpers.models import some_model, some_net, some_reference
from tests.helpers.processes import run_python

net = partial(some_net, name="deskewed", scale=3)


def run_graph(model: Model, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return the probabilities and the unfamiliarity of images."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        graph(model), options, providers=["CPUExecutionProvider"]
    )
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
@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_graph_computes_what_the_model_computes(
    sample: Mnist, nets: list[Net], temperature: float
) -> None:
    model = Model(nets=tuple(nets), about={}, reference=some_reference(temperature))
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


def test_graph_names_its_input_and_output() -> None:
    proto = onnx.load_model_from_string(graph(some_model()))

    [images], outputs = proto.graph.input, proto.graph.output
    names = [each.name for each in (images, *outputs)]
    assert names == ["images", "probabilities", "unfamiliarity"]
    shapes = [
        [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in (images, *outputs)
    ]
    assert shapes == [["N", 28, 28], ["N", 10], ["N"]]
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_command_writes_the_graph_of_a_model_directory(tmp_path: Path) -> None:
    model = some_model()
    model_io.save(model, str(tmp_path / "model"))
    config = ExportSpec(model=str(tmp_path / "model"), output=str(tmp_path / "out" / "m.onnx"))

    figures = commands.export(spec=config).to_json()

    data = (tmp_path / "out" / "m.onnx").read_bytes()
    assert (figures["bytes"], figures["nets"]) == (len(data), 1)
    assert figures["params_sha256"] == model.params_sha256()
    assert data == graph(model)
    with pytest.raises(UsageError, match=r"must end in \.onnx"):
        ExportSpec(model="model", output="model.pt")


def test_missing_package_is_named(tmp_path: Path) -> None:
    model_io.save(some_model(), str(tmp_path / "model"))
    code = f"""
import sys
sys.modules["onnx"] = None
from nanograd.cli import main
main(["export", "--model", {str(tmp_path / "model")!r}, "--output", "m.onnx"])
"""

    done = run_python(code)

    assert done.returncode == 2
    assert "nanograd export needs the package onnx: pip install" in done.stderr
