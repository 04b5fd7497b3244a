"""The settings of each command as keyword arguments of its Python function, typed for editors."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from os import PathLike, fsdecode
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

import numpy as np

from nanograd.errors import ArgumentError, NanogradError, UsageError
from nanograd.settings.fields import Spec, properties

Place: TypeAlias = str | PathLike[str]
Polarity: TypeAlias = Literal["auto", "dark-on-light", "light-on-dark"]
Columns: TypeAlias = str | list[str] | tuple[str, ...]
S = TypeVar("S", bound=Spec)


class _PictureArguments(TypedDict, total=False):
    polarity: Polarity
    max_pixels: int


class _PictureFileArguments(_PictureArguments, total=False):
    formats: str
    max_bytes: int


class _ColumnArguments(TypedDict, total=False):
    image_column: str | None
    label_column: str | None


class ReadArguments(_PictureArguments, _ColumnArguments, total=False):
    """Fields of `ReadOptions`."""

    normalise: Literal["auto", "always", "never"]
    image_root: Place | None


class _JobArguments(TypedDict, total=False):
    address: str | None
    overwrite: bool


class _PartsArguments(_JobArguments, total=False):
    output: Place
    sync: bool
    verify: bool
    max_broken_files: int
    dry_run: bool
    limit: int | None


class IngestArguments(_PartsArguments, _PictureFileArguments, total=False):
    """Fields of `IngestSpec`."""

    label_from: str
    keep_original: bool
    part_rows: int


class PredictArguments(ReadArguments, _PartsArguments, total=False):
    """Fields of `PredictSpec`."""

    model: Place
    keep: Columns
    no_probabilities: bool
    review_share: float
    review_below: float | None
    rows_per_file: int | None
    partition_by: Columns
    format: Literal["parquet", "csv", "jsonl"]
    retry_quarantine: bool
    max_error_rate: float
    plots: bool


class InspectArguments(_PictureFileArguments, total=False):
    """Fields of `InspectSpec`."""

    output: Place
    model: Place | None
    limit: int


class EvaluateArguments(_ColumnArguments, total=False):
    """Fields of `EvaluateSpec`; `data` also takes a pair of arrays."""

    data: Any
    verbose: bool


class TrainArguments(_JobArguments, _ColumnArguments, total=False):
    """Fields of `TrainSpec`; `data` also takes a pair of arrays."""

    data: Any
    test_split: float | None
    output: Place | None
    preset: Literal["classic", "fast", "accurate"]
    shards: int
    epochs: int
    least_rounds: int
    batch_size: int
    seed: int
    hidden: int
    ensemble: int
    activation: Literal["sigmoid", "tanh", "relu"]
    loss: Literal["mse", "cross_entropy"]
    optimizer: Literal["sgd", "momentum", "adam"]
    learning_rate: float
    momentum: float | None
    schedule: Literal["constant", "cosine"]
    warmup: int
    ema: float
    pixels: Literal["unit", "standard", "deskewed"]
    width: float
    height: float
    elastic: float
    rotation: float
    scaling: float
    shear: float
    shift: float
    stroke: float
    cool_down: float
    variants: float
    deskew: Literal["before", "after"]
    validation_split: float
    kernel: Literal["native", "portable"]
    tensorboard: bool
    mlflow: str | None
    strict: bool
    ports: str | None
    plots: bool


@contextmanager
def resolved(spec_class: type[S], spec: S | None, arguments: Mapping[str, Any]) -> Iterator[S]:
    """Provide the given spec, else one of keyword arguments.

    Errors of the block then name arguments instead of flags: `max_pixels`, not `--max-pixels`.

    Raises:
        ArgumentError: an argument is unknown or invalid, or only for the terminal.
    """
    if spec is not None:
        yield spec
        return
    try:
        for each in fields(spec_class):
            if properties(each).terminal and each.name in arguments:
                raise UsageError(f"{each.name} is for the terminal; pass listener= instead")
        yield spec_class.resolve({name: _plain(value) for name, value in arguments.items()})
    except UsageError as error:
        raise ArgumentError(as_arguments(str(error))) from error
    except NanogradError as error:
        found = error.args
        error.args = tuple(as_arguments(a) if isinstance(a, str) else a for a in found)
        raise


def as_arguments(text: str) -> str:
    """Name arguments instead of flags in a message.

    >>> as_arguments("--max-pixels is 7: it must be at least 784")
    'max_pixels is 7: it must be at least 784'
    """
    return re.sub(r"(?<![\w/-])--([a-z]+(?:-[a-z]+)*)", lambda m: m[1].replace("-", "_"), text)


def _plain(value: Any) -> Any:
    """Return text for a path, and a number for a numpy scalar."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    return fsdecode(value) if isinstance(value, PathLike) else value


def places(inputs: Place | Sequence[Place]) -> list[str]:
    """Return one or several inputs as text; raise ArgumentError for anything else."""
    found = [inputs] if isinstance(inputs, str | PathLike) else inputs
    if not isinstance(found, Sequence) or not found:
        raise ArgumentError(f"name one or several inputs, not {inputs!r}")
    for each in found:
        if not isinstance(each, str | PathLike):
            raise ArgumentError(f"{each!r} is no path or URI")
    return [fsdecode(each) for each in found]
