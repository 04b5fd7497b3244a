"""ONNX export: a graph that computes the probabilities and the unfamiliarity of images.

The graph includes pixel preparation, deskewing and the average over an ensemble. It has the
operations of this package in the same order, so that the inputs of the nets have the same bits.

References:
    ONNX, "Open Neural Network Exchange intermediate representation (ONNX IR)" and "Operator
    schemas", opset 18.
"""

from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nanograd import __version__
from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS, SIDE
from nanograd.digits.deskew import MAX_SLANT, MAX_STRETCH, MONOMIALS
from nanograd.digits.preparation import Preparation, affine
from nanograd.digits.resample import ROW
from nanograd.models.model import Model, Net
from nanograd.models.reference import FAINT, INNER, LEAST_SCORE, Reference
from nanograd.runtime.arrays import Ints

OPSET = 18
_IR_VERSION = 9  # of onnx 1.14 (2023), which reads opset 18
_ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}

_COLUMNS = np.array([1])  # the axis of columns

# An input of an operator: the name of a value in the graph, or a constant.
Operand: TypeAlias = str | NDArray[Any] | np.generic


def graph(model: Model) -> bytes:
    """Convert a model to the bytes of an `.onnx` file.

    The input `images` is (N, 28, 28) uint8, ink 255 on 0, in the form of MNIST. The outputs are
    `probabilities`, (N, 10) float32, and `unfamiliarity`, (N,) float32, both in [0, 1].
    """
    build = _Builder()
    images = build("Reshape", "images", np.array([-1, NUM_PIXELS]))
    pixels = [_add_deskewing(build, net.preparation, images) for net in model.nets]
    scores = [_add_scores(build, *each) for each in zip(model.nets, pixels, strict=True)]
    mean = scores[0] if len(scores) == 1 else build("Mean", *scores)
    best = build("ArgMax", mean, axis=1, keepdims=0)
    _add_unfamiliarity(build, model.reference, pixels[0], best)
    # `to_probabilities`
    shares = build("Max", mean, LEAST_SCORE)
    shares = build("Div", shares, build("ReduceMax", shares, _COLUMNS))
    powers = build("Pow", shares, np.float32(1 / model.reference.temperature))
    build("Div", powers, build("ReduceSum", powers, _COLUMNS), output="probabilities")
    value = helper.make_tensor_value_info
    proto = helper.make_model(
        helper.make_graph(
            build.nodes,
            "nanograd",
            [value("images", TensorProto.UINT8, ["N", SIDE, SIDE])],
            [
                value("probabilities", TensorProto.FLOAT, ["N", NUM_CLASSES]),
                value("unfamiliarity", TensorProto.FLOAT, ["N"]),
            ],
            build.constants,
        ),
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

    def __call__(self, operator: str, *inputs: Operand, output: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the name of the output."""
        name = output or f"v{len(self.nodes)}"
        self.add(operator, inputs, [name], **attributes)
        return name

    def add(
        self, operator: str, inputs: tuple[Operand, ...], outputs: list[str], **attributes: Any
    ) -> None:
        """Add a node."""
        names = []
        for each in inputs:
            if isinstance(each, str):
                names.append(each)
            else:
                names.append(f"c{len(self.constants)}")
                self.constants.append(numpy_helper.from_array(np.asarray(each), names[-1]))
        self.nodes.append(helper.make_node(operator, names, outputs, **attributes))

    def cast(self, value: Operand, to: int) -> str:
        """Convert a value to another data type."""
        return self("Cast", value, to=to)


def _add_deskewing(build: _Builder, preparation: Preparation, images: str) -> str:
    """Add deskewing: (N, 784) uint8 to (N, 784) float32."""
    pixels = build.cast(images, TensorProto.FLOAT)
    if preparation.name != "deskewed":
        return pixels
    sums = [f"sum{len(build.nodes)}_{number}" for number in range(MONOMIALS.shape[1])]
    product = build("MatMul", build.cast(images, TensorProto.DOUBLE), MONOMIALS)
    build.add("Split", (product,), sums, axis=1, num_outputs=len(sums))
    mass, sum_x, sum_y, sum_xx, sum_xy, sum_yy = sums
    one = np.float64(1)
    mass = build("Max", mass, one)
    mean_x, mean_y = build("Div", sum_x, mass), build("Div", sum_y, mass)
    spread_y = build("Sub", sum_yy, build("Mul", sum_y, mean_y))
    covariance = build("Sub", sum_xy, build("Mul", sum_x, mean_y))
    slant = build("Div", covariance, build("Max", spread_y, one))
    slant = build("Clip", slant, np.float64(-MAX_SLANT), np.float64(MAX_SLANT))
    spread_x = build("Sub", sum_xx, build("Mul", sum_x, mean_x))
    spread_x = build("Sub", spread_x, build("Mul", slant, covariance))
    row, column = np.divmod(np.arange(NUM_PIXELS), SIDE)
    dx = _add_scaling(build, column - SIDE // 2, spread_x, mass, preparation.width)
    dy = _add_scaling(build, row - SIDE // 2, spread_y, mass, preparation.height)
    x = build("Add", build("Add", mean_x, dx), build("Mul", slant, dy))
    y = build("Add", mean_y, dy)
    x, y = (build.cast(each, TensorProto.FLOAT) for each in (x, y))
    # Interpolate each image at (x, y); pixels outside the image are 0.
    margins = np.array([0, 1, 1, 0, ROW - SIDE - 1, ROW - SIDE - 1])
    padded = build("Pad", build("Reshape", pixels, np.array([-1, SIDE, SIDE])), margins)
    flat = build("Reshape", padded, np.array([-1, ROW * ROW]))
    moved = [
        build("Add", build("Clip", each, np.float32(-1), np.float32(SIDE)), np.float32(1))
        for each in (x, y)
    ]
    whole = [build("Floor", each) for each in moved]
    share_x, share_y = (build("Sub", *pair) for pair in zip(moved, whole, strict=True))
    position = build("Add", build("Mul", whole[1], np.float32(ROW)), whole[0])
    index = build.cast(position, TensorProto.INT64)
    corners = [
        build("GatherElements", flat, build("Add", index, np.int64(step)), axis=1)
        for step in (0, 1, ROW, ROW + 1)
    ]

    def interpolate(start: str, end: str, share: str) -> str:
        return build("Add", build("Mul", build("Sub", end, start), share), start)

    above = interpolate(corners[0], corners[1], share_x)
    below = interpolate(corners[2], corners[3], share_x)
    return build("Round", interpolate(above, below, share_y))


def _add_scaling(build: _Builder, distance: Ints, spread: str, mass: str, target: float) -> Operand:
    """Scale distances from the centre so that the deviation of the ink becomes `target`."""
    constant = distance.astype(np.float64)
    if not target:
        return constant
    deviation = build("Sqrt", build("Div", build("Max", spread, np.float64(0)), mass))
    stretch = build("Div", deviation, np.float64(target))
    limits = np.float64(1 / MAX_STRETCH), np.float64(MAX_STRETCH)
    return build("Mul", constant, build("Clip", stretch, *limits))


def _add_scores(build: _Builder, net: Net, pixels: str) -> str:
    """Add the net: (N, 784) float32 pixels to (N, 10) float32 scores."""
    params, architecture = net.params, net.architecture
    factor, offset = map(np.float32, affine(net.preparation))
    inputs = build("Add", build("Mul", pixels, factor), offset)
    z1 = build("Gemm", inputs, params.w1, params.b1)
    z2 = build("Gemm", build(_ACTIVATIONS[architecture.activation], z1), params.w2, params.b2)
    return build("Sigmoid", z2) if architecture.loss == "mse" else build("Softmax", z2, axis=1)


def _add_unfamiliarity(build: _Builder, reference: Reference, pixels: str, best: str) -> None:
    """Add `Reference.unfamiliarity` of deskewed pixels, (N, 784) float32, and predicted classes."""
    brightest = build("Max", build("ReduceMax", pixels, _COLUMNS), np.float32(1))
    stretched = build("Mul", pixels, build("Div", np.float32(255), brightest))
    means = reference.means.astype(np.float32)
    z = build("Sub", stretched, build("Gather", means, best))
    # Compute the products with the directions of all classes, then select those of `best`.
    directions = reference.directions.astype(np.float32)
    offsets = np.einsum("ckp,cp->ck", directions, means[:, INNER])
    inner = build("Gather", stretched, INNER, axis=1)
    products = build("MatMul", inner, directions.reshape(-1, len(INNER)).T)
    products = build("Sub", products, offsets.reshape(-1))
    squares = build("Mul", products, products)
    weighted = build("Mul", squares, reference.weights.reshape(-1))
    weighted = build("Reshape", weighted, np.array([-1, *reference.weights.shape]))
    along = build("ReduceSum", weighted, np.array([2]), keepdims=0)
    column = build("Unsqueeze", best, _COLUMNS)
    scale = build("Gather", reference.scales, column)
    residual = build("Mul", build("ReduceSumSquare", z, _COLUMNS), scale)
    distance = build("Add", residual, build("GatherElements", along, column, axis=1))
    distance = build("Max", distance, build("Div", FAINT, brightest))
    fourth = build("Pow", distance, np.float32(4))
    share = build("Div", fourth, build("Add", fourth, np.float32(1)))
    build("Squeeze", share, _COLUMNS, output="unfamiliarity")
