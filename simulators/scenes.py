"""Scenes of simulated photos: a plain sheet of paper, and variations of it."""

from dataclasses import dataclass, replace

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The scene of a photo. A value that is a pair is the range of a random number.

    Args:
        side: longest side of the picture, in pixels.
        digit: longest side of the digit / shorter side of the picture.
        pen: width of the stroke / longest side of the digit; None keeps MNIST's stroke.
        ink: fraction of the light that the ink absorbs.
        hue: whether the ink is coloured.
        texture: fraction of the ink missing on the grain of the paper, as with a pencil.
        paper: brightness of the sheet.
        tint: how much the colour of the sheet differs from grey, 0 to 1.
        grain: standard deviation of the brightness of the sheet.
        lines: none, ruled, squared, squares or dots. Squares and dots are large and bent, and as
            strong as pencil strokes.
        light: fraction of the light missing in the darkest corner.
        vignette: strength a of the light exp(-a r^2p), where r is 1 in a corner.
        shadow: none, soft (a gradual edge) or hard (an edge of 1 to 3 pixels).
        tilt: maximum rotation in both directions, in degrees.
        perspective: maximum shift of a corner / size of the digit.
        blur: radius, in 1/1000 of the longest side.
        noise: standard deviation of the sensor's noise, in levels from 0 to 255.
        quality: quality of the JPEG file.
        around: what is around the digit or sheet: nothing, frame, neighbour, edge (of a sheet on a
            table), pasted (on white), binding (a spiral at one side, sometimes a second dark side),
            or table (sometimes a second sheet).
        light_ink: whether the picture is a negative, like chalk on a board.
        equal_light: whether ink and paper are colours with nearly the same brightness.
        tight: margin / size of the digit, for a picture cropped to the digit. Half of these
            pictures are negatives. Pictures below 100 pixels are black and white, without noise.
            MNIST's stroke is made bolder.
    """

    side: Range = (300, 800)
    digit: Range = (0.3, 0.8)
    pen: Range | None = (0.07, 0.13)
    ink: Range = (0.65, 0.95)
    hue: bool = False
    texture: float = 0.0
    paper: Range = (0.75, 0.95)
    tint: float = 0.02
    grain: float = 0.008
    lines: str = "none"
    light: float = 0.15
    vignette: Range | None = None
    shadow: str = "none"
    tilt: float = 10.0
    perspective: float = 0.03
    blur: Range = (0.5, 1.5)
    noise: float = 2.0
    quality: Range = (70, 95)
    around: str = "nothing"
    light_ink: bool = False
    equal_light: bool = False
    tight: Range | None = None


PLAIN = Scene()
_PENCIL = replace(PLAIN, pen=(0.02, 0.07), ink=(0.3, 0.8), texture=0.3, digit=(0.35, 0.85))
_FAINT = replace(PLAIN, pen=(0.01, 0.025), ink=(0.08, 0.2), texture=0.3, digit=(0.6, 0.95))
KINDS = {
    "plain": PLAIN,
    "mnist's pen": replace(PLAIN, pen=None),
    "uneven light": replace(PLAIN, light=0.6),
    "soft shadow": replace(PLAIN, shadow="soft"),
    "hard shadow": replace(PLAIN, shadow="hard"),
    "grain": replace(PLAIN, grain=0.04),
    "coloured paper": replace(PLAIN, tint=0.3, paper=(0.5, 0.9)),
    "ruled": replace(PLAIN, lines="ruled"),
    "squared": replace(PLAIN, lines="squared"),
    "blur": replace(PLAIN, blur=(4, 8)),
    "jpeg": replace(PLAIN, quality=(8, 25)),
    "noise": replace(PLAIN, noise=14.0),
    "thin pen": replace(PLAIN, pen=(0.012, 0.04)),
    "pencil": replace(PLAIN, pen=(0.02, 0.06), ink=(0.2, 0.45), texture=0.5),
    "coloured ink": replace(PLAIN, hue=True, ink=(0.8, 0.95)),
    "marker": replace(PLAIN, pen=(0.14, 0.2)),
    "perspective": replace(PLAIN, perspective=0.12),
    "small digit": replace(PLAIN, digit=(0.1, 0.2), side=(600, 1500)),
    "small picture": replace(PLAIN, side=(200, 250)),
    "large picture": replace(PLAIN, side=(1500, 1600)),
    "fills the frame": replace(PLAIN, digit=(0.97, 0.99), tilt=0, perspective=0),
    "frame": replace(PLAIN, around="frame"),
    "neighbour": replace(PLAIN, around="neighbour", digit=(0.3, 0.6)),
    "edge of the sheet": replace(PLAIN, around="edge", digit=(0.3, 0.6)),
    "pasted on white": replace(PLAIN, around="pasted", paper=(0.6, 0.85)),
    "light on dark": replace(PLAIN, light_ink=True),
    "all at once": replace(
        PLAIN,
        **{"side": (200, 1500), "digit": (0.2, 0.9), "pen": (0.025, 0.15), "ink": (0.45, 0.95)},
        **{"hue": True, "tint": 0.15, "grain": 0.02, "lines": "ruled", "light": 0.4},
        **{"shadow": "soft", "perspective": 0.08, "blur": (0.5, 3), "noise": 5.0},
        quality=(40, 95),
    ),
    # The position of a kind is part of its seed, so new kinds are appended.
    "vignette": replace(
        PLAIN,
        vignette=(0.3, 1.1),
        hue=True,
        ink=(0.3, 0.6),
        paper=(0.6, 0.85),
        pen=(0.015, 0.06),
        digit=(0.3, 0.85),
    ),
    "squares": replace(_PENCIL, lines="squares", grain=0.02),
    "dots": replace(_PENCIL, lines="dots", grain=0.015),
    "binding": replace(_PENCIL, around="binding", digit=(0.25, 0.65)),
    "table": replace(_PENCIL, around="table", digit=(0.25, 0.65)),
    "faint": _FAINT,
    "faint in shadow": replace(_FAINT, shadow="soft", light=0.5),
    "bold bitmap": replace(PLAIN, side=(14, 24), pen=None, tight=(0, 0.3)),
    "tight crop": replace(PLAIN, side=(14, 300), pen=None, tight=(0, 0.06)),
    "equal light": replace(PLAIN, equal_light=True, tint=0, pen=(0.03, 0.13)),
}
