"""Command line flags, generated from the fields of settings."""

from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

import click
from click.shell_completion import CompletionItem

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

_SHOW_ALL = "nanograd.show_all"  # key in click's context, set if help lists rare flags


class Texts(click.types.StringParamType):
    """Texts. In an environment variable each is a line, because a text may have spaces."""

    envvar_list_splitter = "\n"


class Places(Texts):
    """Paths or URIs."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Let the shell complete the path of a file or folder."""
        return [CompletionItem(incomplete, type="file")]


class Flag(click.Option):
    """The flag of a setting."""

    def __init__(self, each: Field[Any]) -> None:
        self.setting = properties(each)
        type_, default, help_ = value_type(each), each.default, self.setting.help
        if default is REQUIRED:
            help_ += " [required]"
        elif default not in (None, ()) and default is not False:
            help_ += f" [default: {' '.join(default) if type_ is tuple else default}]"
        scalar: Any = Texts() if type_ is tuple else type_  # for a tuple, the flag is repeated
        if choices(each):
            scalar = click.Choice(choices(each))
        super().__init__(
            [flag_name(each.name), each.name],
            type=Places() if self.setting.place else scalar,
            is_flag=type_ is bool,
            multiple=type_ is tuple,
            default=None,
            help=help_,
        )


class Command(click.Command):
    """A command with the flags that all commands have; click's context remembers their values."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)

        def remember(context: click.Context, flag: click.Parameter, value: bool) -> None:
            context.ensure_object(dict)[flag.name] = value

        for name, help_ in (
            ("debug", "print the traceback of an error"),
            ("json", "print the result line on a terminal, too"),
        ):
            flag = click.Option(
                [f"--{name}"], is_flag=True, expose_value=False, callback=remember, help=help_
            )
            self.params.append(flag)


class SpecCommand(Command):
    """A command with a flag for each field of a spec class, whose docstring is the command's help.

    `--help` lists the flags by group, without rare ones; `--help-all` lists all. `run` receives the
    spec and, if the command has an `argument`, such as PATH..., its value as `inputs`.
    """

    def __init__(
        self, name: str, spec: type[Spec], argument: str | None, run: Callable[..., None]
    ) -> None:
        params: list[click.Parameter] = []

        def show_all(context: click.Context, _: click.Parameter, value: bool) -> None:
            if value:
                context.meta[_SHOW_ALL] = True
                click.echo(context.get_help())
                context.exit()

        if argument:
            nargs = -1 if argument.endswith("...") else 1
            params.append(
                click.Argument(
                    ["inputs"], type=Places(), metavar=argument, nargs=nargs, required=True
                )
            )
        own, found = spec.__annotations__, fields(spec)
        required_and_own_first = sorted(
            found, key=lambda each: (each.default is not REQUIRED, each.name not in own)
        )
        params += map(Flag, required_and_own_first)
        if any(properties(each).rare for each in found):
            params.append(
                click.Option(
                    ["--help-all"], is_flag=True, expose_value=False, is_eager=True,
                    callback=show_all, help="show all options, rare ones included",
                )
            )  # fmt: skip
        params.append(
            click.Option(
                ["--config"], type=Places(), metavar="FILE", help="settings from a TOML file"
            )
        )
        super().__init__(name, params=params, callback=self.resolve, help=spec.__doc__)
        self.spec, self.run = spec, run

    def resolve(self, config: str | None, **given: Any) -> None:
        """Make the spec from a config file and flags, and run the command."""
        from nanograd.runtime import storage

        arguments = [given.pop("inputs")] if "inputs" in given else []
        flags = {name: value for name, value in given.items() if value not in (None, ())}
        text = storage.read(config).decode(errors="surrogateescape") if config else ""
        stored = from_toml(text, str(config))
        self.spec.require_known(stored, f"{config}: ")
        # Precedence: config file < environment < flag. Click has merged the last two.
        self.run(*arguments, spec=self.spec.resolve(stored, flags))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group of flags."""
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in (*GROUPS, "General")}
        num_hidden = 0
        for each in self.get_params(ctx):
            is_rare = isinstance(each, Flag) and each.setting.rare
            if is_rare and _SHOW_ALL not in ctx.meta:
                num_hidden += 1
            elif isinstance(each, click.Option) and (record := each.get_help_record(ctx)):
                sections[each.setting.group if isinstance(each, Flag) else "General"].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
        if num_hidden:
            formatter.write_paragraph()
            formatter.write_text(f"--help-all lists {num_hidden} more options.")
