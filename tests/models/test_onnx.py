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
from tests.helpers.models import some_images, some_model, some_net, some_reference
from tests.helpers.processes import run_python

net = partial(some_net, name="deskewed", scale=3)


def run_graph(data: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    [scores] = session.run(["probabilities"], {"images": images.reshape(-1, 28, 28)})
    return np.asarray(scores)


@pytest.mark.parametrize("net", [net(37, name="unit"), net(37, width=3.5, loss="mse")])
def test_graph_computes_probabilities_and_unfamiliarity(sample: Mnist, net: Net) -> None:
    model = Model(nets=(net, some_net()), about={}, reference=some_reference())
    session = onnxruntime.InferenceSession(graph(model), providers=["CPUExecutionProvider"])
    images = np.concatenate(
        [sample.test.images[:193], some_images(7), np.zeros((1, 784), np.uint8)]
    )
    images[5] //= 9

    scores, unfamiliarity = session.run(
        ["probabilities", "unfamiliarity"], {"images": images.reshape(-1, 28, 28)}
    )

    expected = model.assess(images)
    np.testing.assert_allclose(scores, expected.probabilities, rtol=0, atol=1e-5)
    np.testing.assert_allclose(unfamiliarity, expected.unfamiliarity, rtol=0, atol=1e-5)
    assert 0.1 < np.median(unfamiliarity) < 0.9 < unfamiliarity[-1]


@pytest.mark.parametrize(
    "nets",
    [
        [net(37, name="unit")],
        [net(37, name="standard", activation="tanh")],
        [net(37, activation="sigmoid", loss="mse")],
        [net(193, width=3.5)],
        [net(7, width=3.5, height=5.5)],
        [net(37), net(37, seed=6, width=3), net(7, loss="mse", width=4, height=5)],
    ],
    ids=["unit", "standard", "deskewed", "width", "size", "ensemble"],
)
def test_graph_computes_the_scores_of_the_model(sample: Mnist, nets: list[Net]) -> None:
    model = Model(nets=tuple(nets), about={}, reference=some_reference(temperature=1.0))
    data, expected = graph(model), model.probabilities(sample.test.images)

    for count in (0, 1, 7, len(expected)):
        scores = run_graph(data, sample.test.images[:count])
        np.testing.assert_allclose(scores, expected[:count], rtol=0, atol=1e-5)

    assert scores.max() > 0.2  # far from uniform


def test_graph_deskews_unusual_images_like_the_model() -> None:
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (193, 784), dtype=np.uint8)
    images[::3] = np.where(draws.random((65, 784)) < 0.02, images[::3], 0)
    images[0], images[1], images[2] = 0, 255, 0
    images[2, 28 * 13 : 28 * 14] = 255  # ink in a single row
    nets = (net(37), net(37, seed=6, width=3.5, height=5.5))
    model = Model(nets=nets, about={}, reference=some_reference())

    scores = run_graph(graph(model), images)

    np.testing.assert_allclose(scores, model.probabilities(images), rtol=0, atol=1e-5)


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


def test_command_writes_the_graph_of_a_model_directory(tmp_path: Path, sample: Mnist) -> None:
    model = some_model()
    model_io.save(model, str(tmp_path / "model"))
    config = ExportSpec(model=str(tmp_path / "model"), output=str(tmp_path / "out" / "m.onnx"))

    figures = commands.export(spec=config).to_json()

    data = (tmp_path / "out" / "m.onnx").read_bytes()
    assert (figures["bytes"], figures["nets"]) == (len(data), 1)
    assert figures["params_sha256"] == model.params_sha256()
    images = sample.test.images[:19]
    np.testing.assert_allclose(run_graph(data, images), model.probabilities(images), atol=1e-5)


def test_another_ending_is_refused() -> None:
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
