"""Synthetic photos of handwriting: MNIST digits drawn with another pen on a sheet of paper.

`photograph` simulates the steps of a photo: strokes cover the paper, light and shadow fall on it,
ink and paper reflect, the lens blurs, the sensor adds noise, and JPEG loses detail. The digit, the
kind of photo (`scenes.KINDS`) and the seed determine the picture.

References:
    Zhang & Suen (1984), "A fast parallel algorithm for thinning digital patterns".
"""

import colorsys
from io import BytesIO

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import binary_erosion, distance_transform_edt

from nanograd.pictures.morphology import label_marks
from nanograd.runtime.arrays import Bytes, Doubles, Floats, Mask
from simulators.scenes import KINDS, Scene

# Factor by which MNIST's images are enlarged before a pen is drawn; a digit then has 80 pixels.
_ENLARGED = 4
_DIGIT = 20 * _ENLARGED
# Levels above which a pixel belongs to a stroke. A lower level is used if strokes would break.
_LEVELS = (110, 90, 70, 50, 30)
# A loop counts as filled where the ink is more than this many times as wide as the strokes.
_FILLED = 1.6


def photograph(digit: Bytes, kind: str, seed: int, height: int = 20) -> bytes:
    """Simulate a photo of a digit, or of a line of digits.

    Args:
        digit: (28, 28) uint8, ink 255 on 0; or a line of digits, wider than high.
        kind: a key of `KINDS`.
        seed: seed of all random values.
        height: height of the digits, in pixels.

    Returns:
        A JPEG file, or a PNG file for kinds that are cropped to the digit.
    """
    scene = KINDS[kind]
    draw = np.random.default_rng([seed, list(KINDS).index(kind)])
    if scene.tight:
        return _crop(write_with(digit, scene, draw, height), scene, draw)
    size = _size(scene, draw, is_wide=digit.shape[1] > digit.shape[0])
    cover = _lay_down(write_with(digit, scene, draw, height), size, scene, draw)
    sheet = _sheet(scene, size, draw)
    ink = _ink(scene, cover.shape, draw)
    if scene.equal_light:
        colour, other = _equal_light(draw)
        sheet, ink = sheet / sheet.mean() * colour, 1 - other / colour
    reflected = sheet * (1 - cover[..., None] * ink)
    reflected *= _light(scene, size, draw)[..., None]
    picture = _camera(_surround(reflected, cover, scene, draw), scene, draw)
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=int(draw.uniform(*scene.quality)))
    return stream.getvalue()


def _crop(stroke: Image.Image, scene: Scene, draw: Generator) -> bytes:
    """Return a grey PNG file that is cropped to the digit; half of the files have a margin."""
    stroke = stroke.filter(ImageFilter.MaxFilter(int(draw.choice([1, 3, 5, 7, 9]))))
    left, top, right, bottom = stroke.point(lambda level: 255 * (level > 64)).getbbox()
    side, length = round(draw.uniform(*scene.side)), max(right - left, bottom - top)
    side = round(side * length / (bottom - top)) if length > 2 * (bottom - top) else side
    margin = int(draw.integers(2)) * draw.uniform(*scene.tight) * length
    box = (left - margin, top - margin, right + margin, bottom + margin)
    scale = side / (length + 2 * margin)
    size = [max(1, round((end - start) * scale)) for start, end in zip(box, box[2:], strict=False)]
    around = max(stroke.size)
    canvas = Image.new("L", [each + 2 * around for each in stroke.size])
    canvas.paste(stroke, (around, around))
    moved = [edge + around for edge in box]
    cover = np.asarray(canvas.resize(size, Image.Resampling.BOX, moved), np.float32) / 255
    paper, ink = draw.uniform(*scene.paper), draw.uniform(*scene.ink)
    if side < 100:  # bitmaps are black and white
        paper, ink = 1.0, 1 - 0.2 * draw.random()
    grey = 255 * paper * (1 - cover * ink)
    if side >= 100:
        grey += scene.noise * draw.standard_normal(grey.shape, np.float32)
    grey = np.clip(grey, 0, 255).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(~grey if draw.random() < 0.5 else grey).save(stream, "PNG")
    return stream.getvalue()


