"""Update the generated parts of pages: commands, settings, figures.

A block begins with a line `<!-- KIND: WORDS -->` and ends with `<!-- /KIND -->`. The text between
these lines is replaced. KIND is a name in _RENDERERS. For example, `<!-- settings: train -->`
stands for the settings of `nanograd train`. With `--check`, nothing is written, and the script
exits with code 1 if a file is out of date.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import click

from nanograd import errors
from nanograd.cli import cli
from nanograd.runtime import events
from nanograd.settings.fields import REQUIRED, Setting, Spec
from nanograd.settings.flags import SpecCommand
from nanograd.settings.train_spec import PRESETS, TrainSpec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts import figures  # noqa: E402


def main() -> None:
    """Rewrite plots and files with outdated blocks; with `--check`, list them instead."""
    check = sys.argv[1:] == ["--check"]
    current = {file: rewrite(file) for file in documents(ROOT)}
    if (ROOT / "docs/figures.md").exists():
        pictures = ROOT / "docs" / "pictures"
        current |= {pictures / name: plot for name, plot in figures.plots().items()}
    stale = [
        file for file, text in current.items() if not file.exists() or file.read_text() != text
    ]
    for file in stale:
        if not check:
            file.write_text(current[file])
        state = "is out of date; run `make docs`" if check else "rewritten"
        click.echo(f"{file.relative_to(ROOT)} {state}", err=True)
    sys.exit(bool(check and stale))


def documents(root: Path) -> list[Path]:
    """Return the readmes, if they exist, and every Markdown file in docs/."""
    return [*sorted(root.glob("README*.md")), *sorted(root.glob("docs/**/*.md"))]


def rewrite(file: Path) -> str:
    """Return the text of a file with updated blocks."""
    text = file.read_text()
    result, count = _BLOCK.subn(_render, text)
    if count != len(_BEGIN.findall(text)):
        sys.exit(f"{file}: a generated block is not closed")
    return result


def _render(block: re.Match[str]) -> str:
    text = _RENDERERS[block["kind"]]((block["words"] or "").split())
    return f"{block['begin']}{text}{block['end']}"


def commands_of(words: Sequence[str]) -> str:
    """Return a list of the commands: usage, summary and options."""
    lines = []
    for usage, command in _commands("nanograd", cli):
        metavars = [each.metavar for each in command.params if isinstance(each, click.Argument)]
        options = "; ".join(
            f"`{each.opts[0]}`: {each.help}"
            for each in command.params
            if isinstance(each, click.Option) and each.opts[0] not in _COMMON
        )
        if (name := usage.removeprefix("nanograd ")) in SETTINGS:
            section = name.replace(" ", "-") if settings_of([name]) else "several-commands"
            options = f"[settings](settings.md#{section})"
        options = f" ({options})" if options else ""
        lines.append(f"`{' '.join(filter(None, [usage, *metavars]))}`: {command.help}{options}")
    return _list(lines)


def _commands(usage: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _commands(f"{usage} {name}", each)
    else:
        yield usage, command


def settings_of(words: Sequence[str]) -> str:
    """Return a list of the settings that one command has, or (`shared`) several commands have."""
    uses: dict[str, list[str]] = {}
    for command, spec in SETTINGS.items():
        for each in spec.settings():
            uses.setdefault(_setting(each, spec), []).append(command)
    name = " ".join(words)
    if name == "shared":
        lines = [f"{text} *({', '.join(found)})*" for text, found in uses.items() if len(found) > 1]
    elif name in SETTINGS:
        lines = [text for text, found in uses.items() if found == [name]]
    else:
        sys.exit(f"no command {name!r} has settings")
    return _list(lines)


def _setting(each: Setting, spec: type[Spec]) -> str:
    default = each.default
    limits = [
        f"{sign}2^63" if bound == 2**63 else f"{sign}{bound:.12g}"
        for sign, bound in (("≥", each.least), ("<", each.below), ("≤", each.most))
        if bound is not None
    ]
    words = [f"`{choice}`" for choice in each.choices]
    meaning, _, computed = each.help.rstrip("]").partition(" [default: ")
    shown = default[0] if isinstance(default, tuple) and default else default
    by_preset = [
        f"{preset} `{values[each.name]}`"
        for preset, values in PRESETS.items()
        if spec is TrainSpec and each.name in values
    ]
    parts = [
        ", ".join(words) or " ".join([_TYPES[each.kind], *limits]),
        "required" if default is REQUIRED else "",
        computed and f"default {computed}",
        "" if default in (None, (), "", REQUIRED) or default is False else f"default `{shown}`",
        *by_preset,
    ]
    return f"`{each.name}` ({'; '.join(filter(None, parts))}): {meaning}"


def exit_codes(words: Sequence[str]) -> str:
    """Return a list of the exceptions, by their exit codes."""
    found = [
        each for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.NanogradError)
        and each not in (errors.NanogradError, errors.ClusterError)
    ]  # fmt: skip
    found.sort(key=lambda each: each.exit_code)
    return _list(f"{each.exit_code}, `{each.__name__}`: {_summary(each)}" for each in found)


def event_types(words: Sequence[str]) -> str:
    """Return a list of the events: name in records and class, meaning, fields."""
    found = [
        each for each in vars(events).values()
        if isinstance(each, type) and issubclass(each, events.Event) and "name" in vars(each)
    ]  # fmt: skip
    lines = []
    for each in found:
        own = (field.name for field in fields(each) if field.name not in ("name", "level"))
        names = ", ".join(f"`{name}`" for name in own)
        lines.append(f"`{vars(each)['name']}`, `{each.__name__}`: {_summary(each)} ({names})")
    sentences = events.SENTENCES.items()
    return _list([*lines, *(f"`{name}`, `GroupEvent`: `{each}`" for name, each in sentences)])


def reasons(words: Sequence[str]) -> str:
    """Return the reasons for quarantine."""
    return ", ".join(f"`{each}`" for each in errors.Reason) + "\n"


def _summary(class_: type) -> str:
    return (class_.__doc__ or "").splitlines()[0]


def _list(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


_TYPES = {
    int: "integer", float: "number", bool: "flag", str: "text", tuple: "texts"
}  # fmt: skip
SETTINGS: dict[str, type[Spec]] = {
    usage.removeprefix("nanograd "): each.spec
    for usage, each in _commands("nanograd", cli)
    if isinstance(each, SpecCommand)
}
_RENDERERS: dict[str, Callable[[Sequence[str]], str]] = {
    "commands": commands_of,
    "settings": settings_of,
    "exit codes": exit_codes,
    "events": event_types,
    "reasons": reasons,
    "figures": figures.render,
}
_COMMON = ("--help-all", "--config", "--debug", "--json")
_KINDS = "|".join(_RENDERERS)
_BEGIN = re.compile(rf"^<!-- (?:{_KINDS})\b", re.MULTILINE)
_BLOCK = re.compile(
    rf"^(?P<begin><!-- (?P<kind>{_KINDS})(?::(?P<words>[^\n]*?))? -->\n)"
    rf"(?:(?!<!-- (?:{_KINDS})\b).)*?"
    r"^(?P<end><!-- /(?P=kind) -->)$",
    re.MULTILINE | re.DOTALL,
)


if __name__ == "__main__":
    main()
