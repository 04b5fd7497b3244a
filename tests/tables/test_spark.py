from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.helpers.image_columns import Images, bar_image, read

SPARK = pa.struct(
    [
        ("origin", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("nChannels", pa.int32()),
        ("mode", pa.int32()),
        ("data", pa.binary()),
    ]
)


def _spark(pixels: Images, mode: int) -> dict[str, Any]:
    """What Spark stores of (height, width, channels)."""
    height, width, channels = pixels.shape
    return {
        "origin": "file:///never/read.png",
        "height": height,
        "width": width,
        "nChannels": channels,
        "mode": mode,
        "data": pixels.tobytes(),
    }


def test_sparks_pictures_are_read_in_grey_colour_and_transparent() -> None:
    bar = bar_image().reshape(28, 28, 1)
    clear = np.concatenate([np.repeat(255 - bar, 3, 2), np.full_like(bar, 255)], axis=2)
    clear[bar[:, :, 0] == 0] = 0  # black paper, wholly transparent

    decoded = read([_spark(bar, 0), _spark(np.repeat(bar, 3, 2), 16), _spark(clear, 24)], SPARK)

    assert decoded.rejects == []
    assert np.array_equal(decoded.images, [bar_image()] * 3)


def test_sparks_colours_are_blue_first() -> None:
    pixels = np.full((28, 28, 3), 255, np.uint8)
    pixels[4:24, 13:15] = (255, 0, 0)
    wanted = Image.fromarray(pixels[:, :, ::-1])
    stream = BytesIO()
    wanted.save(stream, "PNG")

    spark, png = read([_spark(pixels, 16)], SPARK), read([stream.getvalue()])

    assert np.array_equal(spark.images, png.images)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": None}, "no_bytes"),
        ({"data": bytes(783)}, "broken_image"),
        ({"height": -1, "width": -1, "nChannels": -1, "data": b""}, "broken_image"),
        ({"nChannels": 2}, "broken_image"),
        ({"height": None}, "broken_image"),
        ({"height": 100_000, "width": 100_000}, "too_large"),
    ],
)
def test_sparks_broken_picture_touches_no_other(change: dict[str, Any], reason: str) -> None:
    bar = _spark(bar_image().reshape(28, 28, 1), 0)

    decoded = read([bar, bar | change, None, bar], SPARK)

    assert decoded.rows.tolist() == [0, 3]
    assert [each.reason for each in decoded.rejects] == [reason, "no_bytes"]
