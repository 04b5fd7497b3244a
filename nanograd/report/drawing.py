"""A model packed for the drawing pad of the report."""

import json
import zlib
from base64 import b64encode
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import NUM_PIXELS, SIDE
from nanograd.digits import preparation
from nanograd.models.model import Model, Net

# In the order in which the page runs them.
SCRIPTS = ("resize.js", "marks.js", "normalise.js", "net.js", "zip.js", "draw.js")

# 1.5 pixels to one of the copy in which the normaliser searches; never reduced in between.
PAD_SIDE = 240

# All nets of a page, as JSON in ASCII; with the rest of a report this is below 3 MB.
MAX_NETS_BYTES = 2_590_000
# The step of the weights of a unit whose weight in an output is 1: the first with which all nets
# fit, or the last. Up to 1.1e-5, for 1,200 units, probabilities differ from Python's by below 1e-5.
_STEPS = (4e-6, 1.1e-5, 4.4e-5)
# Distance in pixels over which images are alike, and the share of the rest.
_ALIKE, _REST = 2.0, 0.01


def pack_model(model: Model, max_bytes: int = MAX_NETS_BYTES) -> dict[str, Any]:
    """Return a JSON object, the argument of `unpack` in net.js.

    It has the first nets of the model, as many as fit into a page, maybe none.
    """
    nets: list[dict[str, Any]] = []
    for step in _STEPS:
        size, nets = 0, []
        for net in model.nets:
            packed = _pack_net(net, step)
            size += len(json.dumps(packed))
            if size > max_bytes:
                break
            nets.append(packed)
        if len(nets) == len(model.nets):
            break
    reference = model.reference
    return {
        "nets": nets,
        "reference": reference
        and {
            **reference.config(),
            "means": _to_base64(reference.means),
            "directions": _to_base64(reference.directions),
            "scales": reference.scales.tolist(),
            "weights": reference.weights.tolist(),
        },
    }


def _pack_net(net: Net, step: float) -> dict[str, Any]:
    factor, offset = preparation.affine(net.preparation)
    params = net.params
    last = float(np.sqrt(np.square(params.w2, dtype=np.float64).sum(axis=0).mean()))
    step = max(step / (last or 1), float(np.abs(params.w1).max()) / 2**28)  # 29 bits at most
    return {
        "hidden": net.architecture.hidden,
        "activation": net.architecture.activation,
        "loss": net.architecture.loss,
        "deskewed": net.preparation.name == "deskewed",
        "width": net.preparation.width,
        "height": net.preparation.height,
        "factor": factor,
        "offset": offset,
        "step": step,
        "first": _compress(quantise(params.w1, step).T),
        "data": _to_base64(params.b1, params.w2.T, params.b2),
    }


def quantise(weights: NDArray[np.float32], step: float) -> NDArray[np.int32]:
    """Round (784, units) weights to whole numbers of steps, (784, units).

    The weights of later pixels make up for the error of each, in the proportions in which these
    pixels predict its grey level: neighbours are alike.

    References:
        Frantar, Ashkboos, Hoefler & Alistarh (2023), "GPTQ: accurate post-training quantization for
        generative pre-trained transformers", section 3.
    """
    shares, exact = _predictors(), weights / np.float64(step)
    errors = np.empty_like(exact)
    for start in range(0, NUM_PIXELS, SIDE):
        end = start + SIDE  # of a row: later ones are corrected at once, 25 times as fast
        for pixel in range(start, end):
            errors[pixel] = exact[pixel] - np.rint(exact[pixel])
            exact[pixel + 1 : end] += np.outer(shares[pixel, pixel + 1 : end], errors[pixel])
        exact[end:] += shares[start:end, end:].T @ errors[start:end]
    return np.rint(exact).astype(np.int32)


@cache
def _predictors() -> NDArray[np.float64]:
    """(784, 784): row i has the coefficients of the later pixels that predict pixel i."""
    row, column = np.divmod(np.arange(NUM_PIXELS), SIDE)
    squares = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    covariance = np.exp(-squares / (2 * _ALIKE**2)) + _REST * np.eye(NUM_PIXELS)
    factor = np.linalg.cholesky(np.linalg.inv(covariance)).T
    return np.asarray(-factor / np.diag(factor)[:, None])


def _compress(numbers: NDArray[np.int32]) -> str:
    """Deflate the low bytes of all numbers, then the next ones, ...; 0, -1, 1, -2 as 0, 1, 2, 3."""
    folded = ((numbers << 1) ^ (numbers >> 31)).astype("<u4").ravel()
    planes = folded.view(np.uint8).reshape(-1, 4).T
    return b64encode(zlib.compress(planes.tobytes())).decode()


def _to_base64(*arrays: NDArray[Any]) -> str:
    little = (each.astype(each.dtype.newbyteorder("<")) for each in arrays)
    return b64encode(b"".join(each.tobytes() for each in little)).decode()
