"""A model packed for the drawing pad of the report."""

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
MAX_NETS_BYTES = 2_590_000
# One less than a 16-bit integer holds: a difference of rounded sums may be one more.
_LARGEST = np.float32(2**15 - 2)


def pack_model(model: Model, max_bytes: int = MAX_NETS_BYTES) -> dict[str, Any]:
    """Return a JSON object, the argument of `unpack` in net.js.

    It has the first nets of the model, as many as fit into a page, maybe none; with their own
    weights if all fit with these, else with rounded ones.
    """
    nets: list[dict[str, Any]] = []
    for exact in (True, False):
        sizes, nets = 0, []
        for net in model.nets:
            packed = _pack_net(net, exact=exact)
            sizes += len(json.dumps(packed))
            if sizes > max_bytes:
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


def _pack_net(net: Net, *, exact: bool) -> dict[str, Any]:
    factor, offset = preparation.affine(net.preparation)
    params = net.params
    factors, numbers = quantise(params.w1)
    first = (params.w1,) if exact else (factors, numbers)
    arrays = (*first, params.b1, params.w2, params.b2)
    return {
        "hidden": net.architecture.hidden,
        "activation": net.architecture.activation,
        "loss": net.architecture.loss,
        "deskewed": net.preparation.name == "deslanted",
        "width": net.preparation.width,
        "height": net.preparation.height,
        "factor": factor,
        "offset": offset,
        "exact": exact,
        "data": _to_base64(*arrays),
    }


def _to_base64(*arrays: NDArray[Any]) -> str:
    little = (each.astype(each.dtype.newbyteorder("<")) for each in arrays)
    return b64encode(b"".join(each.tobytes() for each in little)).decode()


def quantise(weights: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Round (inputs, units) weights to 16-bit integers and a factor for each unit.

    weight = factor x number; the largest weight of a unit becomes about 32767. The running sums are
    rounded, not the weights: errors of neighbouring pixels, which are alike, cancel.
    """
    factors = np.abs(weights).max(axis=0) / _LARGEST
    sums = np.cumsum(weights / np.where(factors > 0, factors, 1), axis=0, dtype=np.float64)
    numbers = np.diff(np.rint(sums), axis=0, prepend=0)
    return factors.astype(np.float32), numbers.astype(np.int16)
