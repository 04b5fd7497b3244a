"""Command line flags, generated from the fields of settings."""

import re
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from nanograd.errors import UsageError
from nanograd.settings.fields import (
    GROUPS,
    REQUIRED,
    Setting,
    Spec,
    flag_name,
    from_toml,
    require_known,
)

_SHOW_ALL = "nanograd.show_all"  # key in click's context, set if help lists rare flags


class Texts(click.types.StringParamType):
    """Texts. In an environment variable each is a line, because a text may have spaces."""

    def split_envvar_value(self, rv: str) -> list[str]:
        """Return the lines of a variable."""
        return rv.replace("\r\n", "\n").removesuffix("\n").split("\n")


class Places(Texts):
    """Paths or URIs."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Let the shell complete the path of a file or folder."""
        return [CompletionItem(incomplete, type="file")]


class Flag(click.Option):
    """The flag of a setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        default, many = setting.default, setting.kind is tuple  # to give many, repeat the flag
        help_ = setting.help
        if default is REQUIRED:
            help_ += " [required]"
        elif default not in (None, ()) and default is not False:
            help_ += f" [default: {' '.join(default) if many else default}]"
        type_: Any = click.Choice(setting.choices) if setting.choices else setting.kind
        if setting.place or many:
            type_ = Places() if setting.place else Texts()
        super().__init__(
            [flag_name(setting.name), setting.name],
            type=type_,
            is_flag=setting.kind is bool,
            multiple=many,
            default=None,
            help=help_,
        )


def _switch(name: str, help_: str, callback: Callable[..., None], **more: Any) -> click.Option:
    words, more = [f"--{name}"], {"is_flag": True, "expose_value": False, **more}
    return click.Option(words, callback=callback, help=help_, **more)


class Command(click.Command):
    """A command with the flags that all commands have; click's context remembers their values."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)

        def remember(context: click.Context, flag: click.Parameter, value: bool) -> None:
            context.ensure_object(dict)[flag.name] = value

        self.params += [
            _switch("debug", "print the traceback of an error", remember),
            _switch("json", "print the result line on a terminal, too", remember),
        ]


class SpecCommand(Command):
    """A command with a flag for each setting of a spec, whose docstring is the command's help.

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
            attributes: Any = {"nargs": -1 if argument.endswith("...") else 1, "required": True}
            params.append(click.Argument(["inputs"], type=Places(), metavar=argument, **attributes))
        required_and_own_first = sorted(
            spec.settings(), key=lambda each: (each.default is not REQUIRED, each.owner is not spec)
        )
        params += map(Flag, required_and_own_first)
        if any(each.rare for each in spec.settings()):
            help_ = "show all options, rare ones included"
            params.append(_switch("help-all", help_, show_all, is_eager=True))
        help_ = "settings from a TOML file"
        params.append(click.Option(["--config"], type=Places(), metavar="FILE", help=help_))
        super().__init__(name, params=params, callback=self.resolve, help=spec.__doc__)
        self.spec, self.run = spec, run

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the flags; an error says if its value comes from an environment variable."""
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            name = error.param.name if error.param else None
            if name and (variable := _variable(ctx, name)):
                error.add_note(f"{flag_name(name)} comes from {variable}")
            raise

    def resolve(self, config: str | None, **given: Any) -> None:
        """Make the spec from a config file and flags, and run the command."""
        from nanograd.runtime import storage

        arguments = [given.pop("inputs")] if "inputs" in given else []
        flags = {name: value for name, value in given.items() if value not in (None, ())}
        if config == "":
            raise UsageError("--config is empty; name a TOML file")
        text = storage.read(config).decode(errors="surrogateescape") if config else ""
        stored = from_toml(text, str(config))
        for name in (each for each, value in stored.items() if isinstance(value, dict)):
            raise UsageError(f"{config}: write settings at its top, not in a table [{name}]")
        require_known(stored, [each.name for each in self.spec.settings()], f"{config}: ")
        # Precedence: config file < environment < flag. Click has merged the last two.
        try:
            spec = self.spec.resolve(stored, flags)
        except UsageError as error:
            for name in (each.name for each in self.spec.settings()):
                of_file = config if name in stored and name not in flags else None
                source = _variable(click.get_current_context(), name) or of_file
                if source and re.search(rf"{flag_name(name)}(?![\w-])", str(error)):
                    error.add_note(f"{flag_name(name)} comes from {source}")
            raise
        self.run(*arguments, spec=spec)

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


def _variable(context: click.Context, name: str) -> str | None:
    """Return the environment variable that gives a setting its value."""
    is_variable = context.get_parameter_source(name) is ParameterSource.ENVIRONMENT
    return f"{context.auto_envvar_prefix}_{name}".upper() if is_variable else None
