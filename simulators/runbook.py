"""The commands of a documentation page, run in a terminal exactly as written."""

import re
import subprocess
from dataclasses import dataclass
from shlex import quote
from threading import Timer

from simulators.machines import RC, ROOT, SUBNET, Machine

# Readers replace the documented addresses (RFC 5737) with the addresses of their hosts.
_DOCUMENTED, _OURS = "192.0.2.", f"{SUBNET}."
_END = "--end-of-commands--"


@dataclass(frozen=True)
class Block:
    """A block of commands in a page.

    Args:
        section: the heading above the block.
        info: the text after `sh` in the line that opens the block.
        text: the commands.
    """

    section: str
    info: str
    text: str


def blocks(page: str = "docs/cluster.md") -> list[Block]:
    """Return all blocks of commands in a page, with the addresses of the simulated hosts."""
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
    """A shell that stays open in the checkout, so that exported variables persist."""

    def __init__(self, machine: Machine) -> None:
        self._shell = subprocess.Popen(
            machine.command("bash"), text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.run(f"{RC}\ncd ~/nanograd")

    def run(self, commands: str, timeout_s: float = 240) -> str:
        """Run commands, stop at the first command that fails, and return the output.

        Raises:
            AssertionError: a command failed, or the commands took too long.
        """
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        # eval runs the commands in this shell; they must not read from the shell's own pipe.
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
