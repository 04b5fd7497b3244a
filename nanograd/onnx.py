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
from nanograd.deslant import MONOMIALS, MOST_SLANT, MOST_STRETCH
from nanograd.model import Model, Net
from nanograd.pixels import Preparation, affine
from nanograd.resample import ROW, SIDE

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

    def cast(self, value: str, to: int) -> str:
        return self("Cast", value, to=to)


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
    """As `pixels.prepare`: (N, 784) uint8 to (N, 784) float32."""
    pixels = build.cast(images, TensorProto.FLOAT)
    if preparation.name == "deslanted":
        pixels = build("Round", _resampled(build, pixels, *_places(build, images, preparation)))
    factor, offset = (build.constant(np.float32(each)) for each in affine(preparation))
    return build("Add", build("Mul", pixels, factor), offset)


def _places(build: _Graph, images: str, preparation: Preparation) -> tuple[str, str]:
    """As `deslant.upright_places`: x and y, each (N, 784) float32."""

    def number(value: float) -> str:
        return build.constant(np.float64(value))

    def less(left: str, right: str) -> str:
        return build("Sub", left, right)

    def times(left: str, right: str) -> str:
        return build("Mul", left, right)

    def over(left: str, right: str) -> str:
        return build("Div", left, right)

    def stretched(distance: NDArray[np.int64], spread: str, to: float) -> str:
        constant = build.constant(distance.astype(np.float64))
        if not to:
            return constant
        deviation = build("Sqrt", over(build("Max", spread, number(0)), mass))
        stretch = over(deviation, number(to))
        return times(
            constant, build("Clip", stretch, number(1 / MOST_STRETCH), number(MOST_STRETCH))
        )

    wide = build.cast(images, TensorProto.DOUBLE)
    sums = build("MatMul", wide, build.constant(MONOMIALS))
    # One output each of (N, 1)
    names = [f"{sums}_{number}" for number in range(MONOMIALS.shape[1])]
    build.nodes.append(helper.make_node("Split", [sums], names, axis=1, num_outputs=len(names)))
    mass, sum_x, sum_y, sum_xx, sum_xy, sum_yy = names
    mass = build("Max", mass, number(1))
    mean_x, mean_y = over(sum_x, mass), over(sum_y, mass)
    spread = less(sum_yy, times(sum_y, mean_y))
    covariance = less(sum_xy, times(sum_x, mean_y))
    slant = over(covariance, build("Max", spread, number(1)))
    slant = build("Clip", slant, number(-MOST_SLANT), number(MOST_SLANT))
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    in_x = less(less(sum_xx, times(sum_x, mean_x)), times(slant, covariance))
    beside = stretched(column - SIDE // 2, in_x, preparation.width)
    down = stretched(row - SIDE // 2, spread, preparation.height)
    x = build("Add", build("Add", mean_x, beside), times(slant, down))
    y = build("Add", mean_y, down)
    return build.cast(x, TensorProto.FLOAT), build.cast(y, TensorProto.FLOAT)


def _resampled(build: _Graph, pixels: str, x: str, y: str) -> str:
    """As `resample.resample`: what each image shows at its places, zero outside."""
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

    def between(here: str, there: str, share: str) -> str:
        return build("Add", build("Mul", build("Sub", there, here), share), here)

    left_above, above, left, beside = corners
    return between(between(left_above, above, share_x), between(left, beside, share_x), share_y)
