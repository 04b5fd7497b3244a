"""Command line flags, generated from the fields of settings."""

from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

import click

from nanograd.settings.fields import (
    GROUPS,
    REQUIRED,
    Spec,
    choices,
    flag_name,
    from_toml,
    properties,
    value_type,
)

Command = Callable[..., Any]
_SHOW_ALL = "nanograd.show_all"  # in click's context: whether help lists rare flags


class Places(click.types.StringParamType):
    """Paths or URIs, which may have spaces: in an environment variable, each is a line."""

    envvar_list_splitter = "\n"


class SettingsCommand(click.Command):
    """A command whose help lists flags by group; `--help-all` includes the rare ones."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group of flags."""
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        show_all = ctx.meta.get(_SHOW_ALL)
        shown = [each for each in options if show_all or not getattr(each, "rare", False)]
        for group in (*GROUPS, "General"):
            records = [
                record
                for each in shown
                if getattr(each, "group", "General") == group
                and (record := each.get_help_record(ctx))
            ]
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)
        if hidden := len(options) - len(shown):
            formatter.write_paragraph()
            formatter.write_text(f"--help-all lists {hidden} more options.")


class _SettingOption(click.Option):
    """The flag of a setting."""

    def __init__(self, *names: Any, group: str, rare: bool, **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self.group, self.rare = group, rare


def with_settings(spec_class: type[Spec]) -> Callable[[Command], Command]:
    """Add a flag for each field of a spec, and pass the spec to the command first."""

    def decorate(command: Command) -> Command:
        def run(config: str | None, **given: Any) -> None:
            from nanograd.runtime import storage

            arguments = [given.pop("inputs")] if "inputs" in given else []
            flags = {name: value for name, value in given.items() if value not in (None, ())}
            text = storage.read(config).decode(errors="surrogateescape") if config else ""
            # Spec file < environment < flag; click has merged the last two.
            command(spec_class.resolve(from_toml(text, str(config)), flags), *arguments)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run = common_flags(run)
        run = click.option("--config", metavar="FILE", help="settings from a TOML file")(run)
        if any(properties(each).rare for each in fields(spec_class)):
            run = _help_all(run)
        own = spec_class.__annotations__
        required_and_own_first = sorted(
            fields(spec_class),
            key=lambda each: (each.default is not REQUIRED, each.name not in own),
        )
        for each in reversed(required_and_own_first):  # click lists the last one first
            run = _option(each)(run)
        return run

    return decorate


def _help_all(command: Command) -> Command:
    """Add the flag `--help-all`."""

    def show(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.meta[_SHOW_ALL] = True
            click.echo(context.get_help())
            context.exit()

    return click.option(
        "--help-all", is_flag=True, expose_value=False, is_eager=True, callback=show,
        help="show all options, rare ones included",
    )(command)  # fmt: skip


def common_flags(command: Command) -> Command:
    """Add the flags of all commands, whose values are stored in the click context."""

    def remember(context: click.Context, flag: click.Parameter, value: bool) -> None:
        context.ensure_object(dict)[flag.name] = value

    for name, help_ in (
        ("json", "print the result line on a terminal, too"),
        ("debug", "print the traceback of an error"),
    ):
        command = click.option(
            f"--{name}", is_flag=True, expose_value=False, callback=remember, help=help_
        )(command)
    return command


def _option(each: Field[Any]) -> Callable[[Command], Command]:
    type_, about = value_type(each), properties(each)
    help_ = about.help
    if each.default is REQUIRED:
        help_ += " [required]"
    elif each.default not in (None, ()) and each.default is not False:
        default = " ".join(each.default) if type_ is tuple else each.default
        help_ += f" [default: {default}]"
    scalar: Any = str if type_ is tuple else type_  # a tuple's flag is repeated
    if about.lines:
        scalar = Places()
    return click.option(
        flag_name(each.name),
        each.name,
        cls=_SettingOption,
        group=about.group,
        rare=about.rare,
        type=click.Choice(choices(each)) if choices(each) else scalar,
        is_flag=type_ is bool,
        multiple=type_ is tuple,
        default=None,
        help=help_,
    )
