"""Commands and Python code in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


def run(
    *words: str | Path, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with more environment variables, and capture its output."""
    return subprocess.run(
        words, cwd=folder, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def run_python(
    code: str, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-B", "-c", code, folder=folder, **environment)


def run_helper(name: str, *words: str) -> Any:
    """Run a module of these helpers that makes its own Ray cluster; return its last line, JSON."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", f"tests.helpers.{name}", *words], cwd=_ROOT,
        env={**kept, "RAY_AUTH_TOKEN": "0" * 64},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
