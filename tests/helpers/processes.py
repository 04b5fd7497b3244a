"""Commands and Python code in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path


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
