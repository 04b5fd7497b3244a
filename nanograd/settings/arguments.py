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
    """Replace `**settings` in the signature of a function by `spec` and the fields of a spec."""

    def decorate(function: Any) -> Any:
        signature, spec = inspect.signature(function), cast("type[Spec]", spec_class)
        *own, settings = signature.parameters.values()
        if "listener" in signature.parameters:
            own.append(settings.replace(name="spec", kind=settings.KEYWORD_ONLY, default=None))
        hidden = {*signature.parameters, *(e.name for e in spec.settings() if e.terminal)}
        for each in inspect.signature(spec).parameters.values():
            default = 0 if each.name == "workers" else each.default
            if each.name not in hidden:
                own.append(each.replace(annotation=each.empty, default=default))
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
def resolved(spec_class: type[S], arguments: Mapping[str, Any]) -> Iterator[S]:
    """Provide the argument `spec` or, if it is missing, a spec made of the keyword arguments.

    If keyword arguments are used, `workers` is 0 by default, and errors in the block name arguments
    instead of flags: `max_pixels`, not `--max-pixels`.

    Raises:
        ArgumentError: an argument is unknown or invalid, or has an effect on a terminal only.
    """
    spec = arguments.get("spec")
    if isinstance(spec, spec_class):
        yield spec
        return
    if spec is not None:
        raise ArgumentError(f"spec is {spec!r}: it must be a {spec_class.__name__}")
    try:
        settings = {each.name: each for each in spec_class.settings()}
        given = {name: value for name, value in arguments.items() if name != "spec"}
        for name in given:
            if name in settings and settings[name].terminal:
                raise UsageError(f"{name} is for the terminal; pass listener= instead")
        yield spec_class.resolve({"workers": 0} if "workers" in settings else {}, given)
    except UsageError as error:
        raise ArgumentError(as_arguments(str(error))) from error
    except NanogradError as error:
        found = error.args
        error.args = tuple(as_arguments(a) if isinstance(a, str) else a for a in found)
        raise


def as_arguments(text: str) -> str:
    """Replace flags in a message by the names of arguments, but not in a command to run.

    >>> as_arguments("--max-pixels is 7: it must be at least 784")
    'max_pixels is 7: it must be at least 784'
    >>> as_arguments("lower --epochs, or run: nanograd data fetch --mirror URL")
    'lower epochs, or run: nanograd data fetch --mirror URL'
    """
    words = r"(?<![\w/-])--([a-z]+(?:-[a-z]+)*)|\bnanograd [a-z][^;]*"
    return re.sub(words, lambda m: m[1].replace("-", "_") if m[1] else m[0], text)


def places(inputs: Place | Sequence[Place]) -> list[str]:
    """Return one or several paths or URIs as texts; raise ArgumentError for anything else."""
    found = [inputs] if isinstance(inputs, str | bytes | PathLike) else inputs
    if not isinstance(found, Sequence) or not found:
        raise ArgumentError(f"name one input, or several in a list, not {inputs!r}")
    for each in found:
        if not isinstance(each, str | PathLike) or not fsdecode(each):
            raise ArgumentError(f"{each!r} is no path or URI")
    return [fsdecode(each) for each in found]
