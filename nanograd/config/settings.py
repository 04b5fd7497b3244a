"""What a setting is: a dataclass field with its help line, choices and bounds, checked when made.

One field = one flag = one help line = one line of config.toml. Precedence: default < preset <
config file < environment < flag.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from json import dumps
from math import isfinite
from types import UnionType
from typing import Any, Self, cast, get_args, get_origin

from nanograd.errors import UsageError

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

    >>> @dataclass
    ... class Some:
    ...     workers: int | None
    ...     keep: tuple[str, ...]
    >>> [kind(each).__name__ for each in fields(Some)]
    ['int', 'tuple']
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
