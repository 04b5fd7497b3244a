"""Predictions inside of another program's pipeline: batches of rows in, the same rows out."""

import re
from collections.abc import Mapping
from dataclasses import fields
from math import prod
from os import PathLike, fsdecode
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanograd.batch.predict import predicted_columns
from nanograd.errors import ArgumentError, DataError, Rejection
from nanograd.models import model as model_io
from nanograd.models.model import Assessment, Model
from nanograd.runtime import process, storage
from nanograd.tables.columns import IMAGE_NAMES, find_image_column
from nanograd.tables.images import Images, read
from nanograd.tables.outputs import rename_taken
from nanograd.tables.rows import ReadOptions

# A pyarrow.Table, a pandas.DataFrame or arrays by name, as Ray Data passes them.
Batch: TypeAlias = Any

OWN = ("prediction", "confidence", "unfamiliarity", "probabilities", "label", "reason", "detail")


class Predictor:
    """A classifier of digits in batches, for `ray.data.Dataset.map_batches` or a loop.

    Each row of a batch is returned once, without its image, in the same order and format, with the
    prediction, confidence, unfamiliarity, probabilities and label that `nanograd predict` writes. A
    row that cannot be read has a reason and a detail instead, as in quarantine; its prediction is
    null, in numpy and pandas -1. A column whose name is one of these is returned as `input_NAME`.

    Args:
        model: model directory or URI, or a model.
        options: image_column, label_column, polarity, normalise, max_pixels and image_root, as for
            the command.

    Raises:
        DataError: the model is missing or damaged; of a batch, its columns cannot be read.
        ArgumentError: an unknown or invalid option, a batch of another type, or values in it that
            have no type of Arrow; a ValueError and a TypeError.
    """

    def __init__(self, model: str | PathLike[str] | Model, **options: Any) -> None:
        if not isinstance(model, Model):
            try:
                model = model_io.load(storage.absolute(fsdecode(model)))
            except TypeError as error:
                raise ArgumentError(f"the model is no directory, URI or Model: {error}") from error
        self._model = model
        known = {each.name for each in fields(ReadOptions)}
        if unknown := sorted(options.keys() - known):
            raise ArgumentError(
                f"unknown option {unknown[0]!r}; known are {', '.join(sorted(known))}"
            )
        self._options = ReadOptions(**options)

    def __call__(self, batch: Batch) -> Batch:
        """Classify the rows of a batch."""
        table = _to_table(batch, self._options.image_column)
        try:
            images = find_image_column(table.schema, self._options.image_column).names
            found, rejections = read(table, self._options)
        except DataError as error:
            raise DataError(re.sub("--(image|label)-", r"\1_", str(error))) from error
        given = batch.get(images[0]) if isinstance(batch, Mapping) else None
        if isinstance(given, np.ndarray) and given.dtype.kind == "S":
            raise ArgumentError(f"{given.dtype} loses zeros at the end; pass a list of bytes")
        with process.one_thread():
            assessed = self._model.assess(found.images)
        columns = _align(found, assessed, rejections, table.num_rows)
        names = [name for name in table.column_names if name not in images]
        renamed = dict(zip(names, rename_taken(names, OWN), strict=True))
        if isinstance(batch, pa.Table):
            kept = {renamed[name]: batch.column(name) for name in names}
            return pa.table({**kept, **columns})
        arrays: dict[str, Any] = {name: _to_numpy(column) for name, column in columns.items()}
        if isinstance(batch, Mapping):
            return {**{renamed[name]: batch[name] for name in names}, **arrays}
        arrays["probabilities"] = list(arrays["probabilities"])
        return batch[names].rename(columns=renamed).assign(**arrays)


def _align(
    found: Images, assessed: Assessment, rejections: list[Rejection], num_rows: int
) -> dict[str, pa.Array]:
    """Return a value of each column for each row, null where a row has none."""
    places = np.full(num_rows, -1)
    places[found.rows] = np.arange(len(found.rows))
    where = pa.array(places, mask=places < 0)
    by_row = {each.row: (str(each.reason), each.detail) for each in rejections}
    told = [by_row.get(row, (None, None)) for row in range(num_rows)]
    return {
        **{name: each.take(where) for name, each in predicted_columns(found, assessed).items()},
        "reason": pa.array([reason for reason, _ in told], pa.string()),
        "detail": pa.array([detail for _, detail in told], pa.string()),
    }


def _to_table(batch: Batch, image_column: str | None) -> pa.Table:
    if isinstance(batch, pa.Table):
        return batch
    if not isinstance(batch, Mapping) and not hasattr(batch, "assign"):
        raise ArgumentError(
            f"a batch is a pyarrow.Table, a pandas.DataFrame or arrays by name, not {type(batch)}"
        )
    if len(set(batch)) < len(list(batch)):
        raise ArgumentError("two columns of a batch have the same name; name each column once")
    arrays, images = dict[str, pa.Array](), {*IMAGE_NAMES, str(image_column).lower()}
    for name in batch:
        try:
            arrays[str(name)] = array = _to_arrow(batch[name])
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise ArgumentError(f"column {name!r} cannot be used: {error}") from error
        # Without values, objects have no type.
        if not len(array) and pa.types.is_null(array.type) and str(name).lower() in images:
            arrays[str(name)] = array.cast(pa.binary())
    if len(lengths := {len(array) for array in arrays.values()}) > 1:
        raise ArgumentError(f"a batch has columns of {min(lengths):,} and of {max(lengths):,} rows")
    return pa.table(arrays)


def _to_arrow(values: Any) -> pa.Array:
    """Convert an array, a series or a list; arrays in it become tensors or lists."""
    if isinstance(values, list | tuple) and (not values or bytes in set(map(type, values))):
        return pa.array(values)  # numpy would cut bytes
    values = values if hasattr(values, "dtype") else np.asarray(values)
    if not getattr(values.dtype, "isnative", True):
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
