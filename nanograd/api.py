"""The Python API besides commands: load a model, convert a picture, classify rows in batches."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import prod
from os import PathLike, fsdecode
from typing import IO, Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from nanograd.digits import levels
from nanograd.errors import ArgumentError, DataError, Reason, UnreadableError
from nanograd.images import columns, rows, tensors
from nanograd.images.reader import Batch, read_pictures, read_table
from nanograd.models import model as model_io
from nanograd.models.model import Assessment, Model
from nanograd.numbers import recognise
from nanograd.numbers.recognise import Number
from nanograd.pictures import decode, normalise
from nanograd.runtime import process, storage
from nanograd.settings.arguments import as_arguments, method_takes, resolved
from nanograd.settings.fields import Place
from nanograd.settings.specs import NO_LABELS, Polarity, ReadOptions

load_model = model_io.load
Picture: TypeAlias = Place | bytes | IO[bytes] | Image.Image | ArrayLike
Found = TypeVar("Found")
# A table of pyarrow, a DataFrame of pandas or polars, or a dictionary of arrays, as in Ray Data.
Table: TypeAlias = Any

OWN = ("prediction", "confidence", "unfamiliarity", "probabilities", "label", "reason", "detail")


def read_picture(picture: Picture, *, polarity: Polarity = "auto") -> NDArray[np.uint8]:
    """Convert a photo, scan or drawing of one digit to 28 x 28 pixels, as `ingest` does.

    Args:
        picture: one of these: path or URI of a file, possibly in a ZIP file; bytes of a file; a
            file opened in binary mode; a Pillow image; an array (H, W), (H, W, C) or (C, H, W) with
            C = 3 or 4, of booleans, or of numbers from 0 to 1 or from 0 to 255.
        polarity: auto, dark-on-light or light-on-dark ink.

    Returns:
        (28, 28) uint8, ink 255 on 0.

    Raises:
        UnreadableError: no digit was found; `reason` and `detail` say why.
        UsageError: an argument has another type or value.
    """
    return _convert(picture, partial(normalise.normalise, polarity=polarity), polarity)


def read_numbers(
    picture: Picture, model: Model | Place | None = None, *, polarity: Polarity = "auto"
) -> list[Number]:
    """Read the lines of digits in a photo, scan or drawing, as `predict --digits many` does.

    Args:
        picture: see `read_picture`.
        model: classifies the digits; a model, or its path or URI as for `load_model`; None for the
            model in this package.
        polarity: auto, dark-on-light or light-on-dark ink.

    Returns:
        The lines from top to bottom, then from left to right; at least one.

    Raises:
        UnreadableError: no mark was found, or no mark is a digit; `reason` and `detail` say why.
        UsageError: an argument has another type or value.
    """
    with process.one_thread():
        convert = partial(recognise.read_numbers, model=load_model(model), polarity=polarity)
        return _convert(picture, convert, polarity, whole=True)


def _convert(
    picture: Picture, convert: Callable[[Image.Image], Found], polarity: str, *, whole: bool = False
) -> Found:
    """Decode a picture, `whole` or reduced as in `decode`, and convert it."""
    with resolved(ReadOptions, {"polarity": polarity}) as options:
        if hasattr(picture, "read"):
            with suppress(UnicodeDecodeError):
                picture = picture.read(options.max_bytes + 1)
            if isinstance(picture, str) or hasattr(picture, "read"):
                raise ArgumentError("the file was opened as text; open it with 'rb'")
        if isinstance(picture, Image.Image):
            if not all(picture.size):
                raise UnreadableError(Reason.EMPTY, "the picture has no pixels")
            return convert(decode.from_pillow(picture, options))
        if isinstance(picture, str | PathLike):
            item: tuple[str, bytes | None] = storage.absolute(fsdecode(picture)), None
        elif isinstance(picture, bytes | bytearray | memoryview):
            item = "", bytes(picture)
        else:
            pixels = np.asarray(picture)
            axes = tensors.picture_axes(pixels.shape)
            if pixels.dtype.kind not in "bfui" or axes is None:
                raise ArgumentError(
                    "a picture is a path, bytes, an open file, a Pillow image or an array (H, W) "
                    f"or of 3 or 4 channels, not {pixels.dtype} {pixels.shape}"
                )
            of_scale, problem = levels.array_to_levels(pixels[None])
            if problem:
                raise UnreadableError(Reason.BAD_PIXEL, problem[1])
            return rows.read_array(tensors.as_pictures(of_scale, axes)[0], options, convert)
        [(_, found)] = read_pictures([item], convert, options, whole=whole)
        if isinstance(found, UnreadableError):
            raise found
        return found


class Predictor:
    """A classifier of digits in batches, for `ray.data.Dataset.map_batches` or a loop.

    Each row of a batch is returned once, without its image, in the same order and format. Columns
    are added as in `nanograd predict`: prediction, confidence, unfamiliarity, probabilities and
    label. A row that cannot be read has a reason and a detail instead, as in the folder
    `quarantine/` of the command; its prediction is null, or -1 in numpy and pandas. An input column
    with the name of an added column is returned as `input_NAME`. Columns without images or labels
    may have any type. A batch is a table of pyarrow, a DataFrame of pandas or polars, or a dict of
    arrays.

    Args:
        model: path or URI of a model or run directory, or a `Model`; None for the model in this
            package.
        options: image_column, label_column, polarity, normalise, max_pixels, formats, max_bytes and
            image_root, as for the command.

    Raises:
        DataError: the model or `image_root` is missing, the model is damaged, or the columns of a
            batch cannot be read.
        ArgumentError: an option is unknown or invalid, a batch has another type, or Arrow cannot
            hold its values. This error is also a ValueError and a TypeError.
    """

    @method_takes(ReadOptions)
    def __init__(self, model: Place | Model | None = None, **options: Any) -> None:
        self._model = model_io.load(model)
        with resolved(ReadOptions, options) as self._options:
            rows.require_root(self._options)

    def __call__(self, batch: Table) -> Table:
        """Classify the rows of a batch."""
        given = _columns(batch)
        table = _to_table(given, self._options)
        try:
            images = columns.find_image_column(table.schema, self._options.image_column).names
            labels = self._options.label_column
            if labels not in (None, NO_LABELS, *table.column_names):
                listed = columns.list_names(table.column_names)
                raise DataError(f"there is no column {labels!r} among {listed}")
            found, rejected = read_table(table, self._options)
        except DataError as error:
            raise DataError(as_arguments(str(error))) from error
        first = given[images[0]]
        if isinstance(first, np.ndarray) and first.dtype.kind == "S":
            raise ArgumentError(f"{first.dtype} loses zeros at the end; pass a list of bytes")
        with process.one_thread():
            assessed = self._model.assess(found.images)
        added = _align(found, assessed, rejected)
        names = [name for name in given if name not in images]
        kept = dict(zip(columns.rename_taken(names, OWN), map(given.get, names), strict=True))
        return _like(batch, names, kept, added)


def _columns(batch: Table) -> dict[str, Any]:
    if isinstance(batch, pa.Table | pa.RecordBatch):
        names = batch.schema.names
    elif isinstance(batch, Mapping):
        names = list(batch)
    elif hasattr(batch, "__len__") and hasattr(batch, "columns"):  # pandas, polars, but not lazy
        names = list(batch.columns)
    else:
        raise ArgumentError(
            "a batch is a table of pyarrow, a DataFrame of pandas or polars, or arrays by name, "
            f"not {type(batch)}"
        )
    if len(set(map(str, names))) < len(names):
        raise ArgumentError("two columns of a batch have the same name; name each column once")
    return {str(name): batch[name] for name in names}


def _like(
    batch: Table, names: Sequence[str], kept: Mapping[str, Any], added: Mapping[str, pa.Array]
) -> Table:
    """Return renamed columns of a batch and new columns, in the format of the batch."""
    if isinstance(batch, pa.Table | pa.RecordBatch):
        return type(batch).from_pydict({**kept, **added})
    if hasattr(batch, "columns") and not hasattr(batch, "assign"):  # polars
        own = type(batch)(pa.table(added))
        return type(batch)({**kept, **{name: own[name] for name in added}})
    arrays: dict[str, Any] = {name: _to_numpy(column) for name, column in added.items()}
    if isinstance(batch, Mapping):
        return {**kept, **arrays}
    arrays["probabilities"] = list(arrays["probabilities"])
    same = batch.loc[:, [str(name) in names for name in batch.columns]]
    pairs = zip(same.columns, kept, strict=True)  # a name need not be text
    return same.set_axis([e if str(e) == new else new for e, new in pairs], axis=1).assign(**arrays)


def _align(found: Batch, assessed: Assessment, rejected: pa.Table) -> dict[str, pa.Array]:
    """Return the new columns in the order of the rows of the batch; null where a row has none."""
    read, reasons = found.predicted(*assessed), rejected.select(["reason", "detail"])
    order = np.argsort(np.concatenate([found.rows, rejected["source_row"]]))
    table = pa.concat_tables([read, reasons], promote_options="default").take(order)
    return {name: table[name].combine_chunks() for name in table.column_names}


def _to_table(given: Mapping[str, Any], options: ReadOptions) -> pa.Table:
    """Convert columns to Arrow; leave out needless ones that Arrow cannot hold."""
    arrays, lengths = dict[str, pa.Array | pa.ChunkedArray](), set[int]()
    images = {*columns.IMAGE_NAMES, str(options.image_column).lower()}
    needed = {*images, *columns.LABEL_NAMES, str(options.label_column).lower()}
    problem: ArgumentError | None = None
    for name, values in given.items():
        try:
            lengths.add(len(values))
            arrays[name] = _to_arrow(values)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            problem = ArgumentError(f"column {name!r} cannot be used: {error}")
            if name.lower() in needed or not hasattr(values, "__len__"):
                raise problem from error
    if len(lengths) > 1:
        raise ArgumentError(f"a batch has columns of {min(lengths):,} and of {max(lengths):,} rows")
    if problem and not arrays:
        raise problem
    # A column without a value may have no type, or that of NaN.
    usual = [name for name in arrays if name.lower() in images]
    if not columns.flat_columns(list(arrays)) and all(_is_untyped(arrays[name]) for name in usual):
        arrays |= {name: pa.nulls(len(arrays[name]), pa.binary()) for name in usual}
    return pa.table(arrays)


def _is_untyped(array: pa.Array | pa.ChunkedArray) -> bool:
    has_type = not (pa.types.is_null(array.type) or pa.types.is_floating(array.type))
    return not has_type and array.null_count == len(array)


def _to_arrow(values: Any) -> pa.Array | pa.ChunkedArray:
    """Convert an array, a series or a list to Arrow; inner arrays become tensors or lists."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, list | tuple) and (not values or bytes in set(map(type, values))):
        return pa.array(values)  # numpy would drop zero bytes at the end
    if not hasattr(values, "dtype"):
        try:
            values = np.asarray(values)
        except ValueError:  # arrays of several shapes, or None beside them
            values = np.fromiter(values, object)
    if not isinstance(values.dtype, np.dtype):  # an extension type of pandas, or a polars series
        is_polars = not hasattr(values, "index")
        return pa.chunked_array(values) if is_polars else pa.array(values, from_pandas=True)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.ndim > 1:
        flat = values.ravel()
        numbers = pa.array(flat * np.uint8(255) if flat.dtype == np.bool_ else flat)
        type_ = pa.fixed_shape_tensor(numbers.type, values.shape[1:])
        lists = pa.FixedSizeListArray.from_arrays(numbers, prod(values.shape[1:]))
        return pa.ExtensionArray.from_storage(type_, lists)
    if values.dtype == object:
        items = [each.tolist() if isinstance(each, np.ndarray) else each for each in values]
        return pa.array(items, from_pandas=True)
    return pa.array(values, from_pandas=True)


def _to_numpy(column: pa.Array) -> NDArray[Any]:
    if pa.types.is_integer(column.type):
        return np.asarray(column.fill_null(-1))
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    values = np.full((len(column), column.type.list_size), np.nan, np.float32)
    values[np.asarray(column.is_valid())] = column.flatten().to_numpy().reshape(-1, values.shape[1])
    return values
