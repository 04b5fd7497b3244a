"""A model packed for the drawing pad of a report, which runs it in the page."""

import json
from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd.digits import preparation
from nanograd.models.model import Model, Net

# All nets of a page, as JSON in ASCII; with the rest of a report this is below 3 MB. Nets of 1,200
# hidden units in total fit.
_MAX_NETS_BYTES = 2_590_000


def pack_model(model: Model) -> dict[str, Any]:
    """Return a JSON object, the argument of `unpack` in net.js.

    It has the first nets of the model, as many as fit into a page, maybe none.
    """
    nets = [pack_net(net) for net in model.nets]
    sizes = np.cumsum([len(json.dumps(net)) for net in nets])
    reference = model.reference
    return {
        "nets": nets[: int((sizes <= _MAX_NETS_BYTES).sum())],
        "reference": reference
        and {
            **reference.config(),
            "means": _to_base64(reference.means),
            "directions": _to_base64(reference.directions),
            "scales": reference.scales.tolist(),
            "weights": reference.weights.tolist(),
        },
    }


def pack_net(net: Net) -> dict[str, Any]:
    """Return a net as a JSON object, its first layer as 16-bit numbers with one step per unit.

    step_j = max_i |w_ij| / 32767, number_ij = round(w_ij / step_j)
    """
    params = net.params
    factor, offset = preparation.affine(net.preparation)
    steps = np.maximum(np.abs(params.w1).max(axis=0) / 32767, np.finfo(np.float32).tiny)
    return {
        "hidden": net.architecture.hidden,
        "activation": net.architecture.activation,
        "loss": net.architecture.loss,
        "deskewed": net.preparation.name == "deskewed",
        "width": net.preparation.width,
        "height": net.preparation.height,
        "factor": factor,
        "offset": offset,
        "first": _to_base64(np.rint(params.w1 / steps).astype(np.int16).T),
        "rest": _to_base64(steps, params.b1, params.w2.T, params.b2),
    }


def _to_base64(*arrays: NDArray[Any]) -> str:
    little = (each.astype(each.dtype.newbyteorder("<")) for each in arrays)
    return b64encode(b"".join(each.tobytes() for each in little)).decode()
