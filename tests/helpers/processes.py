"""Commands and Python code in processes of their own, and what they write to a terminal."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def environment_without_ray(**more: str) -> dict[str, str]:
    """This process's environment without Ray's variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, **more}


def run(
    *words: str | Path, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without Ray's variables and with others; capture its output."""
    return subprocess.run(
        words, cwd=folder, env=environment_without_ray(**environment),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def run_python(
    code: str, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-B", "-c", code, folder=folder, **environment)


def start(*words: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "nanograd", *words], env=environment_without_ray(**environment),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]", code: int = 0) -> tuple[dict[str, Any], str]:
    """Wait until a command has ended with a code; return its last line, JSON, and its log."""
    output, log = process.communicate(timeout=240)
    assert process.returncode == code, output + log
    assert "Traceback" not in log, log
    return json.loads(output.splitlines()[-1]), log


def read_all(terminal: int) -> str:
    """Read a terminal until its other side is closed."""
    data = b""
    try:
        while new := os.read(terminal, 10_000):
            data += new
    except OSError as error:
        assert error.errno == errno.EIO  # how Linux says that
    return data.decode()
