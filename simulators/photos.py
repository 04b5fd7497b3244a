"""Synthetic photos of handwriting: MNIST digits redrawn with another pen on another sheet.

`photograph` follows the light: strokes cover paper, paper and ink reflect, light and shadow fall on
them, a lens blurs, a sensor adds noise, JPEG loses detail. `KINDS` lists how each kind of photo
differs from the plain one. A picture follows from its digit, kind and seed.

References:
    Zhang & Suen (1984), "A fast parallel algorithm for thinning digital patterns".
"""

from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]
Range = tuple[float, float]

# Factor by which MNIST's 28 x 28 pixels are enlarged before a pen follows them: the digit has 80.
_ENLARGED = 4
_DIGIT = 20 * _ENLARGED


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The scene of a photo; pairs are the least and the greatest value of a random draw.

    Args:
        side: longest side of the picture, in pixels.
        digit: height of the digit as a share of the picture's shorter side.
        pen: width of the stroke as a share of the digit's longest side; None keeps MNIST's own.
        ink: share of light that the ink absorbs.
        hue: whether the ink is coloured.
        texture: share of the ink missing on the paper's grain, as with a pencil.
        paper: brightness of the sheet.
        tint: distance of the sheet's colour from grey.
        grain: deviation of the sheet's brightness.
        lines: none, ruled or squared.
        light: share of the light missing in the darkest corner.
        shadow: none, soft (a gradual edge) or hard (an edge of 1 to 3 pixels).
        tilt: greatest rotation either way, in degrees.
        perspective: greatest shift of a corner, as a share of the digit.
        blur: radius in pixels of a picture of 1,000.
        noise: deviation of the sensor's noise, in grey levels.
        quality: of the JPEG file.
        around: nothing, frame, neighbour, edge (of a sheet on a table) or pasted (on white).
        light_ink: whether the picture is a negative, as chalk on a board.
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
    shadow: str = "none"
    tilt: float = 10.0
    perspective: float = 0.03
    blur: Range = (0.5, 1.5)
    noise: float = 2.0
    quality: Range = (70, 95)
    around: str = "nothing"
    light_ink: bool = False


PLAIN = Scene()
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
}


def photograph(digit: NDArray[np.uint8], kind: str, seed: int) -> bytes:
    """Take a photo of a digit.

    Args:
        digit: (28, 28) uint8, ink 255 on 0.
        kind: one of `KINDS`.
        seed: of all random draws.

    Returns:
        A JPEG file.
    """
    scene = KINDS[kind]
    draw = np.random.default_rng([seed, list(KINDS).index(kind)])
    width, height = _size(scene, draw)
    cover = _lay_down(_stroke(digit, scene, draw), (width, height), scene, draw)
    sheet = _sheet(scene, (width, height), draw)
    reflected = sheet * (1 - cover[..., None] * _ink(scene, cover.shape, draw))
    reflected *= _light(scene, (width, height), draw)[..., None]
    picture = _camera(_surround(reflected, cover, scene, draw), scene, draw)
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=int(draw.uniform(*scene.quality)))
    return stream.getvalue()


def _size(scene: Scene, draw: Generator) -> tuple[int, int]:
    longest, share = draw.uniform(*scene.side), draw.uniform(0.6, 1)
    sides = (round(longest), round(longest * share))
    return sides if draw.random() < 0.5 else sides[::-1]


def _stroke(digit: NDArray[np.uint8], scene: Scene, draw: Generator) -> Image.Image:
    """(112, 112) mode L: the digit as written by a pen of this scene."""
    side = 28 * _ENLARGED
    large = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    if scene.pen is None:
        return large.point(lambda level: min(255, max(0, 3 * level - 255)))
    line = thinned(np.asarray(large.filter(ImageFilter.GaussianBlur(1.5))) > 110)
    diameter = draw.uniform(*scene.pen) * _DIGIT
    return _dilated(line, diameter)


