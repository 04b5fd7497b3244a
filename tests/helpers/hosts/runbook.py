"""The commands of docs/cluster.md, given in a terminal as they stand there."""

import re
import subprocess
from dataclasses import dataclass
from shlex import quote
from threading import Timer

from tests.conftest import ROOT
from tests.helpers.hosts.world import RC, Machine

# What a reader replaces: the documented addresses (RFC 5737) by those of the hosts.
_DOCUMENTED, _OURS = "192.0.2.", "10.77.0."
_END = "--end-of-commands--"


def with_our_addresses(text: str) -> str:
    """Text with the addresses of the hosts that are there.

    >>> with_our_addresses("ssh nanograd@192.0.2.13")
    'ssh nanograd@10.77.0.13'
    """
    return text.replace(_DOCUMENTED, _OURS)


@dataclass(frozen=True)
class Block:
    """A block of commands in the runbook.

    Args:
        section: the headline above it.
        info: what stands behind the fence's `sh`.
        text: the commands.
    """

    section: str
    info: str
    text: str


def blocks() -> list[Block]:
    """All blocks of commands, in order."""
    text = (ROOT / "docs/cluster.md").read_text()
    found = re.finditer(
        r"^##+ (?P<section>.+)$|^```sh ?(?P<info>.*)\n(?P<text>(?:.*\n)*?)```$", text, re.MULTILINE
    )
    section, result = "", []
    for each in found:
        section = each["section"] or section
        if each["text"]:
            result.append(Block(section, each["info"], with_our_addresses(each["text"])))
    return result


class Terminal:
    """A shell that stays open, so that what one block exports counts for the next.

    Args:
        machine: where it is open, in the checkout.
    """

    def __init__(self, machine: Machine) -> None:
        self._shell = subprocess.Popen(
            machine.inside("bash"), text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.run(f"{RC}\ncd ~/nanograd")

    def run(self, commands: str, timeout_s: float = 240) -> str:
        """Give commands, stop at one that fails; what they say.

        Raises:
            AssertionError: one fails, or they take too long.
        """
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        # In this shell, as typed: what they read is not what is written here.
        self._shell.stdin.write(f"set -e; eval {quote(commands)} </dev/null; set +e\necho {_END}\n")
        killer = Timer(timeout_s, self._shell.kill)
        killer.start()
        said: list[str] = []
        for line in self._shell.stdout:
            if line == f"{_END}\n":
                break
            said.append(line)
        else:
            raise AssertionError(f"{commands}\n{''.join(said)}")
        killer.cancel()
        return "".join(said)

    def close(self) -> None:
        """End the shell."""
        self._shell.kill()
        self._shell.wait()
