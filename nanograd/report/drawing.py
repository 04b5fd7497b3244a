"""The model and its JavaScript for the drawing pad of a report."""

import json
from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd.digits import deskew, form, preparation
from nanograd.models import reference
from nanograd.models.model import Model
from nanograd.pictures import tuning
from nanograd.report.html import asset
from nanograd.runtime.arrays import Floats
from nanograd.runtime.json_files import JsonObject

# Maximum bytes of all nets of a page as ASCII JSON, enough for 1,200 hidden units in total. The
# whole page is then below 3 MB.
_MAX_NETS_BYTES = 2_560_000
_SCRIPTS = ("resize.js", "marks.js", "normalise.js", "net.js", "zip.js")


def code() -> str:
    """Return the JavaScript that does not need the page, after the constants shared with Python."""
    constants = tuning.PAGE | {
        "LONGEST_SIDE": form.LONGEST_SIDE,
        "MAX_SLANT": deskew.MAX_SLANT,
        "MAX_STRETCH": deskew.MAX_STRETCH,
        "LEAST_SCORE": float(reference.LEAST_SCORE),
        "FAINT": float(reference.FAINT),
        "UNFAMILIAR": reference.UNFAMILIAR,
    }
    return "\n".join([f"const TUNING = {json.dumps(constants)};", *map(asset, _SCRIPTS)])


def pack_model(model: Model) -> JsonObject:
    """Return JSON for `unpack` in net.js, with as many of the first nets as fit into a page."""
    nets = [
        {
            **net.config(),
            "affine": preparation.affine(net.preparation),
            "layers": [
                pack_layer(net.params.w1, net.params.b1),
                pack_layer(net.params.w2, net.params.b2),
            ],
        }
        for net in model.nets
    ]
    sizes = np.cumsum([len(json.dumps(net)) for net in nets])
    tensors = {name: pack_array(each) for name, each in model.reference.tensors().items()}
    return {
        "nets": nets[: int((sizes <= _MAX_NETS_BYTES).sum())],
        "reference": model.reference.config() | tensors,
    }


def pack_layer(weights: Floats, biases: Floats) -> JsonObject:
    """Return a layer as a JSON object; its (inputs, units) weights become 16-bit numbers.

    step_j = max_i |w_ij| / 32767, number_ij = round(w_ij / step_j)
    """
    steps = np.maximum(np.abs(weights).max(axis=0) / 32767, np.finfo(np.float32).tiny)
    numbers = np.rint(weights / steps).astype(np.int16).T
    packed = {"numbers": numbers, "steps": steps, "biases": biases}
    return {name: pack_array(each) for name, each in packed.items()}


def pack_array(array: NDArray[Any]) -> dict[str, str]:
    """Return the name of an array's type in JavaScript, and its bytes in base64."""
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return {"type": f"{array.dtype.name.capitalize()}Array", "data": b64encode(data).decode()}
