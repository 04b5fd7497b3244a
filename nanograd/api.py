"""nanograd from Python, by the same functions as the commands.

Errors are those of `nanograd.errors`. Ray is imported only if `workers` asks for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike, fsdecode
from typing import IO, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from nanograd import commands, sources
from nanograd.digits import levels
from nanograd.digits.dataset import Source
from nanograd.errors import ArgumentError, Reason, UnreadableError, UsageError
from nanograd.images import rows, shapes
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.pictures import decode, normalise
from nanograd.pictures.archives import Archives
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import Listener, ignore
from nanograd.settings.specs import (
    EvaluateSpec,
    ExportSpec,
    IngestSpec,
    PictureFileOptions,
    PredictSpec,
    ReadOptions,
)
from nanograd.settings.train_spec import TrainSpec

Place: TypeAlias = str | PathLike[str]
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Training:
    """A finished training run.

    Args:
        model: the trained model; `model.predict(images)`.
        metrics: the lines of `metrics.jsonl`, one for each epoch: epoch, round, loss, val_accuracy,
            learning_rate, train_s, images_per_s; in an ensemble also net.
        figures: the result line of `nanograd train`: test_accuracy, params_sha256, ...
        directory: the run directory, a folder or URI.
    """

    model: Model
    metrics: list[dict[str, Any]]
    figures: dict[str, Any]
    directory: str


def train(*, workers: int | None = 0, listener: Listener = ignore, **settings: Any) -> Training:
    """Train a net, as `nanograd train` does, to the same bits.

    Args:
        workers: Ray actors; 0 works in this process, without Ray; None is one per free CPU.
        listener: called with each event (`nanograd.runtime.events`): messages, progress, finished
            epochs, failures of workers. `nanograd.TextLog(print)` prints them as lines.
        settings: those of the command, named as its flags with underscores: `data="mnist"`,
            `preset="accurate"`, `output="runs/1"`, `batch_size=128`. Others come from the preset;
            environment variables are ignored. `data` is a data set, a list of several, or a pair
            of arrays (images, labels), images as for `Model.predict`.

    Returns:
        The model, its metrics and its directory. A run that is complete is loaded; one that was
        stopped is continued.

    Raises:
        UsageError: an unknown or invalid setting.
        DataError: the data are missing or broken.
        OutputExistsError: the run directory holds another run.
        Stopped: Ctrl-C; the same call with the same output continues.
        DivergedError: a gradient, loss or parameter is not finite.
        StorageError: the run directory cannot be written.
    """
    plain, arrays = _separate_arrays({"workers": workers, **settings})
    config = TrainSpec.resolve(_plain(plain))
    directory = commands.run_directory(config)
    result = commands.train(replace(config, output=directory), listener, arrays)
    return Training(
        model=model_io.load(result["model"]),
        metrics=json_files.read_lines(storage.join(directory, "metrics.jsonl")),
        figures=result,
        directory=directory,
    )


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The account of `predict`; of a dry run, only `figures`."""

    rows: int = 0  # = predicted + quarantined
    predicted: int = 0  # rows in OUTPUT/predictions
    quarantined: int = 0  # rows in OUTPUT/quarantine, each with its reason
    broken_files: int = 0  # files there whose rows are unknown
    accuracy: float | None = None  # of the rows with a label; None without any
    output: str = ""  # folder or URI
    figures: dict[str, Any]  # the result line of the command