def _dilated(line: NDArray[np.bool_], diameter: float) -> Image.Image:
    """Mode L: a round pen drawn along a line of pixels, at twice the size and back."""
    side = 2 * len(line)
    picture = Image.new("L", (side, side))
    pen = ImageDraw.Draw(picture)
    for y, x in np.argwhere(line):
        pen.circle((2 * x + 1, 2 * y + 1), diameter, fill=255)
    return picture.resize((side // 2, side // 2), Image.Resampling.BOX)


def thinned(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin strokes to their middle line, one pixel wide (Zhang & Suen, 1984)."""
    left = np.pad(mask, 1)
    while True:
        before = left.sum()
        for first in (True, False):
            left &= ~_removable(left, first)
        if left.sum() == before:
            return left[1:-1, 1:-1]


def _removable(mask: NDArray[np.bool_], first: bool) -> NDArray[np.bool_]:
    moves = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
    ring = [np.roll(mask, (-y, -x), (0, 1)) for y, x in moves]
    north, east, south, west = ring[0], ring[2], ring[4], ring[6]
    count = sum(each.astype(np.int8) for each in ring)
    rises = sum((~a & b).astype(np.int8) for a, b in zip(ring, ring[1:] + ring[:1], strict=True))
    if first:
        edge = ~(north & east & south) & ~(east & south & west)
    else:
        edge = ~(north & east & west) & ~(north & south & west)
    return np.asarray(mask & (count >= 2) & (count <= 6) & (rises == 1) & edge)


def _lay_down(stroke: Image.Image, size: tuple[int, int], scene: Scene, draw: Generator) -> Floats:
    """(height, width) float32: the share of each pixel that the stroke covers."""
    left, top, right, bottom = stroke.point(lambda level: 255 * (level > 64)).getbbox()
    length = draw.uniform(*scene.digit) * min(size)
    scale = length / max(right - left, bottom - top)
    corners = np.array([(left, top), (left, bottom), (right, bottom), (right, top)], float)
    middle = corners.mean(0)
    angle = np.deg2rad(draw.uniform(-scene.tilt, scene.tilt))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shifts = draw.uniform(-1, 1, (4, 2)) * scene.perspective * length
    placed = (corners - middle) @ turn.T * scale + shifts
    space = np.array(size) - np.ptp(placed, axis=0)
    placed += (
        np.maximum(space, 0) * draw.uniform(0.04, 0.96, 2)
        - placed.min(0)
        + np.minimum(space, 0) / 2
    )
    coefficients = _perspective(placed, corners)
    flat = stroke.transform(
        size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC
    )
    return np.asarray(flat, dtype=np.float32) / 255


def _perspective(targets: NDArray[np.float64], sources: NDArray[np.float64]) -> tuple[float, ...]:
    """Pillow's eight coefficients of the map from four target points to their sources."""
    rows, values = [], []
    for (x, y), (u, v) in zip(targets, sources, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return tuple(np.linalg.solve(np.array(rows), np.array(values)))


def _sheet(scene: Scene, size: tuple[int, int], draw: Generator) -> Floats:
    """(height, width, 3) float32: the paper with its grain and lines."""
    width, height = size
    colour = draw.uniform(*scene.paper) * (1 - scene.tint * draw.random(3))
    sheet = np.ones((height, width), np.float32)
    for cell in (1, 3):
        sheet += scene.grain * _smooth_noise(size, cell, draw)
    if scene.lines != "none":
        sheet *= 1 - _lines(scene, size, draw)
    return np.asarray(sheet[..., None] * colour, np.float32)


def _smooth_noise(size: tuple[int, int], cell: int, draw: Generator) -> Floats:
    width, height = size
    coarse = draw.standard_normal((-(-height // cell), -(-width // cell)), np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def _lines(scene: Scene, size: tuple[int, int], draw: Generator) -> Floats:
    """(height, width) float32: the light that printed lines absorb."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    slope = np.deg2rad(draw.uniform(-3, 3))
    across = [y * np.cos(slope) + x * np.sin(slope)]
    if scene.lines == "squared":
        across.append(x * np.cos(slope) - y * np.sin(slope))
    gap = draw.uniform(0.08, 0.3) * min(size)
    thick = draw.uniform(0.002, 0.006) * min(size)
    phase, strength = draw.uniform(0, gap), draw.uniform(0.12, 0.4)
    distance = np.minimum.reduce([np.abs((each + phase) % gap - gap / 2) for each in across])
    return np.asarray(np.clip(thick / 2 + 0.5 - distance, 0, 1) * strength, np.float32)


def _ink(scene: Scene, shape: tuple[int, ...], draw: Generator) -> Floats:
    """(height, width, 3) float32: the share of light that the ink absorbs."""
    colour = np.ones(3)
    if scene.hue:
        colour[draw.integers(3)] = draw.uniform(0.1, 0.6)
    taken = np.full(shape, draw.uniform(*scene.ink), np.float32)
    if scene.texture:
        taken *= 1 - scene.texture * (_smooth_noise(shape[::-1], 2, draw) > 0.8)
    return np.asarray(taken[..., None] * colour, np.float32)


def _light(scene: Scene, size: tuple[int, int], draw: Generator) -> Floats:
    """(height, width) float32, at most 1: the light that falls on each pixel."""
    width, height = size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle, bend = draw.uniform(0, 2 * np.pi), draw.uniform(0, 0.6)
    slope = (x * np.cos(angle) + y * np.sin(angle)) / 1.42 + bend * (x**2 + y**2) / 2
    light = 1 - draw.uniform(0.5, 1) * scene.light * (slope - slope.min()) / np.ptp(slope)
    if scene.shadow == "none":
        return np.asarray(light, np.float32)
    angle, offset = draw.uniform(0, 2 * np.pi), draw.uniform(-0.6, 0.6)
    # A straight edge, bent a little: the side of a hand or of a telephone.
    distance = x * np.cos(angle) + y * np.sin(angle) - offset
    distance += draw.uniform(-0.3, 0.3) * (y * np.cos(angle) - x * np.sin(angle)) ** 2
    edge = draw.uniform(0.1, 0.5) if scene.shadow == "soft" else draw.uniform(1, 3) / max(size)
    shade = np.clip(distance / edge + 0.5, 0, 1)
    return np.asarray(light * (1 - draw.uniform(0.25, 0.55) * shade), np.float32)


def _surround(pixels: Floats, cover: Floats, scene: Scene, draw: Generator) -> Floats:
    """Add the surroundings of the sheet."""
    height, width = cover.shape
    if scene.around == "frame":
        inset, thick = draw.integers(0, 4), draw.integers(1, 4)
        inner = pixels[inset + thick : -inset - thick, inset + thick : -inset - thick].copy()
        pixels[inset : height - inset, inset : width - inset] *= 0.45
        pixels[inset + thick : -inset - thick, inset + thick : -inset - thick] = inner
    if scene.around == "edge":
        depth = max(2, round(draw.uniform(0.01, 0.04) * min(height, width)))
        pixels = np.rot90(pixels, turns := draw.integers(4)).copy()
        pixels[:depth] *= draw.uniform(0.2, 0.6)
        pixels = np.rot90(pixels, -turns)
    if scene.around == "neighbour":
        pixels = _with_neighbour(pixels, cover, draw)
    if scene.around == "pasted":
        rows, columns = np.flatnonzero(cover.max(1) > 0.2), np.flatnonzero(cover.max(0) > 0.2)
        margin = round(0.05 * min(height, width))
        kept = np.zeros(cover.shape, bool)
        kept[
            max(rows[0] - margin, 0) : rows[-1] + margin,
            max(columns[0] - margin, 0) : columns[-1] + margin,
        ] = True
        pixels = np.where(kept[..., None], pixels, np.float32(1))
    return pixels


def _with_neighbour(pixels: Floats, cover: Floats, draw: Generator) -> Floats:
    """A piece of another digit, cut off by one side of the picture."""
    height, width = cover.shape
    columns = np.flatnonzero(cover.max(0) > 0.2)
    before, after = columns[0], width - 1 - columns[-1]
    space = max(before, after) // 2
    radius = draw.uniform(0.1, 0.2) * height
    y, x = np.mgrid[0:height, 0:width]
    depth = max(1, min(radius, space))
    middle = depth - radius if before >= after else width - 1 - depth + radius
    distance = np.hypot(x - middle, y - draw.uniform(0.3, 0.7) * height)
    thick = 0.03 * height
    ring = np.clip(thick / 2 - np.abs(distance - radius + thick) + 0.5, 0, 1)
    return np.asarray(pixels * (1 - 0.8 * ring[..., None]), np.float32)


def _camera(pixels: Floats, scene: Scene, draw: Generator) -> Image.Image:
    """Mode RGB: exposed, blurred by the lens, with the sensor's noise."""
    exposed = np.clip(pixels * 255, 0, 255)
    exposed = 255 - exposed if scene.light_ink else exposed
    picture = Image.fromarray(exposed.astype(np.uint8))
    radius = draw.uniform(*scene.blur) * max(picture.size) / 1000
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    noisy = blurred + scene.noise * draw.standard_normal(blurred.shape, np.float32)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