def _equal_light(draw: Generator) -> tuple[Floats, Floats]:
    """Choose different colours of nearly the same brightness for sheet and ink."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    while True:
        hue, saturation, value = draw.random(), draw.uniform(0.5, 1), draw.uniform(0.5, 1)
        other_hue = hue + draw.uniform(-0.5, 0.5)
        other = draw.choice([0.0, draw.uniform(0.4, 1)])  # half of the proposed inks are grey
        sheet, ink = (
            np.asarray(colorsys.hsv_to_rgb(*each), np.float32)
            for each in ((hue, saturation, value), (other_hue, other, draw.uniform(0.3, 1)))
        )
        sheet = np.maximum(sheet, 0.02)
        if abs((sheet - ink) @ weights) < 0.08 and np.abs(sheet - ink).max() > 0.3:
            return sheet, ink


def _size(scene: Scene, draw: Generator, *, is_wide: bool) -> tuple[int, int]:
    longest, share = draw.uniform(*scene.side), draw.uniform(0.6, 1)
    sides = (round(longest), round(longest * share))
    return sides if draw.random() < 0.5 or is_wide else sides[::-1]


def write_with(digit: Bytes, scene: Scene, draw: Generator, height: int) -> Image.Image:
    """Write the digit with a pen of the scene, 80 pixels high, as a picture of mode L.

    Ink is 255 on 0. See `photograph` for `digit` and `height`.
    """
    size = digit.shape[1] * _DIGIT // height, digit.shape[0] * _DIGIT // height
    large = Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC)
    if scene.pen is None:
        return large.point(lambda level: min(255, max(0, 3 * level - 255)))
    # Use the highest level at which the strokes do not break into more pieces.
    smooth = np.asarray(large.filter(ImageFilter.GaussianBlur(1.5)))
    pieces = label_marks(digit > 0)[1]
    masks = [smooth > level for level in _LEVELS]
    mask = next((mask for mask in masks if label_marks(mask)[1] <= pieces), masks[-1])
    # Draw a round pen along the centre line, at twice the size, and scale it down.
    diameter = draw.uniform(*scene.pen) * _DIGIT
    picture = Image.new("L", (2 * size[0], 2 * size[1]))
    pen = ImageDraw.Draw(picture)
    for y, x in np.argwhere(centre_line(mask)):
        pen.circle((2 * x + 1, 2 * y + 1), diameter, fill=255)
    return picture.resize(size, Image.Resampling.BOX)


def centre_line(mask: Mask) -> Mask:
    """Find the path of the pen: the middle of strokes, and a circle around filled loops.

    Thinning alone would turn a filled loop into a line, and a six into a one. A loop counts as
    filled where the ink is wider than at a crossing of strokes. The radius of the ink at a crossing
    is at most 1.42 times the radius of the strokes.
    """
    line = thinned(mask)
    depth = distance_transform_edt(mask)
    radius = np.median(depth[line])
    blobs = depth > _FILLED * radius
    if not blobs.any():
        return line
    near = distance_transform_edt(~blobs) < (_FILLED - 1) * radius + 1
    loops = near & (depth > radius)
    return (line & ~loops) | (loops & ~binary_erosion(loops))


def thinned(mask: Mask) -> Mask:
    """Thin strokes to lines of one pixel's width (Zhang & Suen, 1984)."""
    left = np.pad(mask, 1)
    while True:
        before = left.sum()
        for first in (True, False):
            left &= ~_removable(left, first)
        if left.sum() == before:
            return left[1:-1, 1:-1]


def _removable(mask: Mask, first: bool) -> Mask:
    """Find the pixels that one of the two steps of thinning removes."""
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
    """Place the stroke in the picture; return the covered share of each pixel, (height, width)."""
    left, top, right, bottom = stroke.point(lambda level: 255 * (level > 64)).getbbox()
    # A line of digits fills a share of the width.
    is_wide = right - left > 2 * (bottom - top)
    length = draw.uniform(*scene.digit) * (size[0] if is_wide else min(size))
    scale = length / max(right - left, bottom - top)
    length = scale * 2 * (bottom - top) if is_wide else length
    corners = np.array([(left, top), (left, bottom), (right, bottom), (right, top)], float)
    middle = corners.mean(0)
    angle = np.deg2rad(draw.uniform(-scene.tilt, scene.tilt))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shifts = draw.uniform(-1, 1, (4, 2)) * scene.perspective * length
    placed = (corners - middle) @ turn.T * scale + shifts
    space = np.array(size) - np.ptp(placed, axis=0)
    # Keep the digit on the sheet, away from what is beside it.
    least = 0.3 if scene.around in ("binding", "table") else 0.04
    placed += (
        np.maximum(space, 0) * draw.uniform(least, 1 - least, 2)
        - placed.min(0)
        + np.minimum(space, 0) / 2
    )
    coefficients = _perspective(placed, corners)
    flat = stroke.transform(
        size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC
    )
    return np.asarray(flat, dtype=np.float32) / 255


