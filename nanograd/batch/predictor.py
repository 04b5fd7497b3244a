"""Predictions inside of another program's pipeline: batches of rows in, the same rows out."""

from collections.abc import Mapping
from dataclasses import fields
from math import prod
from os import PathLike, fspath
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanograd.batch.predict import predicted_columns
from nanograd.errors import ArgumentError, Rejection
from nanograd.models import model as model_io
from nanograd.models.model import Assessment
from nanograd.runtime import process, storage
from nanograd.tables.columns import find_image_column
from nanograd.tables.images import Images, read
from nanograd.tables.outputs import rename_taken
from nanograd.tables.rows import ReadOptions

# A pyarrow.Table, a pandas.DataFrame or arrays by name, as Ray Data passes them.
Batch: TypeAlias = Any

OWN = ("prediction", "confidence", "unfamiliar", "scores", "label", "reason", "detail")


class Predictor:
    """A classifier of digits in batches, for `ray.data.Dataset.map_batches` or a loop.

    Each row of a batch is returned once, without its image, in the same order and format, with the
    prediction, confidence, unfamiliar, scores and label that `nanograd predict` writes. A row that
    cannot be read has a reason and a detail instead, as in quarantine; its prediction is null, in
    numpy and pandas -1. A column whose name is one of these is returned as `input_NAME`.

    Args:
        model: model directory or URI.
        options: image_column, label_column, polarity, normalise, max_pixels and image_root, as for
            the command.

    Raises:
        DataError: the model is missing or damaged; of a batch, its columns cannot be read.
        ArgumentError: an unknown or invalid option, or a batch of another type; a TypeError.
    """

    def __init__(self, model: str | PathLike[str], **options: Any) -> None:
        self._model = model_io.load(storage.absolute(fspath(model)))
        known = {each.name for each in fields(ReadOptions)}
        if unknown := sorted(options.keys() - known):
            raise ArgumentError(
                f"unknown option {unknown[0]!r}; known are {', '.join(sorted(known))}"
            )
        self._options = ReadOptions(**options)

    def __call__(self, batch: Batch) -> Batch:
        """Classify the rows of a batch."""
        table = _to_table(batch)
        found, rejections = read(table, self._options)
        with process.one_thread():
            assessed = self._model.assess(found.images)
        columns = _align(found, assessed, rejections, table.num_rows)
        images = find_image_column(table.schema, self._options.image_column).names
        names = [name for name in table.column_names if name not in images]
        renamed = dict(zip(names, rename_taken(names, OWN), strict=True))
        if isinstance(batch, pa.Table):
            kept = {renamed[name]: batch.column(name) for name in names}
            return pa.table({**kept, **columns})
        arrays: dict[str, Any] = {name: _to_numpy(column) for name, column in columns.items()}
        if isinstance(batch, Mapping):
            return {**{renamed[name]: batch[name] for name in names}, **arrays}
        arrays["scores"] = list(arrays["scores"])
        return batch[names].rename(columns=renamed).assign(**arrays)


def _align(
    found: Images, assessed: Assessment, rejections: list[Rejection], num_rows: int
) -> dict[str, pa.Array]:
    """Return a value of each column for each row, null where a row has none."""
    columns = predicted_columns(found, assessed)
    if not rejections:
        none = pa.nulls(num_rows, pa.string())
        return {**columns, "reason": none, "detail": none}
    places = np.full(num_rows, -1)
    places[found.rows] = np.arange(len(found.rows))
    where = pa.array(places, mask=places < 0)
    columns = {name: each.take(where) for name, each in columns.items()}
    by_row = {each.row: each for each in rejections}
    rejected = [by_row.get(row) for row in range(num_rows)]
    reasons = [str(each.reason) if each else None for each in rejected]
    details = [each.detail if each else None for each in rejected]
    return {
        **columns,
        "reason": pa.array(reasons, pa.string()),
        "detail": pa.array(details, pa.string()),
    }


def _to_table(batch: Batch) -> pa.Table:
    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, Mapping):
        return pa.table({name: _to_arrow(np.asarray(each)) for name, each in batch.items()})
    if not hasattr(batch, "assign"):
        raise ArgumentError(
            f"a batch is a pyarrow.Table, a pandas.DataFrame or arrays by name, not {type(batch)}"
        )
    return pa.table({str(name): _to_arrow(batch[name]) for name in batch.columns})


def _to_arrow(values: Any) -> pa.Array:
    """Convert an array or a series; arrays in it become tensors or lists."""
    if values.ndim > 1:
        flat = values.ravel()
        numbers = pa.array(flat.view(np.uint8) if flat.dtype == np.bool_ else flat)
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
    values[np.asarray(column.is_valid())] = (
        column.flatten().to_numpy().reshape(-1, column.type.list_size)
    )
    return values
