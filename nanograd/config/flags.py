"""A command's flags, made from the fields of its settings."""

from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, TypeVar

import click

from nanograd.config.settings import REQUIRED, Config, flag, from_toml, kind

C = TypeVar("C", bound=Config)
Command = Callable[..., Any]

_CLICK_TYPES = {int: int, float: float, str: str, bool: bool, tuple: str}


def with_settings(config_class: type[C]) -> Callable[[Command], Command]:
    """Give a command a flag for each field of its config, and the config as its first argument."""

    def decorate(command: Command) -> Command:
        def run(config: str | None, **given: Any) -> None:
            arguments = {name: given.pop(name) for name in ("inputs",) if name in given}
            command(_resolve(config_class, config, given), *arguments.values())

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run = debug(run)
        run = click.option("--config", metavar="FILE", help="settings from a TOML file")(run)
        for each in reversed(_own_fields_first(config_class)):
            run = _option(each)(run)
        return run

    return decorate


def debug(command: Command) -> Command:
    """Give a command the flag `--debug`, which the context keeps for the door."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.ensure_object(dict)["debug"] = value

    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="show the traceback of an error",
    )(command)


def _resolve(config_class: type[C], file: str | None, flags: dict[str, Any]) -> C:
    """Config file < environment < flag; click reads the last two."""
    from nanograd.runtime import storage

    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    in_file = from_toml(storage.read(file).decode(errors="replace"), file) if file else {}
    return config_class.resolve(in_file, given)


def _own_fields_first(config_class: type[Config]) -> list[Field[Any]]:
    own = config_class.__annotations__
    return sorted(fields(config_class), key=lambda each: each.name not in own)


def _option(each: Field[Any]) -> Callable[[Command], Command]:
    notes, type_ = each.metadata, kind(each)
    help_ = notes["help"]
    if each.default is REQUIRED:
        help_ += " [required]"
    elif each.default is not None and each.default is not False and each.default != ():
        help_ += f" [default: {each.default}]"
    return click.option(
        flag(each.name),
        each.name,
        type=click.Choice(notes["choices"]) if notes["choices"] else _CLICK_TYPES[type_],
        is_flag=type_ is bool,
        multiple=type_ is tuple,
        default=None,
        help=help_,
    )
