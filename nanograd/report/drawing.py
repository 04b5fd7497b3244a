"""A model packed for the drawing pad of a report, which runs it in the page."""

import json
from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd.digits import preparation
from nanograd.models.model import Model, Net
from nanograd.runtime.arrays import Floats

# All nets of a page, as JSON in ASCII: 1,200 hidden units in total. With the rest of a report this
# is below 3 MB.
_MAX_NETS_BYTES = 2_560_000


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
    """Return a net as a JSON object."""
    factor, offset = preparation.affine(net.preparation)
    params = net.params
    return {
        "activation": net.architecture.activation,
        "loss": net.architecture.loss,
        "deskewed": net.preparation.name == "deskewed",
        "width": net.preparation.width,
        "height": net.preparation.height,
        "factor": factor,
        "offset": offset,
        "layers": [pack_layer(params.w1, params.b1), pack_layer(params.w2, params.b2)],
    }


def pack_layer(weights: Floats, biases: Floats) -> dict[str, str]:
    """Return a layer in base64, its weights as 16-bit numbers with one step per unit.

    step_j = max_i |w_ij| / 32767, number_ij = round(w_ij / step_j)

    Args:
        weights: (inputs, units) float32.
        biases: (units,) float32.
    """
    steps = np.maximum(np.abs(weights).max(axis=0) / 32767, np.finfo(np.float32).tiny)
    numbers = np.rint(weights / steps).astype(np.int16).T
    return {
        "numbers": _to_base64(numbers),
        "steps": _to_base64(steps),
        "biases": _to_base64(biases),
    }


def _to_base64(array: NDArray[Any]) -> str:
    return b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()
