"""A model as an ONNX graph, run by onnxruntime: the scores of this program."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from nanograd import commands
from nanograd.config.command_configs import ExportConfig
from nanograd.data.mnist import Mnist
from nanograd.digits.preparation import Preparation
from nanograd.errors import UsageError
from nanograd.models import model as model_io
from nanograd.models.model import Model, Net
from nanograd.models.onnx import graph
from nanograd.nn.mlp import Architecture, init_params


def some_net(
    seed: int, *, size: tuple[float, float] = (0.0, 0.0), pixels: str = "deslanted", **shape: Any
) -> Net:
    settings = {"hidden": 37, "activation": "relu", "loss": "cross_entropy", **shape}
    architecture = Architecture(inputs=784, classes=10, **settings)
    params = init_params(architecture, seed)
    # Weights and biases as large as training makes them: scores far from one tenth.
    params.vector[:] = 3 * params.vector + np.float32(0.01)
    return Net(
        params=params,
        preparation=Preparation(name=pixels, width=size[0], height=size[1]),
    )


def run_graph(data: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    [scores] = session.run(["scores"], {"images": images.reshape(-1, 28, 28)})
    return np.asarray(scores)


@pytest.mark.parametrize(
    "nets",
    [
        [some_net(0, pixels="unit")],
        [some_net(1, pixels="standard", activation="tanh")],
        [some_net(2, pixels="deslanted", activation="sigmoid", loss="mse")],
        [some_net(3, size=(3.5, 0), hidden=193)],
        [some_net(7, size=(3.5, 5.5), hidden=7)],
        [some_net(4), some_net(5, size=(3, 0)), some_net(6, size=(4, 5), hidden=7, loss="mse")],
    ],
    ids=["unit", "standard", "deslanted", "width", "size", "ensemble"],
)
def test_graph_computes_the_scores_of_the_model(sample: Mnist, nets: list[Net]) -> None:
    model = Model(nets=tuple(nets), about={})
    data, expected = graph(model), model.scores(sample.test.images)

    for count in (0, 1, 7, len(expected)):
        scores = run_graph(data, sample.test.images[:count])
        np.testing.assert_allclose(scores, expected[:count], rtol=0, atol=1e-5)

    assert scores.max() > 0.5


def test_graph_deskews_unusual_images_like_the_model() -> None:
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (193, 784), dtype=np.uint8)
    images[::3] = np.where(draws.random((65, 784)) < 0.02, images[::3], 0)
    images[0], images[1], images[2] = 0, 255, 0
    images[2, 28 * 13 : 28 * 14] = 255  # ink in a single row
    model = Model(nets=(some_net(0), some_net(1, size=(3.5, 5.5))), about={})

    scores = run_graph(graph(model), images)

    np.testing.assert_allclose(scores, model.scores(images), rtol=0, atol=1e-5)


def test_graph_names_its_input_and_output() -> None:
    proto = onnx.load_model_from_string(graph(Model(nets=(some_net(0),), about={})))

    [images], [scores] = proto.graph.input, proto.graph.output
    assert (images.name, scores.name) == ("images", "scores")
    shapes = [
        [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in (images, scores)
    ]
    assert shapes == [["N", 28, 28], ["N", 10]]
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_command_writes_the_graph_of_a_model_directory(tmp_path: Path, sample: Mnist) -> None:
    model = Model(nets=(some_net(0),), about={})
    model_io.save(model, str(tmp_path / "model"))
    config = ExportConfig(model=str(tmp_path / "model"), output=str(tmp_path / "out" / "m.onnx"))

    figures = commands.export_model(config)

    data = (tmp_path / "out" / "m.onnx").read_bytes()
    assert (figures["bytes"], figures["nets"]) == (len(data), 1)
    assert figures["params_sha256"] == model.params_sha256()
    images = sample.test.images[:19]
    np.testing.assert_allclose(run_graph(data, images), model.scores(images), atol=1e-5)


def test_another_ending_is_refused() -> None:
    with pytest.raises(UsageError, match=r"must end in \.onnx"):
        ExportConfig(model="model", output="model.pt")


def test_missing_package_is_named(tmp_path: Path) -> None:
    model_io.save(Model(nets=(some_net(0),), about={}), str(tmp_path / "model"))
    code = f"""
import sys
sys.modules["onnx"] = None
from nanograd.cli import main
main(["export", "--model", {str(tmp_path / "model")!r}, "--output", "m.onnx"])
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "nanograd export needs the package onnx: pip install" in done.stderr
