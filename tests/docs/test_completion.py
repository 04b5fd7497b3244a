"""Shell completion works with the lines of the README."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

_NANOGRAD = Path(sys.executable).parent / "nanograd"
README = (ROOT / "README.md").read_text()


def run_completion(**environment: str) -> str:
    done = subprocess.run(
        [_NANOGRAD],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def complete(*words: str) -> set[str]:
    """Return the completions of the last word."""
    output = run_completion(
        _NANOGRAD_COMPLETE="bash_complete",
        COMP_WORDS=" ".join(["nanograd", *words]),
        COMP_CWORD=str(len(words)),
    )
    return {line.partition(",")[2] for line in output.splitlines()}


def test_commands_flags_and_choices_are_completed() -> None:
    assert {"train", "ingest", "predict", "inspect", "evaluate", "export"} <= complete("")
    assert complete("tr") == {"train"}
    assert complete("train", "--learning") == {"--learning-rate"}
    assert complete("train", "--preset", "") == {"classic", "fast", "accurate"}
    assert complete("data", "f") == {"fetch"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_readme_has_the_line_for_each_shell(shell: str) -> None:
    source = run_completion(_NANOGRAD_COMPLETE=f"{shell}_source")

    assert f"_NANOGRAD_COMPLETE={shell}_source nanograd" in README
    assert "nanograd" in source
    assert re.search(r"_NANOGRAD_COMPLETE=" + shell + "_complete", source)


def test_bash_accepts_the_line_of_the_readme() -> None:
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
