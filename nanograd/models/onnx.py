"""ONNX export: a graph that computes the probabilities and the unfamiliarity of images.

The graph includes pixel preparation, deskewing and the average over an ensemble. It does the
operations of this package in the same order, so the inputs of the nets have the same bits.

References:
    ONNX, "Open Neural Network Exchange intermediate representation (ONNX IR)" and "Operator
    schemas", opset 18.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nanograd import __version__
from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS, SIDE
from nanograd.digits.deskew import MAX_SLANT, MAX_STRETCH, MONOMIALS, ROW
from nanograd.digits.preparation import Preparation, affine
from nanograd.models.model import Model
from nanograd.models.reference import FAINT, INNER, LEAST_SCORE, Reference

OPSET = 18
_IR_VERSION = 9  # of onnx 1.14 (2023), which reads opset 18
_ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
_OPERATORS: dict[np.ufunc, str] = {
    **{np.add: "Add", np.subtract: "Sub", np.multiply: "Mul", np.divide: "Div", np.power: "Pow"},
    **{np.maximum: "Max", np.floor: "Floor", np.rint: "Round", np.sqrt: "Sqrt"},
}
_COLUMNS = np.array([1])  # the axis of columns

# A _Value. It is typed as Any, because the types of numpy's functions allow only arrays.
Value: TypeAlias = Any


def graph(model: Model) -> bytes:
    """Convert a model to the bytes of an `.onnx` file.

    The input `images` is (N, 28, 28) uint8, sized and centred as in MNIST, ink 255 on 0. The
    outputs are `probabilities`, (N, 10) float32, and `unfamiliarity`, (N,) float32, in [0, 1].
    """
    build = _Builder()
    images = build("Reshape", _Value(build, "images"), np.array([-1, NUM_PIXELS]))
    pixels = [_deskew(build, net.preparation, images) for net in model.nets]
    scores = list[Value]()
    for net, each in zip(model.nets, pixels, strict=True):
        params, architecture = net.params, net.architecture
        factor, offset = map(np.float32, affine(net.preparation))
        z1 = build("Gemm", each * factor + offset, params.w1, params.b1)
        z2 = build("Gemm", build(_ACTIVATIONS[architecture.activation], z1), params.w2, params.b2)
        if architecture.loss == "mse":
            # The operator Sigmoid of onnxruntime has no values below 1.5e-8.
            one = np.float32(1)
            scores.append(one / (build("Exp", build("Neg", z2)) + one))
        else:
            scores.append(build("Softmax", z2, axis=1))
    mean = scores[0] if len(scores) == 1 else build("Mean", *scores)
    best = build("ArgMax", mean, axis=1, keepdims=0)
    _measure_unfamiliarity(build, model.reference, pixels[0], best)
    # As `to_probabilities`.
    shares = np.maximum(mean, LEAST_SCORE)
    shares = shares / build("ReduceMax", shares, _COLUMNS)
    powers = shares ** np.float32(1 / model.reference.temperature)
    build("Div", powers, build("ReduceSum", powers, _COLUMNS), output="probabilities")
    value, number = helper.make_tensor_value_info, TensorProto.FLOAT
    inputs = [value("images", TensorProto.UINT8, ["N", SIDE, SIDE])]
    outputs = [value("probabilities", number, ["N", NUM_CLASSES])]
    outputs.append(value("unfamiliarity", number, ["N"]))
    proto = helper.make_model(
        helper.make_graph(build.nodes, "nanograd", inputs, outputs, build.constants),
        producer_name="nanograd",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
    )
    helper.set_model_props(proto, {"params_sha256": model.params_sha256()})
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


class _Builder:
    """Nodes and constants of a graph, numbered in order of creation."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *inputs: Any, output: str = "", **attributes: Any) -> Value:
        """Add a node, and the constants among its inputs; return its value."""
        names, output = [], output or f"v{len(self.nodes)}"
        for each in inputs:
            names.append(each.name if isinstance(each, _Value) else f"c{len(self.constants)}")
            if not isinstance(each, _Value):
                self.constants.append(numpy_helper.from_array(np.asarray(each), names[-1]))
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return _Value(self, output)


@dataclass
class _Value(NDArrayOperatorsMixin):
    """A value in the graph; functions and operators of numpy add nodes."""

    build: _Builder
    name: str

    def __array_ufunc__(self, function: np.ufunc, _: str, *inputs: Any) -> Value:
        return self.build(_OPERATORS[function], *inputs)


