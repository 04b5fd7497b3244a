"""Shell completion works with the lines of docs/commands.md."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from nanograd.cli import cli
from tests.conftest import ROOT

_NANOGRAD = Path(sys.executable).parent / "nanograd"
PAGE = (ROOT / "docs/commands.md").read_text()


PLACES = ["ingest", "predict rows", "inspect", "report", "compare", "demo --output"]
PLACES += [f"train {flag}" for flag in ("--config", "--data", "--output", "--resume-from")]
PLACES += [f"predict rows {flag}" for flag in ("--image-root", "--model", "--output")]
PLACES += ["ingest --label-from", "evaluate --model", "export --output", "data export --output"]


@pytest.mark.parametrize("words", PLACES)
def test_shell_completes_paths(words):
    completer = BashComplete(cli, {}, "nanograd", "_NANOGRAD_COMPLETE")

    [found] = completer.get_completions(words.split(), "a.to")

    assert (found.value, found.type in ("file", "dir")) == ("a.to", True)


# How each shell starts without the user's files, and what its own start file has before our line.
SHELLS = {
    "bash": (["bash", "--norc", "-i"], ""),
    "zsh": (["zsh", "-f", "-i"], "bindkey -e; autoload -Uz compinit; compinit -u"),
    "fish": (["fish", "--no-config", "-i"], ""),
}
TYPED = {
    "nanograd ing": "nanograd ingest",
    "nanograd data f": "nanograd data fetch",
    "nanograd train --learning": "nanograd train --learning-rate",
    "nanograd train --preset ac": "nanograd train --preset accurate",
    "nanograd ingest a.to": "nanograd ingest a.total.png",
    "nanograd predict one.csv ä": "nanograd predict one.csv ä digit.csv",
    "nanograd predict one.csv --model f": "nanograd predict one.csv --model folder",
    "nanograd train --data folder/d": "nanograd train --data folder/digits.csv",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_commands_settings_and_paths_at_a_prompt(shell, tmp_path):
    [line] = re.findall(rf"^.*{shell}_source nanograd.*$", PAGE, re.MULTILINE)
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed; `make test-shells` installs it")
    (tmp_path / "folder").mkdir()
    for name in ("a.total.png", "ä digit.csv", "one.csv", "folder/digits.csv"):
        (tmp_path / name).touch()
    program, before = SHELLS[shell]
    # Tab completes the word; then Ctrl-A and a command at the beginning print the whole line.
    typed = [before, line, *(f"{each}\t\x01echo >>typed " for each in TYPED), "exit", ""]

    done = subprocess.run(
        [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", *program],
        input="\n".join(typed).encode(), cwd=tmp_path, capture_output=True, timeout=120,
        check=False, env={"PATH": f"{_NANOGRAD.parent}:{os.environ['PATH']}", "HOME": str(tmp_path),
             "TERM": "xterm", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip

    assert (tmp_path / "typed").exists(), done.stdout.decode()
    lines = (tmp_path / "typed").read_text().splitlines()
    assert [each.rstrip("/") for each in lines] == list(TYPED.values())  # zsh drops a last slash
