"""The images and labels of rows: from bytes, files, numbers or Spark's pixels to (n, 784) uint8.

A row that cannot be read is refused with its reason and does not affect other rows. A path in a
row is read only if it lies below `image_root`.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from nanograd.digits import form
from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS, SIDE
from nanograd.errors import DataError, Reason, StorageError, UnreadableError
from nanograd.images import columns, tensors
from nanograd.images.columns import ImageColumn, ImageKind
from nanograd.images.tensors import Pictures, Refused, is_any, tensor_of
from nanograd.pictures import decode, fast_png, normalise
from nanograd.pictures.archives import SUFFIX, Archives
from nanograd.runtime import storage
from nanograd.runtime.arrays import Bytes, Mask
from nanograd.runtime.events import count
from nanograd.settings.specs import ReadOptions

# First bytes of the accepted picture formats; 784 bytes that begin otherwise are raw pixels. The
# two magic bytes of BMP and Netpbm are not enough, so the header size or a number is required, too.
_SIGNATURE = re.compile(
    rb"\x89PNG|\xff\xd8\xff[\xc0-\xfe]|GIF8[79]a|II\*\0|MM\0\*|RIFF.{4}WEBP"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|P[1-7][ \t\r\n]+[#0-9]",
    re.DOTALL,
)
# Whether a picture file may begin with a byte.
_FIRST_BYTES = np.isin(np.arange(256), list(b"\x89\xffGIMRBP"))
BAD_LABEL = -2
# A digit or -1 as text; pandas writes 7.0 if the column has missing values.
_LABEL = r"^(?:-1|[0-9])(?:\.0*)?$"

Found = TypeVar("Found")
# Makes (784,) uint8 of a picture, or another object.
Convert: TypeAlias = Callable[[Image.Image], Any]


def attempt(read: Callable[[], Found]) -> Found | UnreadableError:
    """Read a picture or row; return the error if it cannot be read."""
    try:
        return read()
    except UnreadableError as error:  # a new error, because the traceback keeps pixels in memory
        return UnreadableError(error.reason, error.detail)


def read_labels(table: pa.Table, name: str | None) -> NDArray[np.int8]:
    """Return the label of each row: -1 for none, and BAD_LABEL for a label that is no digit.

    A label is a whole number of any type, or its text. If the column has class names, the label is
    the name of the class, not its number. No label is -1, null, NaN, empty text or the text "nan".
    """
    if name is None:
        return np.full(table.num_rows, -1, np.int8)
    array, classes = _to_array(table.column(name)), columns.class_digits(table.schema, name)
    if is_any(array.type, "string", "large_string"):
        text = pc.ascii_trim_whitespace(array)
        text = pc.if_else(pc.is_in(pc.ascii_lower(text), pa.array(["", "nan"])), None, text)
        other = pc.invert(pc.match_substring_regex(text, _LABEL))
        array, classes = pc.if_else(other, "10", text), None  # other text counts as 10
    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    none = np.isnan(values) | (values == -1)
    if classes is not None:
        digits = np.array([*classes, None], np.float64)  # NaN for a class that is no digit
        known = np.isin(values, range(len(classes)))
        values = digits[np.where(known, values, len(classes)).astype(np.int64)]
    digit = np.isin(values, range(NUM_CLASSES))
    return np.where(digit, values, np.where(none, -1, BAD_LABEL)).astype(np.int8)


def _read_paths(array: pa.Array, kind: ImageKind) -> pa.Array:
    """Return the path of the picture in each row as text; null where the row names no picture.

    `ingest` and Hugging Face store it beside the bytes, and Spark in the field `origin`.
    """
    name = "origin" if kind is ImageKind.SPARK else "path"
    has_path = is_any(array.type, "struct") and name in array.type.names
    if not has_path or not columns.is_text(array.type.field(name).type):
        return pa.nulls(len(array), pa.string())
    paths = columns.valid_text(_child(array, name)).cast(pa.string())
    return pc.if_else(pc.equal(paths, ""), None, paths)


def read_images(
    table: pa.Table, column: ImageColumn, options: ReadOptions, convert: Convert | None = None
) -> tuple[NDArray[Any], pa.Array, Refused, int]:
    """Read the images of n rows, or the results of `convert` for its pictures.

    Encoded pictures and arrays of pixels are normalised, unless they are in MNIST's form; `levels`
    has the rule for the scale of numbers.

    Returns:
        images: (n, 784) uint8, ink 255 on 0; if `convert` is given, its n results instead.
            Images of refused rows are meaningless.
        paths: n paths of pictures as text; null where a row names none.
        refused: the rows that cannot be read, and why.
        num_dark: number of images, stored as numbers, in which `--polarity auto` found dark ink on
            light paper.
    """
    images, refused, num_dark = new_images(table.num_rows, convert), Refused(), 0
    counts_dark = options.polarity == "auto" and options.normalise != "never"
    to_image = convert or partial(to_form, options=options)

    def read_each(rows: Iterable[int], items: Iterable[Any], read: Callable[[Any], Any]) -> None:
        for row, item in zip(rows, items, strict=True):
            image = attempt(partial(read, item))
            if isinstance(image, UnreadableError):
                refused[row] = image
            else:
                images[row] = image

    arrays = [_to_array(table.column(name)) for name in column.names]
    array, tensor = arrays[0], tensor_of(table.schema.field(column.names[0]))
    if columns.is_text(array.type):
        array = pa.StructArray.from_arrays([array], ["path"])
    paths = _read_paths(array, column.kind)
    pictures: Iterable[Pictures] = ()
    match column.kind:
        case ImageKind.FLAT:
            pictures = tensors.from_flat_columns(arrays, tensor.scale, refused)
        case ImageKind.NUMBERS:
            pictures = tensors.from_lists(array, tensor, refused)
        case ImageKind.TENSOR:
            data, shapes = _child(array, "data"), _child(array, "shape")
            pictures = tensors.from_lists(data, tensor, refused, shapes)
        case ImageKind.SPARK:
            fields = [_child(array, name).to_pylist() for name in columns.SPARK_FIELDS]
            read = partial(_read_spark, options=options, convert=to_image)
            read_each(range(len(array)), zip(*fields, strict=True), read)
        case ImageKind.ENCODED:
            data = array
            if is_any(array.type, "struct"):
                has_bytes, nothing = "bytes" in array.type.names, pa.nulls(len(array), pa.binary())
                data = tensors.without_views(_child(array, "bytes")) if has_bytes else nothing
            raw, named = _find_raw(data), paths.to_pylist()
            pictures = [tensors.from_raw(data, raw, refused)] if raw.any() else []
            files, owners = data.filter(pa.array(~raw)).to_pylist(), np.flatnonzero(~raw)
            is_plain = np.zeros(len(files), np.bool_)
            if files and convert is None:
                plain, is_plain = read_plain(files, options)
                images[owners[is_plain]] = plain
            with Archives() as archives:
                read_each(
                    owners[~is_plain].tolist(),
                    np.flatnonzero(~is_plain).tolist(),
                    lambda at: read_encoded(
                        *(files[at], options, to_image, named[owners[at]], archives.read),
                        whole=convert is not None,
                    ),
                )
    for some, rows in pictures:
        num_dark += int(are_dark_on_light(some).sum()) if counts_dark else 0
        others = np.ones(len(rows), np.bool_)
        if convert is None:
            ready, are_ready = select_ready(_as_grey(some), options)
            others[: len(are_ready)] = ~are_ready
            images[rows[~others]] = ready
        read = partial(read_array, options=options, convert=to_image)
        read_each(rows[others].tolist(), some[others], read)
    return images, paths, refused, num_dark


def new_images(number: int, convert: Convert | None) -> NDArray[Any]:
    """Return an array for the images of rows, or for the results of `convert`."""
    return np.zeros((number, NUM_PIXELS), np.uint8) if convert is None else np.empty(number, object)


def _to_array(column: pa.ChunkedArray) -> pa.Array:
    """Convert a column to a single array without extension type, dictionary or views."""
    array = column.combine_chunks()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if is_any(array.type, "dictionary"):
        array = array.cast(tensors.plain_type(array.type)).dictionary_decode()
    return tensors.without_views(array)


def _child(array: pa.StructArray, name: str) -> pa.Array:
    """Return a field of a struct array; it is null where the struct is null."""
    return array.flatten()[array.type.get_field_index(name)]


def _find_raw(array: pa.Array) -> Mask:
    """Test which values of a binary array are raw pixels, as `is_raw` does."""
    data, starts = tensors.split_bytes(array)
    raw: Mask = (np.diff(starts) == NUM_PIXELS) & array.is_valid().to_numpy(zero_copy_only=False)
    if not is_any(array.type, "fixed_size_binary"):
        rows = np.flatnonzero(raw)
        rows = rows[_FIRST_BYTES[data[starts[rows]]]]
        raw[rows] = [is_raw(data[starts[row] : starts[row + 1]].tobytes()) for row in rows]
    return raw


def _as_grey(pictures: Bytes) -> Bytes:
    """Return pictures as (n, 784) if all are 28 x 28 and grey; otherwise (0, 784)."""
    if pictures.shape[1:3] != (SIDE, SIDE) or pictures.shape[3] == 4:
        return np.zeros((0, NUM_PIXELS), np.uint8)
    if pictures.shape[3] == 3 and (pictures != pictures[..., :1]).any():
        return np.zeros((0, NUM_PIXELS), np.uint8)
    return pictures[..., 0].reshape(len(pictures), NUM_PIXELS)


def are_dark_on_light(pictures: Bytes) -> Mask:
    """Test whether pictures, (n, height, width, channels), have bright corners, so light paper."""
    height, width = pictures.shape[1:3]
    corners = pictures[:, :: max(height - 1, 1), :: max(width - 1, 1)]
    bright: Mask = corners.mean(axis=(1, 2, 3)) > 127
    return bright


def select_ready(images: Bytes, options: ReadOptions) -> tuple[Bytes, Mask]:
    """Select those of n grey images, (n, 784) uint8, that need no normalisation.

    Return the m selected images as from `read_array`, (m, 784) uint8, and their mask, (n,) bool.
    """
    if options.normalise == "always":
        return images[:0], np.zeros(len(images), np.bool_)
    if options.normalise == "never":
        inverted = options.polarity == "dark-on-light"
        return (255 - images if inverted else images), np.ones(len(images), np.bool_)
    like = np.zeros(len(images), np.bool_)
    if options.polarity != "dark-on-light":
        like = form.are_mnist_like(images)
    if options.polarity != "light-on-dark" and not like.all():
        images = np.where(like[:, None], images, 255 - images)
        like[~like] = form.are_mnist_like(images[~like])
    return (images if like.all() else images[like]), like


def is_raw(data: bytes) -> bool:
    """Test whether bytes are 784 raw pixels and not a picture file."""
    return len(data) == NUM_PIXELS and not _SIGNATURE.match(data)


def read_plain(files: Sequence[bytes | None], options: ReadOptions) -> tuple[Bytes, Mask]:
    """Read the grey 28 x 28 PNG files in MNIST's form among n files, faster than `read_encoded`.

    Return the images of the m files that were read, (m, 784) uint8, and which they are, (n,) bool.
    """
    some = files if "png" in options.formats.split(",") else [None] * len(files)
    images, which = fast_png.decode_plain(some)
    ready, like = select_ready(images, options)
    which[which] = like
    return ready, which


def read_encoded(
    data: bytes | None,
    options: ReadOptions,
    convert: Convert,
    path: str | None = None,
    read: Callable[[str, int], bytes] = storage.read,
    *,
    whole: bool = False,
) -> Any:
    """Decode the bytes of a picture file, or 784 raw pixels, and convert them.

    If `data` is None and the options have an `image_root`, the file at `path` is read with `read`.
    See `decode` for `whole`.

    Raises:
        UnreadableError: there are no bytes, or no digit is found.
    """
    if data is None and path and options.image_root:
        data = decode.read(_below(options.image_root, path), options, read)
    if data is None:
        raise without_bytes(path)
    if not is_raw(data):
        return convert(decode.decode(data, options, whole=whole))
    refused = Refused()
    pictures, _ = tensors.from_raw(pa.array([data]), np.ones(1, np.bool_), refused)
    for error in refused.values():
        raise UnreadableError(*error.args)
    return read_array(pictures[0], options, convert)


def without_bytes(path: str | None) -> UnreadableError:
    """Return the error for a row without the bytes of its picture, which may name its path."""
    about = f"the row has a path instead of bytes, {path}; predict, train, evaluate and data have"
    detail = f"{about} --image-root for it" if path else "the picture's bytes are null"
    return UnreadableError(Reason.NO_BYTES, detail)


def _read_spark(row: tuple[Any, ...], options: ReadOptions, convert: Convert) -> Any:
    """Read height, width, nChannels and data of Spark's image struct, as `read_encoded` does.

    For a picture that it could not read, Spark writes -1 and no bytes.

    References:
        Apache Spark, "Image data source" (OpenCV's layout: row by row, channels in the order BGRA).
    """
    *sizes, data = row
    if data is None:
        raise UnreadableError(Reason.NO_BYTES, "the picture's bytes are null")
    height, width, channels = (size or 0 for size in sizes)
    decode.check_size(width, height, options.max_pixels)
    size = max(height, 0) * max(width, 0) * channels
    if not size or channels not in (1, 3, 4) or len(data) != size:
        shape = f"{width} x {height} pixels of {count(channels, 'byte')}"
        detail = f"{shape} do not take {count(len(data), 'byte')}"
        raise UnreadableError(Reason.BROKEN_IMAGE, detail)
    pixels = np.frombuffer(data, np.uint8).reshape(height, width, channels)
    pixels = pixels if channels == 1 else pixels[:, :, [2, 1, 0, 3][:channels]]
    return read_array(pixels, options, convert)


def read_array(
    pixels: Bytes, options: ReadOptions, convert: Callable[[Image.Image], Found]
) -> Found:
    """Convert the pixels of a picture, (height, width, channels), as `read_encoded` does."""
    height, width, channels = pixels.shape
    decode.check_size(width, height, options.max_pixels)
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else np.ascontiguousarray(pixels))
    return convert(decode.over_paper(picture) if channels == 4 else picture)


def to_form(picture: Image.Image, options: ReadOptions) -> Bytes:
    """Convert a decoded picture to (784,) uint8, ink 255 on 0, as the options say.

    Raises:
        UnreadableError: no digit is found; or the picture must be 28 x 28, and is not.
    """
    if options.normalise != "never":
        image = normalise.normalise(
            picture, polarity=options.polarity, always=options.normalise == "always"
        )
        return image.reshape(NUM_PIXELS)
    if picture.size != (SIDE, SIDE):
        detail = f"the picture has {picture.width} x {picture.height} pixels, not 28 x 28"
        raise UnreadableError(Reason.WRONG_SHAPE, detail)
    grey = np.asarray(picture.convert("L")).reshape(NUM_PIXELS)
    return 255 - grey if options.polarity == "dark-on-light" else grey


def require_root(options: ReadOptions) -> None:
    """Raise DataError if the `image_root` in options is neither a folder nor a ZIP file."""
    if (given := options.image_root) is None:
        return
    root = storage.absolute(given)
    try:
        is_folder = storage.exists(root) and not storage.is_file(root)
    except StorageError:
        if not storage.is_remote(root):
            raise
        is_folder = True  # a store may allow to read objects and not to list them
    if not is_folder and not (storage.is_file(root) and root.lower().endswith(SUFFIX)):
        raise DataError(f"--image-root {given}: there is no such folder; check the path")


def _below(root: str, path: str) -> str:
    """Resolve a row's path, which must lie below the root."""
    outside = f"the path {path!r} leads outside {root}"
    if "\0" in path:
        raise UnreadableError(Reason.OUTSIDE_ROOT, outside)
    if storage.is_remote(root):
        place = storage.absolute(path) if storage.is_remote(path) else storage.join(root, path)
        inside = place.startswith(storage.join(root, "")) and ".." not in place.split("/")
    else:
        # Path.resolve raises for circular links and for names that are too long; realpath does not.
        folder = os.path.realpath(storage.local_path(root))
        place = os.path.realpath(Path(folder, path.removeprefix("file://")))
        inside = Path(place).is_relative_to(folder)
        if inside and os.path.exists(place) and not os.path.isfile(place):  # noqa: PTH110, PTH113
            raise UnreadableError(Reason.NO_FILE, f"{path!r} is no file in {root}")
    if not inside:
        raise UnreadableError(Reason.OUTSIDE_ROOT, outside)
    return place
