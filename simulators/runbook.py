"""The commands of pages about clusters, run in a terminal as they are written there."""

import re
import subprocess
from dataclasses import dataclass
from shlex import quote
from threading import Timer

from simulators.machines import RC, ROOT, SUBNET, Machine

# A reader replaces the documented addresses (RFC 5737) by those of the hosts.
_DOCUMENTED, _OURS = "192.0.2.", f"{SUBNET}."
_END = "--end-of-commands--"


@dataclass(frozen=True)
class Block:
    """A block of commands in a page.

    Args:
        section: the headline above it.
        info: the text behind the fence's `sh`.
        text: the commands.
    """

    section: str
    info: str
    text: str


def blocks(page: str = "docs/cluster.md") -> list[Block]:
    """Return all blocks of commands in a page, in order, with the addresses of the hosts."""
    text = (ROOT / page).read_text()
    found = re.finditer(
        r"^##+ (?P<section>.+)$|^```sh ?(?P<info>.*)\n(?P<text>(?:.*\n)*?)```$", text, re.MULTILINE
    )
    section, result = "", []
    for each in found:
        section = each["section"] or section
        if each["text"]:
            result.append(Block(section, each["info"], each["text"].replace(_DOCUMENTED, _OURS)))
    return result


class Terminal:
    """A shell that stays open in the checkout, so that a block can use an earlier one's exports."""

    def __init__(self, machine: Machine) -> None:
        self._shell = subprocess.Popen(
            machine.command("bash"), text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.run(f"{RC}\ncd ~/nanograd")

    def run(self, commands: str, timeout_s: float = 240) -> str:
        """Run commands up to one that fails; return their output.

        Raises:
            AssertionError: one fails, or they take too long.
        """
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        # In this shell, as typed, but without this pipe as their input.
        self._shell.stdin.write(f"set -e; eval {quote(commands)} </dev/null; set +e\necho {_END}\n")
        killer = Timer(timeout_s, self._shell.kill)
        killer.start()
        output: list[str] = []
        for line in self._shell.stdout:
            if line == f"{_END}\n":
                break
            output.append(line)
        else:
            raise AssertionError(f"{commands}\n{''.join(output)}")
        killer.cancel()
        return "".join(output)

    def close(self) -> None:
        """End the shell."""
        self._shell.kill()
        self._shell.wait()
