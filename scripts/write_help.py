"""Regenerate the help texts in README.md and docs/ from the command line.

A block begins with the line `<!-- help: nanograd train -->` and ends with `<!-- /help -->`. The
text between is replaced with the output of `nanograd train --help`. With `--check`, nothing is
written, and the script exits with code 1 if a block is out of date.
"""

import re
import sys
from pathlib import Path

import click
from click.testing import CliRunner

from nanograd.cli import cli

ROOT = Path(__file__).resolve().parents[1]

_WIDTH = 100
_BEGIN = re.compile(r"^<!-- help:", re.MULTILINE)
_BLOCK = re.compile(
    r"^(?P<begin><!-- help: nanograd(?P<words>[ a-z]*) -->\n)"
    r"(?:(?!<!-- help:).)*?"
    r"^(?P<end><!-- /help -->)$",
    re.MULTILINE | re.DOTALL,
)


def main() -> None:
    """Rewrite every file with a stale help block, or with `--check` list these files."""
    check = sys.argv[1:] == ["--check"]
    stale = [file for file in documents(ROOT) if rewrite(file) != file.read_text()]
    for file in stale:
        if not check:
            file.write_text(rewrite(file))
        state = "is out of date; run `make docs`" if check else "rewritten"
        click.echo(f"{file.relative_to(ROOT)} {state}", err=True)
    sys.exit(bool(check and stale))


def documents(root: Path) -> list[Path]:
    """Return README.md, if it exists, and every Markdown file in docs/."""
    return [*root.glob("README.md"), *sorted(root.glob("docs/**/*.md"))]


def rewrite(file: Path) -> str:
    """Return the text of a file with current help blocks."""
    text = file.read_text()
    result, count = _BLOCK.subn(_render, text)
    if count != len(_BEGIN.findall(text)):
        sys.exit(f"{file}: a help block is not closed or names no command")
    return result


def _render(block: re.Match[str]) -> str:
    return f"{block['begin']}```text\n{help_of(block['words'].split())}```\n{block['end']}"


def help_of(words: list[str]) -> str:
    """Return the output of `nanograd WORDS --help` on a terminal of 100 columns."""
    arguments = [*words, "--help"]
    outcome = CliRunner().invoke(cli, arguments, prog_name="nanograd", terminal_width=_WIDTH)
    if outcome.exit_code:
        sys.exit(f"nanograd {' '.join(arguments)}: {outcome.output}")
    return "".join(f"{line.rstrip()}\n" for line in outcome.output.splitlines())


if __name__ == "__main__":
    main()
