"""The nets of a model, packed for the drawing pad of the report."""

import json
from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd.digits import preparation
from nanograd.models.model import Model, Net

# In the order in which the page runs them.
SCRIPTS = ("resize.js", "marks.js", "normalise.js", "net.js", "zip.js", "draw.js")

# 1.5 pixels to one of the copy in which the normaliser searches; never reduced in between.
PAD_SIDE = 240

# All nets of a page, as JSON in ASCII; with the rest of a report this is below 3 MB.
MAX_NETS_BYTES = 2_600_000
_LARGEST = np.float32(2**15 - 1)


def pack_nets(model: Model, max_bytes: int = MAX_NETS_BYTES) -> list[dict[str, Any]]:
    """Return the first nets of a model, as many as fit into a page, maybe none.

    Each is a JSON object, the argument of `unpack` in net.js.
    """
    packed, left = [], max_bytes
    for net in map(_pack_net, model.nets):
        left -= len(json.dumps(net))
        if left < 0:
            break
        packed.append(net)
    return packed


def _pack_net(net: Net) -> dict[str, Any]:
    factor, offset = preparation.affine(net.preparation)
    params, data = net.params, b""
    for weights, biases in ((params.w1, params.b1), (params.w2, params.b2)):
        factors, numbers = quantise(weights)
        data += factors.astype("<f4").tobytes() + biases.astype("<f4").tobytes()
        data += numbers.astype("<i2").tobytes()
    return {
        "hidden": net.architecture.hidden,
        "activation": net.architecture.activation,
        "loss": net.architecture.loss,
        "deskewed": net.preparation.name == "deslanted",
        "width": net.preparation.width,
        "height": net.preparation.height,
        "factor": factor,
        "offset": offset,
        "data": b64encode(data).decode(),
    }


def quantise(weights: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Round (inputs, units) weights to 16-bit integers and a factor for each unit.

    weight = factor x number; the largest weight of a unit becomes +-32767.
    """
    factors = np.abs(weights).max(axis=0) / _LARGEST
    numbers = np.rint(weights / np.where(factors > 0, factors, 1))
    return factors.astype(np.float32), numbers.astype(np.int16)