@dataclass(frozen=True, kw_only=True)
class Ingestion:
    """The account of `ingest`; of a dry run, only `figures`."""

    rows: int = 0  # pictures; rows = ingested + quarantined
    ingested: int = 0  # rows of the Parquet files in the output
    labelled: int = 0  # those with a label
    quarantined: int = 0  # pictures in OUTPUT/_quarantine, each with its reason
    broken_files: int = 0  # archives there whose pictures are unknown
    output: str = ""  # folder or URI
    figures: dict[str, Any]  # the result line of the command


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of `evaluate`."""

    images: int  # their number
    accuracy: float  # share of them that is classified correctly
    confusion: list[list[int]]  # 10 x 10: rows are labels, columns predictions
    params_sha256: str  # of the model
    figures: dict[str, Any]  # the result line of the command


@dataclass(frozen=True, kw_only=True)
class Export:
    """The file that `export` wrote."""

    output: str  # path or URI
    bytes: int  # its size
    params_sha256: str  # of the model
    figures: dict[str, Any]  # the result line of the command


def predict(
    inputs: Place | Sequence[Place],
    *,
    workers: int | None = 0,
    listener: Listener = ignore,
    **settings: Any,
) -> Prediction:
    """Classify the digits in Parquet or CSV files, as `nanograd predict` does, to the same files.

    Args:
        inputs: files, folders or globs, local or in an object store.
        workers: Ray actors; 0 works in this process, without Ray; None is one per free CPU.
        listener: see `train`.
        settings: those of the command, named as its flags with underscores: `model="runs/1/model"`
            and `output="read"` are required. Environment variables are ignored.

    Raises:
        UsageError: an unknown or invalid setting.
        DataError: an input or the model is missing or broken.
        OutputExistsError: the output holds another job.
        StorageError: the storage fails; the same call continues.
    """
    config = PredictSpec.resolve({"workers": workers, **_plain(settings)})
    return _result(Prediction, commands.predict(config, _places(inputs), listener))


def ingest(
    inputs: Place | Sequence[Place],
    *,
    workers: int | None = 0,
    listener: Listener = ignore,
    **settings: Any,
) -> Ingestion:
    """Convert pictures to Parquet, as `nanograd ingest` does, to the same files.

    Arguments and errors are those of `predict`; the setting `output` is required.
    """
    config = IngestSpec.resolve({"workers": workers, **_plain(settings)})
    return _result(Ingestion, commands.ingest(config, _places(inputs), listener))


def evaluate(model: Place | Model, *, listener: Listener = ignore, **settings: Any) -> Evaluation:
    """Measure a model on labelled images, as `nanograd evaluate` does.

    Args:
        model: model directory or URI, or a model.
        listener: see `train`; with `verbose=True` it receives an `ImageScored` for each image.
        settings: those of the command; `data` as for `train`.

    Raises:
        UsageError: an unknown or invalid setting.
        DataError: the data or the model are missing or broken.
    """
    loaded = model if isinstance(model, Model) else None
    plain, arrays = _separate_arrays({"model": repr(model) if loaded else model, **settings})
    config = EvaluateSpec.resolve(_plain(plain))
    return _result(Evaluation, commands.evaluate(config, listener, arrays, loaded))


def export(model: Place, output: Place) -> Export:
    """Write a model as an ONNX graph, as `nanograd export` does.

    Raises:
        UsageError: the package onnx is not installed, or an argument is invalid.
        DataError: the model is missing or broken.
        StorageError: the file cannot be written.
    """
    config = ExportSpec.resolve(_plain({"model": model, "output": output}))
    return _result(Export, commands.export_model(config))


def load_model(place: Place) -> Model:
    """Load a model directory: a folder or URI, such as RUN/model.

    Raises:
        DataError: it is missing, damaged, or of a format that this version does not know.
        StorageError: it cannot be read.
    """
    return model_io.load(_place(place))


def read_picture(
    picture: Place | bytes | IO[bytes] | Image.Image | ArrayLike, *, polarity: str = "auto"
) -> NDArray[np.uint8]:
    """Convert a photo, scan or drawing of one digit to 28 x 28 pixels, as `ingest` does.

    Args:
        picture: path or URI of a file (also inside a ZIP file), its bytes, a file opened for these,
            a Pillow image, or an array (H, W) or of 3 or 4 channels, first or last, of booleans or
            numbers whose scale `nanograd.digits.levels` recognises.
        polarity: auto, dark-on-light or light-on-dark ink.

    Returns:
        (28, 28) uint8, ink 255 on 0.

    Raises:
        UnreadableError: no digit was found; `reason` and `detail` say why.
        UsageError: an argument of another kind.
    """
    options = PictureFileOptions(polarity=polarity)
    if hasattr(picture, "read"):
        picture = picture.read(options.max_bytes + 1)
        if isinstance(picture, str):
            raise ArgumentError("the file was opened as text; open it with 'rb'")
    if isinstance(picture, str | PathLike):
        with Archives() as archives:
            picture = decode.read(storage.absolute(_place(picture)), options, archives.read)
    if isinstance(picture, bytes | bytearray | memoryview):
        image = decode.decode(bytes(picture), options)
    elif isinstance(picture, Image.Image):
        image = decode.from_pillow(picture, options)
    else:
        return _read_array(np.asarray(picture), polarity)
    return normalise.normalise(image, polarity=polarity)


def _read_array(pixels: NDArray[Any], polarity: str) -> NDArray[np.uint8]:
    if pixels.dtype.kind not in "bfui" or not shapes.picture_shape(pixels.shape):
        raise ArgumentError(
            "a picture is a path, bytes, an open file, a Pillow image or an array (H, W) or of 3 "
            f"or 4 channels, not {pixels.dtype} {pixels.shape}"
        )
    scale = levels.scale_of(pixels[np.isfinite(pixels)].max(initial=0, keepdims=True))
    found, [problem] = levels.to_levels(pixels[None], scale)
    if problem >= 0:
        raise UnreadableError(Reason.BAD_PIXEL, levels.describe(problem))
    image = rows.read_array(shapes.as_pictures(found)[0], ReadOptions(polarity=polarity))
    return image.reshape(28, 28)


def _result(kind: type[Result], figures: dict[str, Any]) -> Result:
    """Return a result line as a dataclass of its most important values."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    values = {name: value for name, value in figures.items() if name in names}
    return kind(**values, **{"figures": figures})


def _place(value: Any) -> str:
    if not isinstance(value, str | PathLike):
        raise ArgumentError(f"{value!r} is no path or URI")
    return fsdecode(value)


def _places(inputs: Any) -> list[str]:
    found = [inputs] if isinstance(inputs, str | PathLike) else inputs
    if not isinstance(found, Sequence) or not found:
        raise ArgumentError(f"name one or several inputs, not {inputs!r}")
    return [_place(each) for each in found]


def _separate_arrays(settings: dict[str, Any]) -> tuple[dict[str, Any], Source | None]:
    """Return settings, and the data set of the arrays in `data`, if it is a pair of these."""
    data = settings.get("data")
    names = data if isinstance(data, list | tuple) else [data]
    if data is None or all(isinstance(each, str | PathLike) for each in names):
        return settings, None
    if len(names) != 2 or any(isinstance(each, str | PathLike) for each in names):
        raise ArgumentError(
            "data is the name of a data set, several, or one pair (images, labels), not in a list "
            "with others; save the pair as a Parquet file to join it"
        )
    return {**settings, "data": sources.ARRAYS}, sources.from_arrays(*names)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with paths as text; raise UsageError for those of the terminal."""
    if unused := sorted({"quiet", "log_format"} & set(settings)):
        raise UsageError(f"{unused[0]} is for the terminal; from Python, pass listener= instead")
    return {name: _plain_value(value) for name, value in settings.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain_value(each) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Model):
        raise ArgumentError(f"{value!r} has no place; pass its directory, such as RUN/model")
    return fsdecode(value) if isinstance(value, PathLike) else value
