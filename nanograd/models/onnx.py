"""ONNX export: a graph from pixels to ten scores, and how unfamiliar the pixels are.

The graph includes pixel preparation, deskewing and the average over an ensemble. Its operations and
their order are those of this package, so that the net's inputs are the same to the byte.

References:
    ONNX, "Open Neural Network Exchange intermediate representation (ONNX IR)" and "Operator
    schemas", opset 18.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nanograd import __version__
from nanograd.data.dataset import NUM_CLASSES, NUM_PIXELS, SIDE
from nanograd.digits.deskew import MAX_SLANT, MAX_STRETCH, MONOMIALS
from nanograd.digits.preparation import Preparation, affine
from nanograd.digits.resample import ROW
from nanograd.models.model import Model, Net
from nanograd.models.reference import FAINT, INNER, LEAST_SCORE, Reference

OPSET = 18
_IR_VERSION = 9  # of onnx 1.14 (2023), which reads opset 18
_ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}


def graph(model: Model) -> bytes:
    """Return a model as the bytes of an `.onnx` file.

    Its input `images` is (N, 28, 28) uint8, ink 255 on 0, in the form of MNIST; its outputs
    are `probabilities`, (N, 10) float32, and of a model with a reference `unfamiliarity`, (N,)
    float32, both in [0, 1].
    """
    build = _Builder()
    images = build("Reshape", "images", build.constant(np.array([-1, NUM_PIXELS])))
    pixels = [_add_deskewing(build, net.preparation, images) for net in model.nets]
    scores = [_add_scores(build, *each) for each in zip(model.nets, pixels, strict=True)]
    together = scores[0] if len(scores) == 1 else build("Mean", *scores)
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", NUM_CLASSES])
    ]
    if model.reference is not None:
        best = build("ArgMax", together, axis=1, keepdims=0)
        _add_unfamiliarity(build, model.reference, pixels[0], best)
        outputs.append(helper.make_tensor_value_info("unfamiliarity", TensorProto.FLOAT, ["N"]))
        together = _add_probabilities(build, together, model.reference.temperature)
    build("Identity", together, output="probabilities")
    proto = helper.make_model(
        helper.make_graph(
            build.nodes,
            "nanograd",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE])],
            outputs,
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
    """The nodes and constants of a graph, numbered in order of creation."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, value: NDArray[Any] | np.generic) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.float64(value))

    def cast(self, value: str, to: int) -> str:
        return self("Cast", value, to=to)

    def clip(self, value: str, least: float, most: float) -> str:
        return self("Clip", value, self.number(least), self.number(most))


def _add_scores(build: _Builder, net: Net, pixels: str) -> str:
    params, architecture = net.params, net.architecture
    factor, offset = (build.constant(np.float32(each)) for each in affine(net.preparation))
    inputs = build("Add", build("Mul", pixels, factor), offset)
    hidden = build(
        _ACTIVATIONS[architecture.activation],
        build("Gemm", inputs, build.constant(params.w1), build.constant(params.b1)),
    )
    z2 = build("Gemm", hidden, build.constant(params.w2), build.constant(params.b2))
    return build("Sigmoid", z2) if architecture.loss == "mse" else build("Softmax", z2, axis=1)


def _add_probabilities(build: _Builder, scores: str, temperature: float) -> str:
    """Add `to_probabilities`: (N, 10) float32 to the same."""
    power = build.constant(np.float32(1 / temperature))
    shares, classes = (
        build("Max", scores, build.constant(LEAST_SCORE)),
        build.constant(np.array([1])),
    )
    shares = build("Div", shares, build("ReduceMax", shares, classes))
    powers = build("Pow", shares, power)
    return build("Div", powers, build("ReduceSum", powers, classes))


def _add_unfamiliarity(build: _Builder, reference: Reference, pixels: str, best: str) -> None:
    """Add `Reference.unfamiliarity` of deskewed pixels, (N, 784) float32, and predicted classes."""
    brightest = build("ReduceMax", pixels, build.constant(np.array([1])))
    brightest = build("Max", brightest, build.constant(np.float32(1)))
    stretched = build("Mul", pixels, build("Div", build.constant(np.float32(255)), brightest))
    means = reference.means.astype(np.float32)
    z = build("Sub", stretched, build("Gather", build.constant(means), best))
    # The products with the directions of all classes, then those of the predicted one.
    directions = reference.directions.astype(np.float32)
    offsets = np.einsum("ckp,cp->ck", directions, means[:, INNER])
    flat = directions.reshape(-1, len(INNER)).T
    products = build(
        "MatMul", build("Gather", stretched, build.constant(INNER), axis=1), build.constant(flat)
    )
    products = build("Sub", products, build.constant(offsets.reshape(-1)))
    squares = build("Mul", products, products)
    weighted = build("Mul", squares, build.constant(reference.weights.reshape(-1)))
    shape = build.constant(np.array([-1, *reference.weights.shape]))
    along = build(
        "ReduceSum", build("Reshape", weighted, shape), build.constant(np.array([2])), keepdims=0
    )
    column = build("Unsqueeze", best, build.constant(np.array([1])))
    residual = build(
        "Mul",
        build("ReduceSumSquare", z, build.constant(np.array([1]))),
        build("Gather", build.constant(reference.scales), column),
    )
    distance = build("Add", residual, build("GatherElements", along, column, axis=1))
    distance = build("Max", distance, build("Div", build.constant(FAINT), brightest))
    fourth = build("Pow", distance, build.constant(np.float32(4)))
    share = build("Div", fourth, build("Add", fourth, build.constant(np.float32(1))))
    build("Squeeze", share, build.constant(np.array([1])), output="unfamiliarity")


