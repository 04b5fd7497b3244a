"""The settings of each command: one field = one flag = one help line = one line of config.toml.

Precedence: default < preset < config file < environment < flag. Deep functions take the values
they need, never a config.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from json import dumps
from math import isfinite
from types import UnionType
from typing import Any, Self, cast, get_args, get_origin

from nanograd.errors import UsageError
from nanograd.presets import PRESETS

REQUIRED = MISSING


def setting(
    default: Any,
    help_: str,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    below: float | None = None,
    recipe: bool = False,
) -> Any:
    """A dataclass field with what a flag needs to know.

    Args:
        default: its value if nobody says otherwise; REQUIRED if somebody must.
        help_: the one line that explains it.
        choices: the values allowed, if they are names.
        least: smallest value allowed.
        below: values must be smaller than this.
        recipe: whether it changes the bits of the trained model.
    """
    notes = {"help": help_, "choices": choices, "least": least, "below": below, "recipe": recipe}
    return field(default=default, metadata=notes)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the settings of every command can do: check themselves, be read and be written."""

    def __post_init__(self) -> None:
        for each in fields(self):
            _check(each, getattr(self, each.name))

    @classmethod
    def resolve(cls, *layers: Mapping[str, Any]) -> Self:
        """Settings from layers of values, the later ones stronger.

        Raises:
            UsageError: an unknown name, a missing or a forbidden value.
        """
        values = {name: value for layer in layers for name, value in layer.items()}
        known = {each.name: each for each in fields(cls)}
        if unknown := sorted(set(values) - set(known)):
            raise UsageError(f"unknown setting {unknown[0]!r}; known are {', '.join(known)}")
        for name, each in known.items():
            if each.default is REQUIRED and name not in values:
                raise UsageError(f"{flag(name)} is missing: {each.metadata['help']}")
        return cls(**{name: _convert(known[name], value) for name, value in values.items()})

    def recipe(self) -> dict[str, Any]:
        """The settings that change the bits of the trained model."""
        return {
            each.name: getattr(self, each.name) for each in fields(self) if each.metadata["recipe"]
        }

    def to_toml(self) -> str:
        """All settings, a line each; what is not set is left out."""
        # TOML's basic strings, numbers, booleans and arrays are spelt as JSON spells them.
        return "".join(
            f"{name} = {dumps(value, ensure_ascii=False)}\n"
            for name, value in asdict(self).items()
            if value is not None
        )


@dataclass(frozen=True, kw_only=True)
class JobConfig(Config):
    """Settings of every command that may run on Ray."""

    workers: int | None = setting(
        None, "Ray actors; 0 works in this process without Ray [default: one per free CPU]", least=0
    )
    address: str | None = setting(
        None, "Ray cluster to join [default: $RAY_ADDRESS, else a private local Ray]"
    )
    overwrite: bool = setting(False, "replace what the output holds")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(JobConfig):
    """Settings of `nanograd train`."""

    data: str = setting("auto", "auto, mnist, sample, or a path or URI of IDX or CSV files")
    output: str | None = setting(None, "run directory or URI [default: runs/PRESET-TIME]")
    preset: str = setting(
        "fast",
        "settings to start from; the defaults shown are those of fast",
        choices=tuple(PRESETS),
    )
    shards: int = setting(8, "fixed parts of the training set", least=1, recipe=True)
    epochs: int = setting(8, "passes over the training set", least=1, recipe=True)
    batch_size: int = setting(512, "images a round, over all workers", least=1, recipe=True)
    seed: int = setting(0, "start of all randomness", least=0, below=2**63, recipe=True)
    hidden: int = setting(200, "hidden units", least=1, recipe=True)
    activation: str = setting(
        "relu", "of the hidden layer", choices=("sigmoid", "tanh", "relu"), recipe=True
    )
    loss: str = setting(
        "cross_entropy",
        "mse (sigmoid outputs) or cross_entropy (softmax outputs)",
        choices=("mse", "cross_entropy"),
        recipe=True,
    )
    optimizer: str = setting(
        "momentum",
        "how gradients change parameters",
        choices=("sgd", "momentum", "adam"),
        recipe=True,
    )
    learning_rate: float = setting(0.2, "peak learning rate", least=0, recipe=True)
    momentum: float | None = setting(
        None,
        "decay of the velocity, with --optimizer momentum [default: 0.9]",
        least=0,
        below=1,
        recipe=True,
    )
    schedule: str = setting(
        "constant",
        "of the learning rate; a warm-up scales its first rounds",
        choices=("constant", "cosine"),
        recipe=True,
    )
    warmup: int = setting(80, "rounds of linear warm-up", least=0, recipe=True)
    ema: float = setting(
        0.99,
        "decay of the average of the weights; 0 keeps the last weights",
        least=0,
        below=1,
        recipe=True,
    )
    pixels: str = setting(
        "standard",
        "unit (0 to 1) or standard (mean 0, deviation 1)",
        choices=("unit", "standard"),
        recipe=True,
    )
    shift: int = setting(
        0, "move training images by up to so many pixels each way", least=0, below=28, recipe=True
    )
    validation_split: float = setting(
        0.1,
        "share of the training images held out to watch the run",
        least=0,
        below=1,
        recipe=True,
    )

    strict: bool = setting(False, "refuse workers whose BLAS or numpy differ from the server's")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < self.shards:
            raise UsageError(
                f"--batch-size {self.batch_size} is less than --shards {self.shards}: "
                "every shard needs an image a round; raise the one or lower the other"
            )
        if self.workers is not None and self.workers > self.shards:
            raise UsageError(
                f"--workers {self.workers} is more than --shards {self.shards}: a worker needs a "
                "shard of its own; lower the one or raise the other"
            )
        if self.momentum is not None and self.optimizer != "momentum":
            raise UsageError(
                f"--momentum has no effect with --optimizer {self.optimizer}; "
                "leave it out or say --optimizer momentum"
            )


