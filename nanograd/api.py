"""nanograd from Python. The commands do the same work, by the same functions.

Errors are those of `nanograd.errors`: one sentence, each class with its exit code. Nothing of Ray
is imported unless `workers` says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd import commands
from nanograd.config.command_configs import PictureFilesConfig
from nanograd.config.train_config import TrainConfig
from nanograd.console.log_lines import Lines
from nanograd.errors import UsageError
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.pictures import normalise
from nanograd.pictures.archives import Archives
from nanograd.pictures.decode import PictureReader, formats_named
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import Show, ignore, to_all


@dataclass(frozen=True, kw_only=True)
class Training:
    """A finished training run.

    Args:
        model: what was trained; `model.predict(images)`.
        metrics: a row an epoch, the lines of `metrics.jsonl`: epoch, round, loss, val_accuracy,
            learning_rate, train_s, images_per_s; in a committee also net.
        figures: those of the result line of `nanograd train`: test_accuracy, params_sha256, ...
        directory: the run directory, a folder or URI.
    """

    model: Model
    metrics: list[dict[str, Any]]
    figures: dict[str, Any]
    directory: str


def train(
    *,
    workers: int | None = 0,
    say: Callable[[str], None] | None = None,
    show: Show = ignore,
    **settings: Any,
) -> Training:
    """Train a net, as `nanograd train` does, to the same bits.

    Args:
        workers: Ray actors; 0 works in this process, without Ray; None is one per free CPU.
        say: told in sentences what happens, and every few seconds how far it is; `print` for
            instance. None hears nothing.
        show: told the same in figures, as they come: a mapping whose `event` is `epoch` (a row of
            the metrics), `progress` (rounds, rate, time left) or `result`.
        settings: those of the command, named as its flags with underscores: `data="mnist"`,
            `preset="accurate"`, `output="runs/1"`, `batch_size=128`. What is not said comes from
            the preset; the environment is not asked.

    Returns:
        The model, how it came to be, and where it is kept. A run that is there already is read, one
        that was stopped goes on.

    Raises:
        UsageError: a setting that is unknown, or cannot be meant.
        DataError: no such data, or it is broken.
        OutputExistsError: the run directory holds another run.
        Stopped: Ctrl-C; the same call with the same output goes on.
        DivergedError: training left the finite numbers.
        StorageError: the run directory cannot be written.
    """
    if unheard := sorted({"quiet", "log_format"} & set(settings)):
        raise UsageError(f"{unheard[0]} is for the terminal; here, say= and show= are told instead")
    given = {name: _plain(value) for name, value in settings.items()}
    config = TrainConfig.resolve({"workers": workers, **given})
    config = replace(config, output=commands.run_directory(config))
    lines = Lines(say or _nobody)
    figures = commands.train(config, lines.say, to_all([lines.show, show]))
    rows = storage.read(storage.join(config.output or "", "metrics.jsonl"))
    return Training(
        model=model_io.load(figures["model"]),
        metrics=json_files.parse_lines(rows),
        figures=figures,
        directory=config.output or "",
    )


def load_model(place: str | PathLike[str]) -> Model:
    """The model in a model directory: a folder or URI, such as RUN/model.

    Raises:
        DataError: there is none, it is damaged, or of a form this version does not know.
        StorageError: it cannot be read.
    """
    return model_io.load(fspath(place))


def read_picture(
    picture: str | PathLike[str] | bytes, *, polarity: str = "auto"
) -> NDArray[np.uint8]:
    """A photo, scan or drawing of one digit in the form that models read, as `ingest` makes it.

    Args:
        picture: path or URI of a file (it may lie in a ZIP file), or the bytes of one.
        polarity: what is ink: auto, dark-on-light or light-on-dark.

    Returns:
        (28, 28) uint8, ink 255 on 0.

    Raises:
        UnreadableError: no digit can be read in it; `reason` and `detail` say why.
    """
    limits = PictureFilesConfig(polarity=polarity)
    reader = PictureReader(
        max_bytes=limits.max_bytes,
        max_pixels=limits.max_pixels,
        formats=formats_named(limits.formats),
    )
    if not isinstance(picture, bytes):
        with Archives() as archives:
            picture = reader.read(storage.absolute(fspath(picture)), archives.read)
    return normalise.normalise(reader.decode(picture), polarity=limits.polarity)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _nobody(_: str) -> None:
    pass
