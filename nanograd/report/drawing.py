"""A place to draw digits on, in a page: what the net sees of them, its scores, a file to save."""

from nanograd.model import Model
from nanograd.report.markup import asset, paragraph
from nanograd.report.weights import embedded

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
