"""Spark's image struct: pixels as they lie in memory, blue first."""

from typing import Any

from PIL import Image

from nanograd.data.pictures import UnreadableError

# Channels -> Pillow's mode, and how the bytes of a pixel follow each other.
_LAYOUTS = {1: ("L", "L"), 3: ("RGB", "BGR"), 4: ("RGBA", "BGRA")}


def picture(row: dict[str, Any] | None, max_pixels: int) -> Image.Image:
    """The picture of one row, transparency over white.

    Args:
        row: height, width, nChannels and data; Spark writes -1 and no bytes for what it could not
            read. `mode` says no more than the channels: Spark stores bytes alone.
        max_pixels: width x height allowed.

    Returns:
        The picture in mode L (8-bit grey) or RGB.

    Raises:
        UnreadableError: `no_bytes`, `broken_image` or `too_large`.

    References:
        Apache Spark, "Image data source" (OpenCV's layout: row by row, channels in the order BGRA).
    """
    if row is None or row["data"] is None:
        raise UnreadableError("no_bytes", "the picture's bytes are null")
    height, width, channels = (row[name] or 0 for name in ("height", "width", "nChannels"))
    if height < 1 or width < 1 or channels not in _LAYOUTS:
        detail = f"{width} x {height} pixels in {channels} channels are no picture"
        raise UnreadableError("broken_image", detail)
    if height * width > max_pixels:
        detail = f"the picture has {width} x {height} pixels, more than {max_pixels}"
        raise UnreadableError("too_large", detail)
    if len(row["data"]) != height * width * channels:
        detail = f"{len(row['data'])} bytes are not {width} x {height} pixels of {channels}"
        raise UnreadableError("broken_image", detail)
    mode, order = _LAYOUTS[channels]
    found = Image.frombytes(mode, (width, height), row["data"], "raw", order)
    if mode != "RGBA":
        return found
    return Image.alpha_composite(Image.new("RGBA", found.size, "white"), found).convert("RGB")
