"""Every command in the documentation parses, and its flags exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nanograd.cli import cli
from nanograd.settings.fields import flag_name
from tests.conftest import ROOT
from tests.docs.test_docs import DOCUMENTS, FENCE, name_of, prose

_SHELLS = ("sh", "bash", "console")
_ENDS = (";", "&&", "||", "|", "&", ">", "2>")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def shell_lines(file: Path) -> Iterator[list[str]]:
    """Yield the words of each line of shell in a document, without comments."""
    for block in FENCE.finditer(file.read_text()):
        if block["info"].strip() in _SHELLS:
            for line in block["text"].replace("\\\n", " ").splitlines():
                yield shlex.split(line, comments=True)


def nanograd_commands(words: list[str]) -> Iterator[list[str]]:
    """Yield the arguments of each `nanograd` command or job in a line."""
    for place, word in enumerate(words):
        if word == "nanograd" or re.fullmatch(r"(.*/)?jobs/[a-z]+\.py", word):
            end = next((n for n in range(place, len(words)) if words[n] in _ENDS), len(words))
            job = [] if word == "nanograd" else [Path(word).stem]
            yield job + words[place + 1 : end]


def find_command(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def parse_commands(document: Path) -> None:
    for line in shell_lines(document):
        for words in nanograd_commands(line):
            command, rest = find_command(words)
            # A command keeps the help option of its first context.
            whole = click.Context(cli, info_name="nanograd", **cli.context_settings)
            command.make_context("nanograd", list(rest), parent=whole)


def flags_of(command: click.Command) -> set[str]:
    return {name for each in command.params for name in each.opts} | {"--help", "-h", "--version"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_flags_and_make_targets_of_a_document_exist(document):
    parse_commands(document)

    for quoted in re.findall(r"`nanograd ([^`]*)`", prose(document)):
        command, rest = find_command(quoted.replace("\n", " ").split())
        unknown = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert unknown <= flags_of(command), quoted
    in_blocks = [line[1] for line in shell_lines(document) if line[:1] == ["make"] and line[1:]]
    assert {*re.findall(r"`make ([a-z-]+)", prose(document)), *in_blocks} <= TARGETS


def test_environment_variables_correspond_to_flags():
    text = "".join(document.read_text() for document in DOCUMENTS)

    named = {name.lower() for name in re.findall(r"\bNANOGRAD_TRAIN_([A-Z_]+[A-Z])\b", text)}

    assert "batch_size" in named
    command, _ = find_command(["train"])
    assert {flag_name(name) for name in named} <= flags_of(command)
