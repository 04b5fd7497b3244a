"""nanograd from Python, by the same functions as the commands.

Errors are those of `nanograd.errors`. Ray is imported only if `workers` asks for it.
"""

from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd import commands
from nanograd.config.command_configs import PictureFilesConfig
from nanograd.config.train_config import TrainConfig
from nanograd.errors import UsageError
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.pictures import normalise
from nanograd.pictures.archives import Archives
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import Listener, ignore


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
            environment variables are ignored.

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
    if unused := sorted({"quiet", "log_format"} & set(settings)):
        raise UsageError(f"{unused[0]} is for the terminal; from Python, pass listener= instead")
    given = {
        name: str(value) if isinstance(value, Path) else value for name, value in settings.items()
    }
    config = TrainConfig.resolve({"workers": workers, **given})
    directory = commands.run_directory(config)
    result = commands.train(replace(config, output=directory), listener)
    return Training(
        model=model_io.load(result["model"]),
        metrics=json_files.read_lines(storage.join(directory, "metrics.jsonl")),
        figures=result,
        directory=directory,
    )


def load_model(place: str | PathLike[str]) -> Model:
    """Load a model directory: a folder or URI, such as RUN/model.

    Raises:
        DataError: it is missing, damaged, or of a format that this version does not know.
        StorageError: it cannot be read.
    """
    return model_io.load(fspath(place))


def read_picture(
    picture: str | PathLike[str] | bytes, *, polarity: str = "auto"
) -> NDArray[np.uint8]:
    """Convert a photo, scan or drawing of one digit to 28 x 28 pixels, as `ingest` does.

    Args:
        picture: path or URI of a file (also inside a ZIP file), or the bytes of one.
        polarity: auto, dark-on-light or light-on-dark ink.

    Returns:
        (28, 28) uint8, ink 255 on 0.

    Raises:
        UnreadableError: no digit was found; `reason` and `detail` say why.
    """
    config = PictureFilesConfig(polarity=polarity)
    reader = commands.picture_reader(config)
    if not isinstance(picture, bytes):
        with Archives() as archives:
            picture = reader.read(storage.absolute(fspath(picture)), archives.read)
    return normalise.normalise(reader.decode(picture), polarity=config.polarity)
