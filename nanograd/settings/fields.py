"""Settings: validated dataclass fields, each with its help line, choices and bounds.

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
from nanograd.runtime.storage import refuse_credentials

REQUIRED = MISSING

# Headings of `--help`, in their order.
GROUPS = ("Options", "Data", "Net", "Optimization", "Training images", "Workers", "Output")

_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    tuple: "a string or a list of strings",
}


def setting(
    default: Any,
    help_: str,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    recipe: bool = False,
    group: str = "Options",
    rare: bool = False,
) -> Any:
    """Return a dataclass field with the metadata that its flag needs.

    Args:
        default: the value if none is given; REQUIRED if one must be given.
        help_: one line for `--help`.
        choices: the allowed values of a string.
        least: the smallest allowed value.
        below: an upper bound, itself not allowed.
        most: the largest allowed value.
        recipe: whether the setting affects the bits of the trained model.
        group: one of GROUPS.
        rare: whether only `--help-all` lists the flag.
    """
    bounds = {"least": least, "below": below, "most": most}
    shown = {"group": group, "rare": rare}
    metadata = {"help": help_, "choices": choices, **bounds, **shown, "recipe": recipe}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base class of the settings of a command; validates every value on creation."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, str) and value_type(each) is tuple:
                object.__setattr__(self, each.name, (value,))
            _validate(each, getattr(self, each.name))

    @classmethod
    def resolve(cls, *layers: Mapping[str, Any]) -> Self:
        """Create settings from layers of values; later layers take precedence.

        Raises:
            UsageError: a name is unknown, or a value is missing or not allowed.
        """
        values = {name: value for layer in layers for name, value in layer.items()}
        known = {each.name: each for each in fields(cls)}
        if unknown := sorted(set(values) - set(known)):
            raise UsageError(f"unknown setting {unknown[0]!r}; known are {', '.join(known)}")
        for name, each in known.items():
            if each.default is REQUIRED and name not in values:
                raise UsageError(f"{flag_name(name)} is missing: {each.metadata['help']}")
        for name, value in values.items():
            if isinstance(value, list):  # TOML has no tuples
                values[name] = tuple(value)
            elif type(value) is int and value_type(known[name]) is float:  # `ema = 0`
                values[name] = float(value)
        return cls(**values)

    def recipe(self) -> dict[str, Any]:
        """Return the settings that affect the bits of the trained model."""
        return {
            each.name: getattr(self, each.name) for each in fields(self) if each.metadata["recipe"]
        }

    def to_toml(self) -> str:
        """Return the settings as TOML, one per line, without those that are None.

        A list of one value is written as the value.
        """
        # TOML spells basic strings, numbers, booleans and arrays as JSON does.
        return "".join(
            f"{name} = {dumps(_unpack(value), ensure_ascii=False)}\n"
            for name, value in asdict(self).items()
            if value is not None
        )


def _unpack(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def from_toml(text: str, file: str) -> dict[str, Any]:
    """Parse the text of a config file; if it is not TOML, raise UsageError with its name."""
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is not TOML: {error}") from error


def flag_name(name: str) -> str:
    """Return the flag of a setting.

    >>> flag_name("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")


def value_type(each: Field[Any]) -> type:
    """Return the type of a field's values other than None.

    >>> @dataclass
    ... class Example:
    ...     workers: int | None
    ...     keep: tuple[str, ...]
    >>> [value_type(each).__name__ for each in fields(Example)]
    ['int', 'tuple']
    """
    found = get_args(each.type) if isinstance(each.type, UnionType) else (each.type,)
    return next(
        cast("type", get_origin(type_) or type_) for type_ in found if type_ is not type(None)
    )


def _validate(each: Field[Any], value: Any) -> None:
    """Raise UsageError unless the value has the type, choices and bounds of its field."""
    if value is None and each.default is None:
        return
    type_: Any = value_type(each)
    problem = ""
    choices, least, below, most = (each.metadata[n] for n in ("choices", "least", "below", "most"))
    if type(value) is not type_ or (type_ is tuple and not all(type(v) is str for v in value)):
        problem = f"{value!r}: it must be {_TYPE_NAMES[type_]}"
    elif choices and value not in choices:
        problem = f"{value!r}: choose {' or '.join(choices)}"
    elif isinstance(value, float) and not isfinite(value):
        problem = f"{value}: it must be finite"
    elif least is not None and value < least:
        problem = f"{value}: it must be at least {least}"
    elif below is not None and value >= below:
        problem = f"{value}: it must be less than {below}"
    elif most is not None and value > most:
        problem = f"{value}: it must be at most {most}"
    for text in value if type(value) is tuple else [value]:
        if isinstance(text, str):
            refuse_credentials(text)
    if problem:
        raise UsageError(f"{flag_name(each.name)} is {problem}")
