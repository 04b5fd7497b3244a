"""Command line flags, generated from the fields of settings."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click
from click.shell_completion import CompletionItem

from nanograd.settings.fields import (
    GROUPS,
    REQUIRED,
    Setting,
    Spec,
    choices,
    flag_name,
    from_toml,
    properties,
    value_type,
)

Command = Callable[..., Any]
_SHOW_ALL = "nanograd.show_all"  # key in click's context, set if help lists rare flags


class Places(click.types.StringParamType):
    """Paths or URIs. In an environment variable each is a line, because a path may have spaces."""

    envvar_list_splitter = "\n"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Let the shell complete the path of a file or folder."""
        return [CompletionItem(incomplete, type="file")]


class _Flag(click.Option):
    """A flag that belongs to a setting."""

    def __init__(self, *names: Any, setting: Setting, **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self.setting = setting


class SettingsCommand(click.Command):
    """A command whose help lists flags by group; rare flags are listed by `--help-all` only."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group of flags."""
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in (*GROUPS, "General")}
        num_hidden = 0
        for each in self.get_params(ctx):
            setting = each.setting if isinstance(each, _Flag) else Setting(help="", group="General")
            if setting.rare and _SHOW_ALL not in ctx.meta:
                num_hidden += 1
            elif isinstance(each, click.Option) and (record := each.get_help_record(ctx)):
                sections[setting.group].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
        if num_hidden:
            formatter.write_paragraph()
            formatter.write_text(f"--help-all lists {num_hidden} more options.")


def with_settings(spec_class: type[Spec]) -> Callable[[Command], Command]:
    """Add a flag for each field of a spec, and pass the spec as the command's first argument."""

    def decorate(command: Command) -> Command:
        def run(config: str | None, **given: Any) -> None:
            from nanograd.runtime import storage

            arguments = [given.pop("inputs")] if "inputs" in given else []
            flags = {name: value for name, value in given.items() if value not in (None, ())}
            text = storage.read(config).decode(errors="surrogateescape") if config else ""
            stored = from_toml(text, str(config))
            spec_class.require_known(stored, f"{config}: ")
            # Precedence: config file < environment < flag. Click has merged the last two.
            command(spec_class.resolve(stored, flags), *arguments)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run = common_flags(run)
        run = click.option(
            "--config", type=Places(), metavar="FILE", help="settings from a TOML file"
        )(run)
        if any(properties(each).rare for each in fields(spec_class)):
            run = click.option(
                "--help-all", is_flag=True, expose_value=False, is_eager=True, callback=_show_all,
                help="show all options, rare ones included",
            )(run)  # fmt: skip
        own = spec_class.__annotations__
        required_and_own_first = sorted(
            fields(spec_class),
            key=lambda each: (each.default is not REQUIRED, each.name not in own),
        )
        for each in reversed(required_and_own_first):  # click lists the last added option first
            type_, about, default = value_type(each), properties(each), each.default
            help_ = about.help
            if default is REQUIRED:
                help_ += " [required]"
            elif default not in (None, ()) and default is not False:
                help_ += f" [default: {' '.join(default) if type_ is tuple else default}]"
            scalar: Any = str if type_ is tuple else type_  # for a tuple, the flag is repeated
            if choices(each):
                scalar = click.Choice(choices(each))
            run = click.option(
                *(flag_name(each.name), each.name),
                cls=_Flag,
                setting=about,
                type=Places() if about.place else scalar,
                is_flag=type_ is bool,
                multiple=type_ is tuple,
                default=None,
                help=help_,
            )(run)
        return run

    return decorate


def _show_all(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.meta[_SHOW_ALL] = True
        click.echo(context.get_help())
        context.exit()


def common_flags(command: Command) -> Command:
    """Add the flags that all commands have, and store their values in the click context."""

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
