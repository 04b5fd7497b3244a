"""Specs: validated dataclasses whose fields are the settings of a command.

A field defines a flag, its help, an argument of a Python function and a line of config.toml.
Precedence: default < preset < config file < environment < flag.
"""

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from itertools import compress, pairwise
from json import dumps
from math import isfinite
from operator import ge, gt, lt
from os import PathLike, fsdecode
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    Self,
    TypeAlias,
    TypeVar,
    Union,
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
_BELOW: dict[type, int] = {int: 2**48}
# Text that is no place. A URI without a bucket may come of an empty variable: s3://$BUCKET
_NO_PLACE = re.compile(r"|.*\0.*|(?!file:)[^/]+://+", re.DOTALL)
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
    """A setting of a command, as the field of its spec defines it."""

    owner: type  # the spec that defines the field
    name: str
    kind: type  # type of its values without None, for example int for int | None
    choices: tuple[str, ...]  # allowed values, if the type is a Literal
    default: Any  # REQUIRED if it must be given
    help_: str = ""  # text for `--help` of a field that several specs share
    group: str = "Options"  # heading in `--help`, one of GROUPS
    rare: bool = False  # whether only `--help-all` lists the setting
    identity: bool = False  # whether the bytes of the output depend on the setting
    least: float | None = None  # smallest allowed value
    below: float | None = None  # allowed values are less than this
    most: float | None = None  # largest allowed value
    terminal: bool = False  # whether it is for the command line only; Python passes a listener
    place: bool = False  # whether its values are paths or URIs

    @property
    def help(self) -> str:
        """Text for `--help`: the docstring below the field."""
        return self.help_ or _docstrings(self.owner.__module__)[self.owner.__name__, self.name]

    @classmethod
    def of(cls, owner: type, each: Field[Any]) -> Self:
        """Create the setting that a field defines."""
        kind: Any = get_args(each.type)[1] if get_origin(each.type) is Given else each.type
        if get_origin(kind) in (Union, UnionType):
            kind = get_args(kind)[0]
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        kind = str if choices else get_origin(kind) or kind
        found = {"name": each.name, "kind": kind, "choices": choices, "default": each.default}
        return cls(owner=owner, **found, **each.metadata)

    def check(self, value: Any) -> Any:
        """Return a value as a spec holds it; raise UsageError if it is not allowed."""
        if value is None and self.default is None:
            return None
        if self.kind is tuple and isinstance(value, str | PathLike):
            value = (value,)
        is_list = isinstance(value, list | tuple)  # TOML has no tuples
        value = tuple(map(_plain, value)) if is_list else _plain(value)
        if self.kind is float and type(value) is int:  # `ema = 0`
            value = float(value)
        texts = value if is_list else (value,)
        is_text = [isinstance(text, str) for text in texts]
        for text in compress(texts, is_text):
            refuse_credentials(text)
        problem, shown = "", value
        if type(value) is not self.kind or (is_list and not all(is_text)):
            what = f"{_TYPE_NAMES[self.kind]}{', such as a path or URI' * self.place}"
            problem, shown = f": it must be {what}", repr(value)
        elif self.choices and value not in self.choices:
            problem, shown = f": choose {' or '.join(self.choices)}", repr(value)
        elif self.place and any(map(_NO_PLACE.fullmatch, texts)):
            problem = "; name a path or URI, such as s3://BUCKET/KEY"
            shown = "empty" if "" in texts else repr(value)
        elif value == "" and self.default is None:
            problem, shown = "; leave it out for its default", "empty"
        elif isinstance(value, float) and not isfinite(value):
            problem = ": it must be finite"
        for words, limit, is_beyond in (
            ("at least", self.least, lt),
            ("at most", self.most, gt),
            ("less than", self.below or _BELOW.get(self.kind), ge),
        ):
            if not problem and limit is not None and is_beyond(value, limit):
                problem = f": it must be {words} {limit}"
        if problem:
            raise UsageError(f"{flag_name(self.name)} is {shown}{problem}")
        return value


@cache
def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """Return the docstrings below the fields of all classes in a module, by class and field.

    The source is parsed, because Python does not keep these docstrings.
    """
    found = {}
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    for class_ in (each for each in tree.body if isinstance(each, ast.ClassDef)):
        for pair in pairwise(class_.body):
            match pair:
                case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    found[class_.name, name] = " ".join(text.split())
    return found


def _plain(value: Any) -> Any:
    """Convert a path to text, and a scalar of numpy to a Python number."""
    if getattr(value, "shape", None) == ():
        return value.item()
    return fsdecode(value) if isinstance(value, PathLike) else value


def setting(default: Any, **properties: Any) -> Any:
    """Return a dataclass field for a setting; default REQUIRED means that it must be given.

    The docstring below the field is its text for `--help`.
    """
    return field(default=default, metadata=properties)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base class of the settings of a command; validates every value on creation."""

    if TYPE_CHECKING:  # these are no fields, but all functions with `takes` have these arguments
        listener: Listener = log_warnings
        spec: Any = None

    def __post_init__(self) -> None:
        for each in self.settings():
            object.__setattr__(self, each.name, each.check(getattr(self, each.name)))

    @classmethod
    @cache
    def settings(cls) -> tuple[Setting, ...]:
        """Return the settings in the order of the fields."""
        owners = {name: base for base in cls.__mro__[-2::-1] for name in base.__annotations__}
        return tuple(Setting.of(owners[each.name], each) for each in fields(cls))

    @classmethod
    def resolve(cls, *layers: Mapping[str, Any]) -> Self:
        """Create a spec from layers of values; a later layer overrides earlier ones.

        Raises:
            UsageError: a name is unknown, or a value is missing or not allowed.
        """
        values = {name: value for layer in layers for name, value in layer.items()}
        require_known(values, [each.name for each in cls.settings()])
        for each in cls.settings():
            if each.default is REQUIRED and each.name not in values:
                raise UsageError(f"{flag_name(each.name)} is missing: {each.help}")
        return cls(**values)

    def refuse(self, names: Iterable[str], why: str) -> None:
        """Raise UsageError if one of these settings is not the default, as it has no effect."""
        for each in self.settings():
            if each.name in names and getattr(self, each.name) != each.default:
                raise UsageError(f"{flag_name(each.name)} has no effect{why}")

    def identity(self) -> dict[str, Any]:
        """Return the settings on which the bytes of the output depend, sorted, as JSON values."""
        found = {each.name: getattr(self, each.name) for each in self.settings() if each.identity}
        return {n: list(e) if isinstance(e, tuple) else e for n, e in sorted(found.items())}

    def to_toml(self) -> str:
        """Return the settings that are not None as TOML; a list of one value becomes the value."""
        lines = []
        for name, value in vars(self).items():
            if value is not None:
                plain = value[0] if isinstance(value, tuple) and len(value) == 1 else value
                # TOML spells basic strings, numbers, booleans and arrays as JSON does, but for DEL.
                text = dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
                lines.append(f"{name} = {text}\n")
        return "".join(lines)


def require_known(names: Iterable[str], known: Sequence[str], where: str = "") -> None:
    """Raise UsageError for a name that is no setting; `where` begins the message."""
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"do you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise UsageError(f"{where}unknown setting {name!r}; {hint}")


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
