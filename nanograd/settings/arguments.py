"""The settings of a command as keyword arguments of its Python function."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fsdecode
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from nanograd.errors import ArgumentError, NanogradError, UsageError
from nanograd.settings.fields import Place, Spec

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")
S = TypeVar("S", bound=Spec)


def takes(spec_class: Callable[P, Spec]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Replace `**settings` in the signature of a function by the fields of a spec."""

    def decorate(function: Any) -> Any:
        signature, spec = inspect.signature(function), cast("type[Spec]", spec_class)
        *own, _ = signature.parameters.values()
        hidden = {*signature.parameters, *(e.name for e in spec.settings() if e.terminal)}
        fields = inspect.signature(spec).parameters.values()
        own += [e.replace(annotation=e.empty) for e in fields if e.name not in hidden]
        function.__signature__ = signature.replace(parameters=own)
        return function

    return decorate


def takes_input(
    spec_class: Callable[P, Spec],
) -> Callable[[Callable[Concatenate[A, ...], R]], Callable[Concatenate[A, P], R]]:
    """Decorate a function as `takes` does, if it has one positional argument."""
    return takes(spec_class)  # type: ignore[arg-type]


def method_takes(
    spec_class: Callable[P, Spec],
) -> Callable[[Callable[Concatenate[A, B, ...], R]], Callable[Concatenate[A, B, P], R]]:
    """Decorate a method as `takes` does, if it has one positional argument besides `self`."""
    return takes(spec_class)  # type: ignore[arg-type]


@contextmanager
def resolved(spec_class: type[S], spec: S | None, arguments: Mapping[str, Any]) -> Iterator[S]:
    """Provide the given spec or, if it is None, a spec made of keyword arguments.

    If keyword arguments are used, errors in the block name arguments instead of flags:
    `max_pixels`, not `--max-pixels`.

    Raises:
        ArgumentError: an argument is unknown or invalid, or has an effect on a terminal only.
    """
    if isinstance(spec, spec_class):
        yield spec
        return
    if spec is not None:
        raise ArgumentError(f"spec is {spec!r}: it must be a {spec_class.__name__}")
    try:
        for each in spec_class.settings():
            if each.terminal and each.name in arguments:
                raise UsageError(f"{each.name} is for the terminal; pass listener= instead")
        yield spec_class.resolve(arguments)
    except UsageError as error:
        raise ArgumentError(as_arguments(str(error))) from error
    except NanogradError as error:
        found = error.args
        error.args = tuple(as_arguments(a) if isinstance(a, str) else a for a in found)
        raise


def as_arguments(text: str) -> str:
    """Replace flags in a message by the names of arguments.

    >>> as_arguments("--max-pixels is 7: it must be at least 784")
    'max_pixels is 7: it must be at least 784'
    """
    return re.sub(r"(?<![\w/-])--([a-z]+(?:-[a-z]+)*)", lambda m: m[1].replace("-", "_"), text)


def places(inputs: Place | Sequence[Place]) -> list[str]:
    """Return one or several paths or URIs as texts; raise ArgumentError for anything else."""
    found = [inputs] if isinstance(inputs, str | bytes | PathLike) else inputs
    if not isinstance(found, Sequence) or not found:
        raise ArgumentError(f"name one input, or several in a list, not {inputs!r}")
    for each in found:
        if not isinstance(each, str | PathLike) or not fsdecode(each):
            raise ArgumentError(f"{each!r} is no path or URI")
    return [fsdecode(each) for each in found]