@dataclass(frozen=True, kw_only=True)
class PictureConfig(JobConfig):
    """Settings of every command that decodes pictures."""

    polarity: str = setting(
        "auto", "what is ink in pictures", choices=("auto", "dark-on-light", "light-on-dark")
    )
    max_pixels: int = setting(50_000_000, "larger pictures are quarantined", least=784)


@dataclass(frozen=True, kw_only=True)
class IngestConfig(PictureConfig):
    """Settings of `nanograd ingest`."""

    output: str = setting(REQUIRED, "directory or URI for the Parquet files")
    label_from: str = setting(
        "auto",
        "where labels come from; auto: the folder's name, else the file's",
        choices=("auto", "folder", "name", "none"),
    )
    part_rows: int = setting(2000, "pictures in one output file", least=1)


@dataclass(frozen=True, kw_only=True)
class PredictConfig(PictureConfig):
    """Settings of `nanograd predict`."""

    model: str = setting(REQUIRED, "model directory or URI")
    output: str = setting(REQUIRED, "directory or URI for predictions, quarantine and manifest")
    image_column: str | None = setting(None, "image column [default: recognised from the schema]")
    label_column: str | None = setting(None, "label column [default: label, digit, target or y]")
    keep: tuple[str, ...] = setting((), "another column to copy to the output; may be repeated")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Settings of `nanograd evaluate`."""

    model: str = setting(REQUIRED, "model directory or URI")
    data: str = setting("auto", "auto, mnist, sample, or a path or URI of IDX or CSV files")
    verbose: bool = setting(False, "a line an image: label, ten scores, best score, best class")


def from_toml(text: str, place: str) -> dict[str, Any]:
    """The settings in a config file.

    Raises:
        UsageError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{place} is not TOML: {error}") from error


def flag(name: str) -> str:
    """The flag of a field.

    >>> flag("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")


def _convert(each: Field[Any], value: Any) -> Any:
    """TOML has no tuples, and people write `ema = 0` where a number with a point is meant."""
    if isinstance(value, list):
        return tuple(value)
    if kind(each) is float and type(value) is int:
        return float(value)
    return value


def _check(each: Field[Any], value: Any) -> None:
    """Hold one value against its field's type, choices and bounds."""
    notes = each.metadata
    if value is None and each.default is None:
        return
    expected = kind(each)
    if type(value) is not expected:
        raise UsageError(f"{flag(each.name)} is {value!r}: it must be {_NAMES[expected]}")
    if notes["choices"] and value not in notes["choices"]:
        raise UsageError(f"{flag(each.name)} is {value!r}: choose {' or '.join(notes['choices'])}")
    if type(value) is float and not isfinite(value):
        raise UsageError(f"{flag(each.name)} is {value}: it must be finite")
    if notes["least"] is not None and not value >= notes["least"]:
        raise UsageError(f"{flag(each.name)} is {value}: it must be at least {notes['least']}")
    if notes["below"] is not None and not value < notes["below"]:
        raise UsageError(f"{flag(each.name)} is {value}: it must be less than {notes['below']}")


def kind(each: Field[Any]) -> type:
    """The type of a field's values, None left aside.

    >>> [kind(each).__name__ for each in fields(JobConfig)]
    ['int', 'str', 'bool']
    """
    if isinstance(each.type, UnionType):
        return next(cast("type", type_) for type_ in get_args(each.type) if type_ is not type(None))
    return cast("type", get_origin(each.type) or each.type)


_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple: "a list",
}
