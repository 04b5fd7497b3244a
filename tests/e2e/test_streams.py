"""Standard streams that are closed or on a full disk."""

import io
import json
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nanograd.console.terminal import stderr_listener
from nanograd.runtime.events import warning
from tests.helpers import processes
from tests.helpers.events import EPOCH, ROUNDS, ROWS
from tests.helpers.processes import read_all

INFO = "data info --data sample"
TRAIN = "train --data sample --output run --epochs 1 --workers 0"
MISSING = "evaluate --model missing"


@pytest.mark.parametrize(
    ("words", "summary", "as_json"),
    [
        (INFO, "train   4,000 images; of each digit 400, 400", False),
        (INFO, "train   4,000 images; of each digit 400, 400", True),
        (MISSING, "missing does not exist", True),
        ("export", "--output is missing", False),
    ],
)
def test_terminal_has_a_summary_and_json_on_request(tmp_path, words, summary, as_json):
    command = [sys.executable, "-m", "nanograd", *words.split(), *(["--json"] if as_json else [])]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=tmp_path, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        written = read_all(ours)
        process.wait()
    os.close(ours)

    assert summary in written
    assert ('{"event"' in written) is as_json


def run(folder: Path, redirection: str, words: str) -> subprocess.CompletedProcess[str]:
    shell = ("sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "nanograd")
    return processes.run(*shell, *words.split(), folder=folder)


@pytest.mark.parametrize(
    ("words", "code", "redirection"),
    [
        (f"{TRAIN} --log-format json", 0, "2>/dev/full"),
        (INFO, 0, "0<&- 2>&-"),
        (f"{MISSING} --debug", 65, "2>/dev/full"),
        ("", 2, "0<&- 2>&-"),
    ],
)
def test_log_that_cannot_be_written_changes_neither_result_nor_code(
    tmp_path, words, code, redirection
):
    done = run(tmp_path, redirection, words)

    assert done.returncode == code, done.stdout
    assert json.loads(done.stdout)["event"] == ("error" if code else "result")


@pytest.mark.parametrize(
    "redirection", [">/dev/full", ">/dev/full 2>/dev/full", ">&-", "0<&- >&- 2>&-"]
)
def test_result_that_cannot_be_written_is_a_storage_error(tmp_path, redirection):
    done = run(tmp_path, redirection, INFO)

    assert done.returncode == 74
    if "2>" not in redirection:
        about, failed = (run(tmp_path, redirection, words) for words in ("--version", MISSING))
        assert (about.returncode, failed.returncode) == (74, 65)
        why = "No space left on device" if "full" in redirection else "Bad file descriptor"
        assert why in done.stderr.splitlines()[-1]
        assert why in about.stderr
        assert failed.stderr.startswith("nanograd: missing")


def test_lines_that_no_program_reads_are_a_storage_error(tmp_path):
    words = "evaluate --data sample --verbose"
    shell = 'set -o pipefail; "$@" | true'
    command = (sys.executable, "-m", "nanograd", *words.split())

    done = processes.run("bash", "-c", shell, "bash", *command, folder=tmp_path)

    assert done.returncode == 74, done.stderr
    assert "cannot write the result to standard output: Broken pipe" in done.stderr


class FullDisk(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("log_format", ["auto", "text", "json"])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_no_event_raises(monkeypatch, log_format, is_terminal):
    monkeypatch.setenv("TERM", "xterm")
    stream = FullDisk(is_terminal=is_terminal)

    with stderr_listener(log_format, quiet=False, stream=stream) as listener:
        for event in (warning("mine"), ROUNDS, EPOCH, ROUNDS, replace(ROUNDS, complete=True), ROWS):
            listener(event)
