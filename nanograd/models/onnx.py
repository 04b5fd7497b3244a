"""A model as an ONNX graph: pixels in, ten scores out, with all that lies between.

The graph prepares pixels as the model does, setting digits upright included, in the same order of
the same operations, so that what the net sees is the same to the byte; a committee's scores are
averaged in it. Who runs it needs nothing of this package.

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
from nanograd.digits.deskew import MAX_SLANT, MAX_STRETCH, MONOMIALS
from nanograd.digits.preparation import Preparation, affine
from nanograd.digits.resample import ROW, SIDE
from nanograd.models.model import Model, Net

OPSET = 18
_IR_VERSION = 9  # of onnx 1.14 (2023), which read opset 18
_ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}


def graph(model: Model) -> bytes:
    """The model as the bytes of an `.onnx` file.

    Its input `images` is (N, 28, 28) uint8, ink 255 on 0, in the form MNIST has; its output
    `scores` is (N, 10) float32, in [0, 1].
    """
    build = _Graph()
    images = build("Reshape", "images", build.constant(np.array([-1, SIDE * SIDE])))
    scores = [_scores(build, net, images) for net in model.nets]
    together = scores[0] if len(scores) == 1 else build("Mean", *scores)
    build("Identity", together, output="scores")
    proto = helper.make_model(
        helper.make_graph(
            build.nodes,
            "nanograd",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
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


class _Graph:
    """Nodes and constants, named as they come."""

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

    def plus(self, left: str, right: str) -> str:
        return self("Add", left, right)

    def minus(self, left: str, right: str) -> str:
        return self("Sub", left, right)

    def times(self, left: str, right: str) -> str:
        return self("Mul", left, right)

    def over(self, left: str, right: str) -> str:
        return self("Div", left, right)

    def within(self, value: str, least: float, most: float) -> str:
        return self("Clip", value, self.number(least), self.number(most))


def _scores(build: _Graph, net: Net, images: str) -> str:
    params, architecture = net.params, net.architecture
    inputs = _prepared(build, net.preparation, images)
    hidden = build(
        _ACTIVATIONS[architecture.activation],
        build("Gemm", inputs, build.constant(params.w1), build.constant(params.b1)),
    )
    z2 = build("Gemm", hidden, build.constant(params.w2), build.constant(params.b2))
    return build("Sigmoid", z2) if architecture.loss == "mse" else build("Softmax", z2, axis=1)


def _prepared(build: _Graph, preparation: Preparation, images: str) -> str:
    """As `preparation.prepare`: (N, 784) uint8 to (N, 784) float32."""
    pixels = build.cast(images, TensorProto.FLOAT)
    if preparation.name == "deslanted":
        pixels = build("Round", _resampled(build, pixels, *_places(build, images, preparation)))
    factor, offset = (build.constant(np.float32(each)) for each in affine(preparation))
    return build.plus(build.times(pixels, factor), offset)


def _places(build: _Graph, images: str, preparation: Preparation) -> tuple[str, str]:
    """As `deskew.deskewed_coordinates`: x and y, each (N, 784) float32."""
    minus, times, over = build.minus, build.times, build.over
    mass, sum_x, sum_y, sum_xx, sum_xy, sum_yy = _sums(build, images)
    mass = build("Max", mass, build.number(1))
    mean_x, mean_y = over(sum_x, mass), over(sum_y, mass)
    spread = minus(sum_yy, times(sum_y, mean_y))
    covariance = minus(sum_xy, times(sum_x, mean_y))
    slant = over(covariance, build("Max", spread, build.number(1)))
    slant = build.within(slant, -MAX_SLANT, MAX_SLANT)
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    in_x = minus(minus(sum_xx, times(sum_x, mean_x)), times(slant, covariance))
    beside = _stretched(build, column - SIDE // 2, in_x, mass, preparation.width)
    down = _stretched(build, row - SIDE // 2, spread, mass, preparation.height)
    x = build.plus(build.plus(mean_x, beside), times(slant, down))
    y = build.plus(mean_y, down)
    return build.cast(x, TensorProto.FLOAT), build.cast(y, TensorProto.FLOAT)


def _sums(build: _Graph, images: str) -> list[str]:
    """Ink times each of `deskew.MONOMIALS`, each (N, 1) float64."""
    wide = build.cast(images, TensorProto.DOUBLE)
    sums = build("MatMul", wide, build.constant(MONOMIALS))
    names = [f"{sums}_{number}" for number in range(MONOMIALS.shape[1])]
    build.nodes.append(helper.make_node("Split", [sums], names, axis=1, num_outputs=len(names)))
    return names


def _stretched(
    build: _Graph, distance: NDArray[np.int64], spread: str, mass: str, to: float
) -> str:
    """Distances from the middle where ink that deviates so far from it is to deviate by `to`."""
    constant = build.constant(distance.astype(np.float64))
    if not to:
        return constant
    deviation = build("Sqrt", build.over(build("Max", spread, build.number(0)), mass))
    stretch = build.over(deviation, build.number(to))
    return build.times(constant, build.within(stretch, 1 / MAX_STRETCH, MAX_STRETCH))


def _resampled(build: _Graph, pixels: str, x: str, y: str) -> str:
    """As `resample.resample`: what each image shows at its places, zero outside."""
    side, one = build.constant(np.float32(SIDE)), build.constant(np.float32(1))
    square = build.constant(np.array([-1, SIDE, SIDE]))
    around = build.constant(np.array([0, 1, 1, 0, ROW - SIDE - 1, ROW - SIDE - 1]))
    padded = build("Pad", build("Reshape", pixels, square), around)
    flat = build("Reshape", padded, build.constant(np.array([-1, ROW * ROW])))
    moved = [
        build.plus(build("Clip", each, build.constant(np.float32(-1)), side), one)
        for each in (x, y)
    ]
    whole = [build("Floor", each) for each in moved]
    share_x, share_y = (build.minus(*pair) for pair in zip(moved, whole, strict=True))
    place = build.plus(build.times(whole[1], build.constant(np.float32(ROW))), whole[0])
    index = build.cast(place, TensorProto.INT64)
    corners = [
        build("GatherElements", flat, build.plus(index, build.constant(np.int64(step))), axis=1)
        for step in (0, 1, ROW, ROW + 1)
    ]

    def between(here: str, there: str, share: str) -> str:
        return build.plus(build.times(build.minus(there, here), share), here)

    left_above, above, left, beside = corners
    return between(between(left_above, above, share_x), between(left, beside, share_x), share_y)
