"""A place to draw digits on, in a page: what the net sees of them, its scores, a file to save."""

import json
from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd.digits import preparation
from nanograd.models.model import Model, Net
from nanograd.report.html import asset, paragraph

SCRIPTS = ("resize.js", "marks.js", "normalise.js", "net.js", "zip.js", "draw.js")

# 1.5 pixels to one of the copy in which the digit is looked for; never reduced in between.
PAD_SIDE = 240


def draw_section(model: Model) -> str:
    """The section: a pad, what the net sees, ten scores, and buttons to keep and save drawings.

    Args:
        model: its nets go into the page as far as there is room.
    """
    nets, count = embedded(model)
    if not count:
        return paragraph(
            f"A net of {model.nets[0].architecture.hidden:,} hidden units is too large for a page "
            "of 3 MB. `nanograd inspect PICTURE --model` shows what it makes of a picture."
        )
    few = count < len(model.nets)
    whose = f" Here read the first {count} of its {len(model.nets)} nets." if few else ""
    return (
        paragraph(
            "Draw with mouse, pen or finger: the same steps as for a photo, then the net itself, "
            "in this page, asking nobody." + whose
        )
        + _pad()
        + _keeping()
        + f'<script type="application/json" id="nets">{nets}</script>'
        + f"<script>{script()}</script>"
    )


def script() -> str:
    """All code of the page, in a scope of its own."""
    return f'(() => {{\n"use strict";\n{"".join(map(asset, SCRIPTS))}}})();\n'


def _pad() -> str:
    scores = "".join(
        f'<li><span>{digit}</span><span class="bar"><span></span></span>'
        '<span class="score">-</span></li>'
        for digit in range(10)
    )
    return (
        '<div class="draw"><div>'
        f'<canvas id="pad" width="{PAD_SIDE}" height="{PAD_SIDE}" role="img" '
        'aria-label="the square to draw a digit on"></canvas>'
        '<div class="row"><button type="button" id="undo">Undo</button>'
        '<button type="button" id="clear">Clear</button></div></div>'
        "<div><h3>What the net sees</h3>"
        '<canvas id="seen" width="28" height="28" role="img" '
        'aria-label="the drawing in 28 x 28 pixels"></canvas></div>'
        f'<div><h3>Scores</h3><ul class="scores">{scores}</ul></div></div>'
        '<p id="said" role="status">This needs JavaScript, which is switched off.</p>'
    )


def _keeping() -> str:
    labels = "".join(
        f'<button type="button" data-needs="drawing" data-label="{digit}" disabled '
        f'aria-label="keep as {digit}">{digit}</button>'
        for digit in range(10)
    )
    return (
        "<h3>Make your own test set</h3>"
        + paragraph(
            "Say which digit you drew to keep the drawing; then save them all in one file. "
            "`nanograd ingest drawings.zip --output rows` reads it, labels included."
        )
        + f'<div class="draw keep"><div class="row" role="group" aria-label="keep the drawing as">'
        f'{labels}<button type="button" id="save" disabled>Save drawings</button></div></div>'
    )


# Letters that all nets of a page may take: with the rest of a report that is less than 3 MB.
MOST_LETTERS = 2_600_000
_LARGEST = np.float32(2**15 - 1)


def embedded(model: Model, most_letters: int = MOST_LETTERS) -> tuple[str, int]:
    """As many of a model's nets as a page has room for, the first ones.

    Args:
        model: what to embed.
        most_letters: of all nets together.

    Returns:
        A JSON array for `unpack` of net.js, and how many nets it holds, maybe none.
    """
    nets, room = [], most_letters
    for net in model.nets:
        text = json.dumps(_net(net))
        room -= len(text)
        if room < 0:
            break
        nets.append(text)
    return f"[{','.join(nets)}]", len(nets)


def quantise(weights: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Weights as whole numbers with a factor for each unit: weight = factor x number.

    Args:
        weights: (inputs, units) float32.

    Returns:
        factors: (units,) float32; the largest weight of a unit becomes +-32767.
        numbers: (inputs, units) int16.
    """
    factors = np.abs(weights).max(axis=0) / _LARGEST
    numbers = np.rint(weights / np.where(factors > 0, factors, 1))
    return factors.astype(np.float32), numbers.astype(np.int16)


def _net(net: Net) -> dict[str, Any]:
    factor, offset = preparation.affine(net.preparation)
    return {
        "hidden": net.architecture.hidden,
        "activation": net.architecture.activation,
        "loss": net.architecture.loss,
        "upright": net.preparation.name == "deslanted",
        "width": net.preparation.width,
        "height": net.preparation.height,
        "factor": factor,
        "offset": offset,
        "data": b64encode(_packed(net)).decode(),
    }


def _packed(net: Net) -> bytes:
    params, packed = net.params, b""
    for weights, biases in ((params.w1, params.b1), (params.w2, params.b2)):
        factors, numbers = quantise(weights)
        packed += factors.astype("<f4").tobytes() + biases.astype("<f4").tobytes()
        packed += numbers.astype("<i2").tobytes()
    return packed
