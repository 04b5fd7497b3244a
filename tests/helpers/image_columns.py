"""Images in columns of every kind, and tables read as `nanograd predict` reads them."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanograd.digits.form import to_png
from nanograd.images.reader import Batch, read_table
from nanograd.settings.specs import ReadOptions

Pixels = NDArray[np.uint8]
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def bar_image() -> Pixels:
    """An image that the normaliser leaves unchanged: 20 pixels tall, centred."""
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 13:15] = 255
    return image.reshape(784)


def fixed_list(images: Pixels) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(images.ravel()), 784)


def tensor(images: Pixels) -> pa.Array:
    type_ = pa.fixed_shape_tensor(pa.uint8(), (28, 28))
    return pa.ExtensionArray.from_storage(type_, fixed_list(images))


def tensors(values: Any) -> pa.Array:
    """Arrow tensors of any shape; the array may be a view."""
    return pa.FixedShapeTensorArray.from_numpy_ndarray(values)


def ray_tensors(images: Pixels, name: str = "tensor_v2", metadata: bytes = b"") -> pa.Table:
    """Images (n, height, width) as a table that Ray wrote."""
    stored = metadata or json.dumps(images.shape[1:]).encode()
    about = {"ARROW:extension:name": f"ray.data.arrow_{name}", "ARROW:extension:metadata": stored}
    if name == "variable_shaped_tensor":
        column = variable_tensors(images.reshape(len(images), 784))
    else:
        type_ = pa.list_(pa.uint8()) if name == "tensor" else pa.large_list(pa.uint8())
        column = pa.array(images.reshape(len(images), -1).tolist(), type_)
    return pa.table([column], pa.schema([pa.field("image", column.type, metadata=about)]))


def with_features(table: pa.Table, **features: Any) -> pa.Table:
    """A table with what Hugging Face's datasets store about its columns."""
    about = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": about})


def spark(pixels: Pixels, mode: int = 0) -> dict[str, Any]:
    """The value that Spark stores for (height, width, channels)."""
    height, width, channels = pixels.shape
    return {
        **{"origin": "file:///never/read.png", "height": height, "width": width},
        **{"nChannels": channels, "mode": mode, "data": pixels.tobytes()},
    }


def variable_tensors(images: Pixels) -> pa.Array:
    type_ = pa.struct([("data", pa.list_(pa.uint8())), ("shape", pa.list_(pa.int64()))])
    return pa.array([{"data": image.tolist(), "shape": [28, 28]} for image in images], type_)


def raw(images: Pixels, type_: pa.DataType | None = None) -> pa.Array:
    return pa.array([image.tobytes() for image in images], type_)


NUMBER_COLUMNS: dict[str, Callable[[Pixels], pa.Array]] = {
    "fixed-size list": fixed_list,
    "tensor": tensor,
    "list of integers": lambda images: pa.array(images.tolist(), pa.list_(pa.int64())),
    "large list": lambda images: pa.array(images.tolist(), pa.large_list(pa.uint8())),
    "floats to 255": lambda images: pa.array(images.tolist(), pa.list_(pa.float32())),
    "floats to 1": lambda images: pa.array((images / 255).tolist(), pa.list_(pa.float64())),
    "half floats": lambda images: pa.array(list(images.astype(np.float16))),
    "28 x 28 lists": lambda images: pa.array(images.reshape(-1, 28, 28).tolist()),
    "1 x 28 x 28 lists": lambda images: pa.array(images.reshape(-1, 1, 28, 28).tolist()),
    "list views": lambda images: pa.array(images.tolist(), pa.list_view(pa.uint8())),
    "28 x 28 list views": lambda images: pa.array(
        images.reshape(-1, 28, 28).tolist(), pa.large_list(pa.large_list_view(pa.int16()))
    ),
    "raw bytes": raw,
    "views of raw bytes": lambda images: raw(images, pa.binary_view()),
    "variable tensors": variable_tensors,
    "raw bytes in a dictionary": lambda images: raw(images).dictionary_encode(),
    "fixed-size raw bytes": lambda images: raw(images, pa.binary(784)),
}
PICTURE_COLUMNS: dict[str, Callable[[Pixels], pa.Array]] = {
    "struct": lambda images: pa.array(
        [{"bytes": to_png(image), "path": "/never/read.png"} for image in images], PICTURE
    ),
    "png": lambda images: pa.array([to_png(image) for image in images], pa.binary()),
    "large png": lambda images: pa.array([to_png(image) for image in images], pa.large_binary()),
}
FLAT_NAMES = {
    "pixel0": [f"pixel{number}" for number in range(784)],
    "pixel1": [f"pixel{number}" for number in range(1, 785)],
    "Pixel_0": [f"Pixel_{number}" for number in range(784)],
    "px0": [f"px{number}" for number in range(784)],
    "0": [str(number) for number in range(784)],
    "1x1": [f"{row}x{column}" for row in range(1, 29) for column in range(1, 29)],
}


def csv_text(header: Sequence[str], *columns: Any) -> str:
    """Return columns as CSV; without a header if it is empty."""
    rows = [header] * bool(header) + [list(map(str, each)) for each in zip(*columns, strict=True)]
    return "".join(",".join(row) + "\n" for row in rows)


def read_column(
    column: pa.Array | Sequence[Any],
    type_: pa.DataType | None = None,
    metadata: dict[str, str] | None = None,
    **options: Any,
) -> tuple[Batch, pa.Table]:
    array = column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, type_)
    schema = pa.schema([pa.field("image", array.type, metadata=metadata)])
    return read_table(pa.table([array], schema), ReadOptions(**options))


def reasons(quarantine: pa.Table) -> list[tuple[int | None, str]]:
    return [(row["source_row"], row["reason"]) for row in quarantine.to_pylist()]
