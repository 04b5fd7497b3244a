"""Images as the rows of a column, and how they are read."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from nanograd.tables.columns import find_image_column
from nanograd.tables.images import Decoded, read_images
from nanograd.tables.rows import Reading

Images = NDArray[np.uint8]
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(pixels: Images) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels.reshape(28, 28)).save(stream, "PNG")
    return stream.getvalue()


def bar_image() -> Images:
    """A picture that passes the normaliser unchanged: 20 pixels tall, in the middle."""
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 13:15] = 255
    return image.reshape(784)


def read(column: pa.Array | Sequence[Any], type_: pa.DataType | None = None) -> Decoded:
    array = column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, type_)
    table = pa.table({"image": array})
    where = find_image_column(table.schema)
    return read_images(table, where, Reading())