def _deskew(build: _Builder, preparation: Preparation, images: Value) -> Value:
    """Deskew as `digits.deskew`: (N, 784) uint8 to (N, 784) float32."""
    pixels = build("Cast", images, to=TensorProto.FLOAT)
    if preparation.name != "deskewed":
        return pixels
    exact = build("Cast", images, to=TensorProto.DOUBLE)
    mass, sum_x, sum_y, sum_xx, sum_xy, sum_yy = (
        build("MatMul", exact, monomial[:, None]) for monomial in MONOMIALS.T
    )
    mass = np.maximum(mass, np.float64(1))
    mean_x, mean_y = sum_x / mass, sum_y / mass
    spread_y, covariance = sum_yy - sum_y * mean_y, sum_xy - sum_x * mean_y
    slant = covariance / np.maximum(spread_y, np.float64(1))
    slant = build("Clip", slant, np.float64(-MAX_SLANT), np.float64(MAX_SLANT))
    spread_x = sum_xx - sum_x * mean_x - slant * covariance

    def scale(distance: NDArray[np.int64], spread: Value, target: float) -> Value:
        constant = distance.astype(np.float64)
        if not target:
            return constant
        deviation = np.sqrt(np.maximum(spread, np.float64(0)) / mass)
        limits = np.float64(1 / MAX_STRETCH), np.float64(MAX_STRETCH)
        return build("Clip", deviation / np.float64(target), *limits) * constant

    row, column = np.divmod(np.arange(NUM_PIXELS), SIDE)
    beside = scale(column - SIDE // 2, spread_x, preparation.width)
    down = scale(row - SIDE // 2, spread_y, preparation.height)
    # Interpolate each image at (x, y); pixels outside the image are 0.
    x, y = (
        build("Clip", build("Cast", each, to=TensorProto.FLOAT), np.float32(-1), np.float32(SIDE))
        + np.float32(1)
        for each in (mean_x + beside + slant * down, mean_y + down)
    )
    margins = np.array([0, 1, 1, 0, ROW - SIDE - 1, ROW - SIDE - 1])
    padded = build("Pad", build("Reshape", pixels, np.array([-1, SIDE, SIDE])), margins)
    flat = build("Reshape", padded, np.array([-1, ROW * ROW]))
    left, top = np.floor(x), np.floor(y)
    first = build("Cast", top * np.float32(ROW) + left, to=TensorProto.INT64)
    a, b, c, d = (
        build("GatherElements", flat, first + np.int64(step), axis=1)
        for step in (0, 1, ROW, ROW + 1)
    )
    above, below = (b - a) * (x - left) + a, (d - c) * (x - left) + c
    return np.rint((below - above) * (y - top) + above)


def _measure_unfamiliarity(
    build: _Builder, reference: Reference, pixels: Value, best: Value
) -> None:
    """Compute `Reference.unfamiliarity` from (N, 784) float32 deskewed pixels and best classes."""
    brightest = np.maximum(build("ReduceMax", pixels, _COLUMNS), np.float32(1))
    stretched = pixels * (np.float32(255) / brightest)
    means = reference.means.astype(np.float32)
    z = stretched - build("Gather", means, best)
    # Compute the products with the directions of all classes, then select the class `best`.
    directions = reference.directions.astype(np.float32)
    offsets = np.einsum("ckp,cp->ck", directions, means[:, INNER])
    inner = build("Gather", stretched, INNER, axis=1)
    products = build("MatMul", inner, directions.reshape(-1, len(INNER)).T) - offsets.reshape(-1)
    weighted = products * products * reference.weights.reshape(-1)
    weighted = build("Reshape", weighted, np.array([-1, *reference.weights.shape]))
    along = build("ReduceSum", weighted, np.array([2]), keepdims=0)
    column = build("Unsqueeze", best, _COLUMNS)
    residual = build("ReduceSumSquare", z, _COLUMNS) * build("Gather", reference.scales, column)
    distance = residual + build("GatherElements", along, column, axis=1)
    fourth = np.maximum(distance, FAINT / brightest) ** np.float32(4)
    build("Squeeze", fourth / (fourth + np.float32(1)), _COLUMNS, output="unfamiliarity")