def _perspective(targets: Doubles, sources: Doubles) -> tuple[float, ...]:
    """Compute Pillow's eight coefficients, which map four target points to their sources."""
    rows, values = [], []
    for (x, y), (u, v) in zip(targets, sources, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return tuple(np.linalg.solve(np.array(rows), np.array(values)))


def _sheet(scene: Scene, size: tuple[int, int], draw: Generator) -> Floats:
    """Make paper with grain and lines, (height, width, 3) float32."""
    width, height = size
    colour = draw.uniform(*scene.paper) * (1 - scene.tint * draw.random(3))
    sheet = np.ones((height, width), np.float32)
    for cell in (1, 3):
        sheet += scene.grain * _smooth_noise(size, cell, draw)
    if scene.lines in ("squares", "dots"):
        sheet *= 1 - _strong_lines(scene, size, draw)
    elif scene.lines != "none":
        sheet *= 1 - _lines(scene, size, draw)
    return np.asarray(sheet[..., None] * colour, np.float32)


def _smooth_noise(size: tuple[int, int], cell: int, draw: Generator) -> Floats:
    width, height = size
    coarse = draw.standard_normal((-(-height // cell), -(-width // cell)), np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def _lines(scene: Scene, size: tuple[int, int], draw: Generator) -> Floats:
    """Compute the share of light that thin printed lines absorb, (height, width) float32."""
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


def _strong_lines(scene: Scene, size: tuple[int, int], draw: Generator) -> Floats:
    """Compute the share of light that large squares or dots absorb, (height, width) float32."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    short, bent = min(size), draw.uniform(-0.015, 0.015, 2)
    gap = draw.uniform(0.12, 0.45) * short
    thick, strength = draw.uniform(0.005, 0.012) * short, draw.uniform(0.15, 0.45)
    strength *= 1.4 if scene.lines == "dots" else 1
    halves = scene.lines == "squares" and gap > 0.25 * short and draw.random() < 0.4
    distances = []
    for along, across, bend in ((x, y, bent[0]), (y, x, bent[1])):
        slope = np.deg2rad(draw.uniform(-2.5, 2.5))
        position = across + slope * along + bend * short * (along / short - 0.5) ** 2
        phase = draw.uniform(0, gap)
        distances.append([np.abs((position + phase) % each - each / 2) for each in (gap, gap / 2)])
    if scene.lines == "dots":
        away = np.hypot(distances[0][0], distances[1][0])
        return np.asarray(np.clip(1.2 * thick + 0.5 - away, 0, 1) * strength, np.float32)
    taken = np.zeros((height, width), np.float32)
    for near, half in distances:
        taken = np.maximum(taken, np.clip(thick / 2 + 0.5 - near, 0, 1) * strength)
        if halves:
            taken = np.maximum(taken, np.clip(thick / 2 + 0.5 - half, 0, 1) * strength / 2)
    return np.asarray(taken, np.float32)


def _ink(scene: Scene, shape: tuple[int, ...], draw: Generator) -> Floats:
    """Compute the share of light that the ink absorbs, (height, width, 3) float32."""
    colour = np.ones(3)
    if scene.hue:
        colour[draw.integers(3)] = draw.uniform(0.1, 0.6)
    taken = np.full(shape, draw.uniform(*scene.ink), np.float32)
    if scene.texture:
        taken *= 1 - scene.texture * (_smooth_noise(shape[::-1], 2, draw) > 0.8)
    return np.asarray(taken[..., None] * colour, np.float32)


def _light(scene: Scene, size: tuple[int, int], draw: Generator) -> Floats:
    """Compute the light on each pixel, (height, width) float32, at most 1."""
    width, height = size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle, bend = draw.uniform(0, 2 * np.pi), draw.uniform(0, 0.6)
    slope = (x * np.cos(angle) + y * np.sin(angle)) / 1.42 + bend * (x**2 + y**2) / 2
    light = 1 - draw.uniform(0.5, 1) * scene.light * (slope - slope.min()) / np.ptp(slope)
    if scene.vignette:
        strength, power = draw.uniform(*scene.vignette), draw.uniform(1, 2)
        middle = draw.uniform(-0.2, 0.2, 2)
        radius = ((x - middle[0]) ** 2 + (y - middle[1]) ** 2) / 2
        light = light * np.exp(-strength * radius**power)
    if scene.shadow == "none":
        return np.asarray(light, np.float32)
    angle, offset = draw.uniform(0, 2 * np.pi), draw.uniform(-0.6, 0.6)
    # The shadow of a hand or a phone has a slightly bent edge.
    distance = x * np.cos(angle) + y * np.sin(angle) - offset
    distance += draw.uniform(-0.3, 0.3) * (y * np.cos(angle) - x * np.sin(angle)) ** 2
    edge = draw.uniform(0.1, 0.5) if scene.shadow == "soft" else draw.uniform(1, 3) / max(size)
    shade = np.clip(distance / edge + 0.5, 0, 1)
    return np.asarray(light * (1 - draw.uniform(0.25, 0.55) * shade), np.float32)


def _surround(pixels: Floats, cover: Floats, scene: Scene, draw: Generator) -> Floats:
    """Add what surrounds the digit or the sheet."""
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
    if scene.around == "binding":
        pixels = _with_binding(pixels, draw)
    if scene.around == "table":
        pixels = _with_table(pixels, draw)
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


def _with_binding(pixels: Floats, draw: Generator) -> Floats:
    """Add a spiral binding with a dark edge at one side, in half of the pictures at two sides."""
    turned = np.rot90(pixels, turns := int(draw.integers(4))).copy()
    height, width = turned.shape[:2]
    depth = draw.uniform(0.03, 0.1) * min(height, width)
    dark = draw.uniform(0.08, 0.4) * (1 - 0.2 * draw.random(3))
    rings = int(draw.integers(18, 37) * width / max(height, width))
    pitch, hole = width / rings, draw.uniform(0.12, 0.3)
    shape = Image.new("L", (width, height))
    pen = ImageDraw.Draw(shape)
    pen.rectangle((0, 0, width, depth * draw.uniform(0.3, 1)), fill=255)
    slant, phase, below = draw.uniform(-0.3, 0.3), draw.random(), depth * draw.uniform(1.1, 1.5)
    for ring in range(rings + 1):
        x = (ring + phase) * pitch
        radius = hole * pitch
        pen.ellipse((x - radius, below - radius, x + radius, below + radius), fill=255)
        wire = (x, below, x + slant * pitch, 0)
        pen.line(wire, fill=int(draw.uniform(150, 255)), width=max(1, round(radius * 0.7)))
    if draw.random() < 0.5:
        edge = draw.uniform(0.01, 0.06) * min(height, width)
        shift = draw.uniform(-0.03, 0.03) * height
        pen.polygon(((0, 0), (edge, 0), (max(0, edge + shift), height), (0, height)), fill=255)
    share = np.asarray(shape, np.float32)[..., None] / 255
    lit = turned / max(float(turned.max()), 0.1)
    return np.rot90(turned * (1 - share) + share * dark * lit, -turns).astype(np.float32)


def _with_table(pixels: Floats, draw: Generator) -> Floats:
    """Add a table, a cloth or a second sheet beyond a slanted edge of the sheet."""
    turned = np.rot90(pixels, turns := int(draw.integers(4))).copy()
    height, width = turned.shape[:2]
    short = min(height, width)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    tilt, depth = np.tan(np.deg2rad(draw.uniform(-5, 5))), draw.uniform(0.03, 0.13) * short
    away = y + (x - width / 2) * tilt - depth  # negative beyond the edge
    beyond = np.clip(0.5 - away, 0, 1)[..., None]
    if draw.random() < 0.4:
        other = turned.mean((0, 1)) * draw.uniform(0.75, 1.15)
    else:
        other = draw.uniform(0.15, 0.6) * np.array([1, draw.uniform(0.6, 1), draw.uniform(0.4, 1)])
        weave = np.sin(2 * np.pi * np.stack([x, y]) / draw.uniform(0.01, 0.04) / short)
        grain = _smooth_noise((width, height), 3, draw)
        pattern = [1 + 0.1 * grain, 1 + 0.2 * weave.prod(0), 1 + 0.15 * weave[0] + 0.05 * grain]
        other = other * pattern[draw.integers(3)][..., None]
    soft = draw.uniform(0.003, 0.02) * short
    shadow = draw.uniform(0.2, 0.7) * np.exp(-np.abs(away) / soft) * (away < 0.5)
    mixed = (turned * (1 - beyond) + beyond * other) * (1 - shadow[..., None])
    return np.rot90(mixed, -turns).astype(np.float32)


def _with_neighbour(pixels: Floats, cover: Floats, draw: Generator) -> Floats:
    """Add a part of another digit, cut off by one side of the picture."""
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
    """Take the picture, of mode RGB: exposure, blur of the lens, noise of the sensor."""
    exposed = np.clip(pixels * 255, 0, 255)
    exposed = 255 - exposed if scene.light_ink else exposed
    picture = Image.fromarray(exposed.astype(np.uint8))
    radius = draw.uniform(*scene.blur) * max(picture.size) / 1000
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    noisy = blurred + scene.noise * draw.standard_normal(blurred.shape, np.float32)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
