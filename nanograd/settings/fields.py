"""Specs: validated dataclasses whose fields are the settings of a command.

A field defines a flag, its help, an argument of a Python function and a line of config.toml.
Precedence: default < preset < config file < environment < flag.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from difflib import get_close_matches
from itertools import compress
from json import dumps
from math import inf, isfinite
from os import PathLike
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    Self,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    get_origin,
)

from nanograd.errors import UsageError
from nanograd.runtime.events import Listener, log_warnings
from nanograd.runtime.storage import refuse_credentials

Place: TypeAlias = str | PathLike[str]
In = TypeVar("In")
Out = TypeVar("Out")

REQUIRED = MISSING

# Headings in `--help`, in this order.
GROUPS = (
    *("Options", "Data", "Pictures", "Net", "Optimization", "Training images", "Review"),
    *("Existing output", "Limits", "Workers", "Output"),
)

# Values of these types are less than this. A larger number of units or nets would overflow.
_BELOW = {int: 2**48, float: inf}
_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    tuple: "a string or a list of strings",
}


class Given(Generic[In, Out]):
    """Type of a field whose value has type Out, and for which Python callers pass type In."""

    if TYPE_CHECKING:  # a descriptor, as type checkers see it

        def __get__(self, instance: object, owner: type | None = None) -> Out: ...
        def __set__(self, instance: object, value: In) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Properties of a setting besides its name, type and default."""

    help: str  # text for `--help`
    group: str = "Options"  # heading in `--help`, one of GROUPS
    rare: bool = False  # whether only `--help-all` lists the setting
    identity: bool = False  # whether the bytes of the output depend on the setting
    least: float | None = None  # smallest allowed value
    below: float | None = None  # allowed values are less than this
    most: float | None = None  # largest allowed value
    terminal: bool = False  # whether it is for the command line only; Python passes a listener
    place: bool = False  # whether its values are paths or URIs


def setting(default: Any, help_: str, **properties: Any) -> Any:
    """Return a dataclass field for a setting; default REQUIRED means that it must be given."""
    return field(default=default, metadata={"setting": Setting(help=help_, **properties)})


def properties(each: Field[Any]) -> Setting:
    """Return the properties of a setting from its field."""
    return cast("Setting", each.metadata["setting"])


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base class of the settings of a command; validates every value on creation."""

    if TYPE_CHECKING:  # these are no fields, but all functions with `takes` have these arguments
        listener: Listener = log_warnings
        spec: Any = None

    def __post_init__(self) -> None:
        for each in fields(self):
            type_, allowed = value_type(each), properties(each)
            value: Any = getattr(self, each.name)
            if value is None and each.default is None:
                continue
            if isinstance(value, str) and type_ is tuple:
                object.__setattr__(self, each.name, (value,))
                value = getattr(self, each.name)
            texts, problem = value if isinstance(value, tuple) else (value,), ""
            is_text = [isinstance(text, str) for text in texts]
            has_type = type(value) is type_ and (type_ is not tuple or all(is_text))
            if not has_type:
                problem = f"{value!r}: it must be {_TYPE_NAMES[type_]}"
            elif choices(each) and value not in choices(each):
                problem = f"{value!r}: choose {' or '.join(choices(each))}"
            elif allowed.place and any(not text or "\0" in text for text in texts):
                problem = f"{'empty' if '' in texts else repr(value)}; name a path or URI"
            elif isinstance(value, float) and not isfinite(value):
                problem = f"{value}: it must be finite"
            elif allowed.least is not None and value < allowed.least:
                problem = f"{value}: it must be at least {allowed.least}"
            elif allowed.most is not None and value > allowed.most:
                problem = f"{value}: it must be at most {allowed.most}"
            elif type_ in _BELOW and value >= (below := allowed.below or _BELOW[type_]):
                problem = f"{value}: it must be less than {below}"
            for text in compress(texts, is_text):
                refuse_credentials(text)
            if problem:
                raise UsageError(f"{flag_name(each.name)} is {problem}")

    @classmethod
    def resolve(cls, *layers: Mapping[str, Any]) -> Self:
        """Create a spec from layers of values; a later layer overrides earlier ones.

        Raises:
            UsageError: a name is unknown, or a value is missing or not allowed.
        """
        values = {name: value for layer in layers for name, value in layer.items()}
        known = {each.name: each for each in fields(cls)}
        cls.require_known(values)
        for name, each in known.items():
            if each.default is REQUIRED and name not in values:
                raise UsageError(f"{flag_name(name)} is missing: {properties(each).help}")
        for name, value in values.items():
            if isinstance(value, list):  # TOML has no tuples
                values[name] = tuple(value)
            elif type(value) is int and value_type(known[name]) is float:  # `ema = 0`
                values[name] = float(value)
        return cls(**values)

    @classmethod
    def require_known(cls, names: Iterable[str], where: str = "") -> None:
        """Raise UsageError for a name that is no setting; `where` begins the message."""
        known = [each.name for each in fields(cls)]
        for name in names:
            if name not in known:
                near = get_close_matches(name, known, 1)
                hint = f"do you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise UsageError(f"{where}unknown setting {name!r}; {hint}")

    def refuse(self, names: Iterable[str], why: str) -> None:
        """Raise UsageError if one of these settings is not the default, as it has no effect."""
        for each in fields(self):
            if each.name in names and getattr(self, each.name) != each.default:
                raise UsageError(f"{flag_name(each.name)} has no effect{why}")

    def identity(self) -> dict[str, Any]:
        """Return the settings on which the bytes of the output depend, sorted, as JSON values."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if properties(f).identity}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in sorted(found.items())
        }

    def to_toml(self) -> str:
        """Return the settings that are not None as TOML; a list of one value becomes the value."""
        lines = []
        for name, value in asdict(self).items():
            if value is not None:
                plain = value[0] if isinstance(value, tuple) and len(value) == 1 else value
                # TOML spells basic strings, numbers, booleans and arrays as JSON does.
                lines.append(f"{name} = {dumps(plain, ensure_ascii=False)}\n")
        return "".join(lines)


def from_toml(text: str, file: str) -> dict[str, Any]:
    """Parse the text of a config file; raise UsageError if it is not TOML."""
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
    """Return the type of a field's values without None, for example int for int | None."""
    type_ = get_args(each.type)[1] if get_origin(each.type) is Given else each.type
    type_ = get_args(type_)[0] if isinstance(type_, UnionType) else type_
    return str if choices(each) else cast("type", get_origin(type_) or type_)


def choices(each: Field[Any]) -> tuple[str, ...]:
    """Return the allowed values of a field whose type is a Literal; () for other fields."""
    types = (each.type, *get_args(each.type))  # the second is for `Literal[...] | None`
    return next((get_args(type_) for type_ in types if get_origin(type_) is Literal), ())
