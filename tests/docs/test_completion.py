"""Shell completion works with the lines of docs/commands.md."""

import os
import re
import shutil
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.helpers.processes import run

_NANOGRAD = Path(sys.executable).parent / "nanograd"
PAGE = (ROOT / "docs/commands.md").read_text()


def complete(*words: str) -> set[str]:
    """Return the completions of the last word."""
    line = {"COMP_WORDS": " ".join(["nanograd", *words]), "COMP_CWORD": str(len(words))}
    done = run(_NANOGRAD, _NANOGRAD_COMPLETE="bash_complete", **line)
    assert done.returncode == 0
    return {line.partition(",")[2] for line in done.stdout.splitlines()}


def test_commands_flags_and_choices_are_completed() -> None:
    assert {"train", "ingest", "predict", "inspect", "evaluate", "export"} <= complete("")
    assert complete("train", "--learning") == {"--learning-rate"}
    assert complete("train", "--preset", "") == {"classic", "fast", "accurate"}
    assert complete("data", "f") == {"fetch"}


def test_page_has_the_line_for_each_shell_and_bash_accepts_it() -> None:
    for shell in ("bash", "zsh", "fish"):
        assert f"_NANOGRAD_COMPLETE={shell}_source nanograd" in PAGE
        source = run(_NANOGRAD, _NANOGRAD_COMPLETE=f"{shell}_source").stdout
        assert f"_NANOGRAD_COMPLETE={shell}_complete" in source
    [line] = re.findall(r"^eval \"\$\(.*bash_source nanograd\)\"", PAGE, re.MULTILINE)
    bash, path = shutil.which("bash"), f"{_NANOGRAD.parent}:{os.environ['PATH']}"
    assert bash

    done = run(bash, "--norc", "-c", f"{line}\ncomplete -p nanograd", PATH=path)

    assert (done.returncode, done.stderr) == (0, "")
    assert "_nanograd_completion" in done.stdout
