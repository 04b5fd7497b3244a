"""Command line flags, generated from the fields of settings."""

from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, TypeVar

import click

from nanograd.config.settings import REQUIRED, Config, flag_name, from_toml, value_type

C = TypeVar("C", bound=Config)
Command = Callable[..., Any]

_CLICK_TYPES = {int: int, float: float, str: str, bool: bool, tuple: str}


def with_settings(config_class: type[C]) -> Callable[[Command], Command]:
    """Add a flag for each field of a config, and pass the config to the command first."""

    def decorate(command: Command) -> Command:
        def run(config: str | None, **given: Any) -> None:
            arguments = [given.pop("inputs")] if "inputs" in given else []
            command(_resolve(config_class, config, given), *arguments)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run = debug(run)
        run = click.option("--config", metavar="FILE", help="settings from a TOML file")(run)
        own = config_class.__annotations__
        own_first = sorted(fields(config_class), key=lambda each: each.name not in own)
        for each in reversed(own_first):  # click lists the last one first
            run = _option(each)(run)
        return run

    return decorate


def debug(command: Command) -> Command:
    """Add the flag `--debug`, whose value is stored in the click context."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.ensure_object(dict)["debug"] = value

    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="print the traceback of an error",
    )(command)


def _resolve(config_class: type[C], file: str | None, flags: dict[str, Any]) -> C:
    """Merge config file < environment < flag; click has merged the last two."""
    from nanograd.runtime import storage

    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    in_file = from_toml(storage.read(file).decode(errors="replace"), file) if file else {}
    return config_class.resolve(in_file, given)


def _option(each: Field[Any]) -> Callable[[Command], Command]:
    metadata, type_ = each.metadata, value_type(each)
    help_ = metadata["help"]
    if each.default is REQUIRED:
        help_ += " [required]"
    elif each.default is not None and each.default is not False and each.default != ():
        help_ += f" [default: {each.default}]"
    return click.option(
        flag_name(each.name),
        each.name,
        type=click.Choice(metadata["choices"]) if metadata["choices"] else _CLICK_TYPES[type_],
        is_flag=type_ is bool,
        multiple=type_ is tuple,
        default=None,
        help=help_,
    )