def _add_deskewing(build: _Builder, preparation: Preparation, images: str) -> str:
    """Add deskewing: (N, 784) uint8 to (N, 784) float32."""
    pixels = build.cast(images, TensorProto.FLOAT)
    if preparation.name != "deskewed":
        return pixels
    return build("Round", _add_resampling(build, pixels, *_add_places(build, images, preparation)))


def _add_places(build: _Builder, images: str, preparation: Preparation) -> tuple[str, str]:
    """Add the sources of deskewed pixels: x and y, each (N, 784) float32."""
    mass, sum_x, sum_y, sum_xx, sum_xy, sum_yy = _add_sums(build, images)
    mass = build("Max", mass, build.number(1))
    mean_x, mean_y = build("Div", sum_x, mass), build("Div", sum_y, mass)
    spread_y = build("Sub", sum_yy, build("Mul", sum_y, mean_y))
    covariance = build("Sub", sum_xy, build("Mul", sum_x, mean_y))
    slant = build("Div", covariance, build("Max", spread_y, build.number(1)))
    slant = build.clip(slant, -MAX_SLANT, MAX_SLANT)
    row, column = np.divmod(np.arange(NUM_PIXELS), SIDE)
    spread_x = build(
        "Sub", build("Sub", sum_xx, build("Mul", sum_x, mean_x)), build("Mul", slant, covariance)
    )
    dx = _add_scaling(build, column - SIDE // 2, spread_x, mass, preparation.width)
    dy = _add_scaling(build, row - SIDE // 2, spread_y, mass, preparation.height)
    x = build("Add", build("Add", mean_x, dx), build("Mul", slant, dy))
    y = build("Add", mean_y, dy)
    return build.cast(x, TensorProto.FLOAT), build.cast(y, TensorProto.FLOAT)


def _add_sums(build: _Builder, images: str) -> list[str]:
    """Add the sums of ink times each of MONOMIALS, each (N, 1) float64."""
    wide = build.cast(images, TensorProto.DOUBLE)
    sums = build("MatMul", wide, build.constant(MONOMIALS))
    names = [f"{sums}_{number}" for number in range(MONOMIALS.shape[1])]
    build.nodes.append(helper.make_node("Split", [sums], names, axis=1, num_outputs=len(names)))
    return names


def _add_scaling(
    build: _Builder, distance: NDArray[np.int64], spread: str, mass: str, to: float
) -> str:
    """Scale distances from the middle so that the deviation of the ink becomes `to`."""
    constant = build.constant(distance.astype(np.float64))
    if not to:
        return constant
    deviation = build("Sqrt", build("Div", build("Max", spread, build.number(0)), mass))
    stretch = build("Div", deviation, build.number(to))
    return build("Mul", constant, build.clip(stretch, 1 / MAX_STRETCH, MAX_STRETCH))


def _add_resampling(build: _Builder, pixels: str, x: str, y: str) -> str:
    """Add bilinear interpolation of each image at (x, y), zero outside."""
    side, one = build.constant(np.float32(SIDE)), build.constant(np.float32(1))
    square = build.constant(np.array([-1, SIDE, SIDE]))
    around = build.constant(np.array([0, 1, 1, 0, ROW - SIDE - 1, ROW - SIDE - 1]))
    padded = build("Pad", build("Reshape", pixels, square), around)
    flat = build("Reshape", padded, build.constant(np.array([-1, ROW * ROW])))
    moved = [
        build("Add", build("Clip", each, build.constant(np.float32(-1)), side), one)
        for each in (x, y)
    ]
    whole = [build("Floor", each) for each in moved]
    share_x, share_y = (build("Sub", *pair) for pair in zip(moved, whole, strict=True))
    place = build("Add", build("Mul", whole[1], build.constant(np.float32(ROW))), whole[0])
    index = build.cast(place, TensorProto.INT64)
    corners = [
        build("GatherElements", flat, build("Add", index, build.constant(np.int64(step))), axis=1)
        for step in (0, 1, ROW, ROW + 1)
    ]

    def interpolate(start: str, end: str, share: str) -> str:
        return build("Add", build("Mul", build("Sub", end, start), share), start)

    above = interpolate(corners[0], corners[1], share_x)
    below = interpolate(corners[2], corners[3], share_x)
    return interpolate(above, below, share_y)
