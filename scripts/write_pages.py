"""Update the generated parts of pages: help texts, settings, figures.

A block begins with a line `<!-- KIND: WORDS -->` and ends with `<!-- /KIND -->`. The text between
these lines is replaced. KIND is a name in _RENDERERS. For example, `<!-- help: nanograd train -->`
stands for the output of `nanograd train --help`. With `--check`, nothing is written, and the script
exits with code 1 if a file is out of date.
"""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from nanograd import errors
from nanograd.cli import cli
from nanograd.runtime import events
from nanograd.settings import specs
from nanograd.settings.fields import REQUIRED, Spec, choices, properties, value_type
from nanograd.settings.train_spec import PRESETS, TrainSpec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts import figures  # noqa: E402

_WIDTH = 100


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


def help_of(words: Sequence[str]) -> str:
    """Return the output of a command's `--help` on a terminal of 100 columns."""
    program, *arguments = [*words, "--help"]
    outcome = CliRunner().invoke(cli, arguments, prog_name=program, terminal_width=_WIDTH)
    if outcome.exit_code:
        sys.exit(f"{' '.join(words)}: {outcome.output}")
    return "".join(
        ["```text\n", *(f"{each.rstrip()}\n" for each in outcome.output.splitlines()), "```\n"]
    )


def settings_of(words: Sequence[str]) -> str:
    """Return a table of the settings of a command: name, type, default, bounds."""
    [command] = words
    if command not in SETTINGS:
        sys.exit(f"no command {command!r} has settings")
    config = SETTINGS[command]
    lines = [_setting(each, config) for each in fields(config)]
    return _table("setting | values | default | ", lines)


def _setting(each: Field[Any], config: type[Spec]) -> list[str]:
    about = properties(each)
    limits = [
        f"{word} {bound}"
        for word, bound in (
            ("at least", about.least),
            ("below", about.below),
            ("at most", about.most),
        )
        if bound is not None
    ]
    words = [f"`{choice}`" for choice in choices(each)]
    values = ", ".join(words or [_TYPES[value_type(each)], *limits])
    default = "" if each.default in (None, (), "") else f"`{str(each.default).lower()}`"
    if each.default is REQUIRED:
        default = "required"
    by_preset = [
        f"{preset} `{values[each.name]}`"
        for preset, values in PRESETS.items()
        if config is TrainSpec and each.name in values
    ]
    return [f"`{each.name}`", values, "; ".join(filter(None, [default, *by_preset])),
            about.help.replace("|", "\\|")]  # fmt: skip


def exit_codes(words: Sequence[str]) -> str:
    """Return a table of the exceptions, by their exit codes."""
    found = [
        each for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.NanogradError)
        and each not in (errors.NanogradError, errors.ClusterError)
    ]  # fmt: skip
    lines = [[str(e.exit_code), f"`{e.__name__}`", _summary(e)] for e in found]
    return _table("code | exception | ", sorted(lines, key=lambda line: int(line[0])))


def event_types(words: Sequence[str]) -> str:
    """Return a table of the events: name in records, class, fields, meaning."""
    found = [
        each for each in vars(events).values()
        if isinstance(each, type) and issubclass(each, events.Event) and "name" in vars(each)
    ]  # fmt: skip
    return _table("`event` | class | fields | ", [
        [f"`{each.name}`", f"`{each.__name__}`",
         ", ".join(f"`{field.name}`" for field in fields(each) if field.name != "level"),
         _summary(each)] for each in found
    ])  # fmt: skip


def reasons(words: Sequence[str]) -> str:
    """Return the reasons for quarantine."""
    return ", ".join(f"`{each}`" for each in errors.Reason) + "\n"


def _summary(class_: type) -> str:
    return (class_.__doc__ or "").splitlines()[0]


def _table(head: str, lines: Sequence[Sequence[str]]) -> str:
    rule = "|".join(["---"] * (head.count("|") + 1))
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"| {head}|\n|{rule}|\n{rows}"


_TYPES = {
    int: "whole number", float: "number", bool: "true or false", str: "text", tuple: "list of texts"
}  # fmt: skip
SETTINGS: dict[str, type[Spec]] = {
    "train": TrainSpec,
    "ingest": specs.IngestSpec,
    "inspect": specs.InspectSpec,
    "predict": specs.PredictSpec,
    "evaluate": specs.EvaluateSpec,
    "export": specs.ExportSpec,
}
_RENDERERS: dict[str, Callable[[Sequence[str]], str]] = {
    "help": help_of,
    "settings": settings_of,
    "exit codes": exit_codes,
    "events": event_types,
    "reasons": reasons,
    "figures": figures.render,
}
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
