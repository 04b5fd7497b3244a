"""Shell completion: what the README has people put into their shell's start file answers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

_NANOGRAD = Path(sys.executable).parent / "nanograd"


def answer(**environment: str) -> str:
    done = subprocess.run(
        [_NANOGRAD],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def completed(*words: str) -> set[str]:
    """What may stand in place of the last word."""
    given = answer(
        _NANOGRAD_COMPLETE="bash_complete",
        COMP_WORDS=" ".join(["nanograd", *words]),
        COMP_CWORD=str(len(words)),
    )
    return {line.partition(",")[2] for line in given.splitlines()}


def test_commands_flags_and_choices_are_completed() -> None:
    assert {"train", "ingest", "predict", "inspect", "evaluate", "export"} <= completed("")
    assert completed("tr") == {"train"}
    assert completed("train", "--learning") == {"--learning-rate"}
    assert completed("train", "--preset", "") == {"classic", "fast", "accurate"}
    assert completed("data", "f") == {"fetch"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_readme_says_what_to_put_into_each_shells_start_file(shell: str) -> None:
    readme = (ROOT / "README.md").read_text()

    source = answer(_NANOGRAD_COMPLETE=f"{shell}_source")

    assert f"_NANOGRAD_COMPLETE={shell}_source nanograd" in readme
    assert "nanograd" in source
    assert re.search(r"_NANOGRAD_COMPLETE=" + shell + "_complete", source)


def test_bash_takes_the_line_of_the_readme() -> None:
    bash = shutil.which("bash")
    assert bash
    [line] = re.findall(r"^eval \"\$\(.*bash_source nanograd\)\"", README, re.MULTILINE)

    done = subprocess.run(
        [bash, "--norc", "-c", f"{line}\ncomplete -p nanograd"],
        env={**os.environ, "PATH": f"{_NANOGRAD.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "_nanograd_completion" in done.stdout


README = (ROOT / "README.md").read_text()
