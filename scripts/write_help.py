"""Rewrite the help texts in README.md and docs/ from the command line itself.

A block begins with a line `<!-- help: nanograd train -->` and ends with `<!-- /help -->`; what
stands between them becomes the output of `nanograd train --help`. With `--check` nothing is
written, and a block that is out of date ends the script with exit code 1.
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
    """Rewrite every file with a help block, or with `--check` name those that are out of date."""
    check = sys.argv[1:] == ["--check"]
    stale = [file for file in documents(ROOT) if rewritten(file) != file.read_text()]
    for file in stale:
        if not check:
            file.write_text(rewritten(file))
        state = "is out of date; run `make docs`" if check else "rewritten"
        click.echo(f"{file.relative_to(ROOT)} {state}", err=True)
    sys.exit(bool(check and stale))


def documents(root: Path) -> list[Path]:
    """README.md, if it is there, and every Markdown file below docs/."""
    return [*root.glob("README.md"), *sorted(root.glob("docs/**/*.md"))]


def rewritten(file: Path) -> str:
    """The file's text with every help block as it should be."""
    text = file.read_text()
    result, count = _BLOCK.subn(_fresh, text)
    if count != len(_BEGIN.findall(text)):
        sys.exit(f"{file}: a help block is not closed, or names no command")
    return result


def _fresh(block: re.Match[str]) -> str:
    return f"{block['begin']}```text\n{help_of(block['words'].split())}```\n{block['end']}"


def help_of(words: list[str]) -> str:
    """What `nanograd WORDS --help` prints on a terminal of 100 columns."""
    arguments = [*words, "--help"]
    outcome = CliRunner().invoke(cli, arguments, prog_name="nanograd", terminal_width=_WIDTH)
    if outcome.exit_code:
        sys.exit(f"nanograd {' '.join(arguments)}: {outcome.output}")
    return "".join(f"{line.rstrip()}\n" for line in outcome.output.splitlines())


if __name__ == "__main__":
    main()
