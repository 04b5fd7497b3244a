"""A Ray head of a test's own, with ports, a folder and a token that nobody else has."""

import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import ray.util

from tests.conftest import ROOT


@dataclass(frozen=True)
class Head:
    """A running Ray head: where jobs are submitted, and the environment that may do so."""

    url: str
    address: str
    environment: dict[str, str]

    def submit(self, *words: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
        """Exit code and output of a job that runs our working directory."""
        submit = ["ray", "job", "submit", "--address", self.url, "--working-dir", str(ROOT), "--"]
        done = subprocess.run(
            [*submit, *words],
            env=environment or self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@contextmanager
def running_head(programs: Path, folder: Path) -> Iterator[Head]:
    """A head inside a with block; all its processes end with that.

    Args:
        programs: the folder of the `ray` and the `python` that it and its jobs run.
        folder: for its files; short, because sockets below it have names of at most 107 bytes.
    """
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {
        **clean,
        "PATH": f"{programs}:{clean['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    port, dashboard = free_port(), free_port()
    process = subprocess.Popen(
        _start(programs, folder, port, dashboard), env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"{ray.util.get_node_ip_address()}:{port}"
    head = Head(f"http://127.0.0.1:{dashboard}", address, environment)
    try:
        assert _listens(dashboard)
        code, output = head.submit("true")
        assert code == 0, output
        yield head
    finally:
        # SIGTERM would take `ray start --block` half a minute; there is nothing to save.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _start(programs: Path, folder: Path, port: int, dashboard: int) -> list[str]:
    return [
        str(programs / "ray"), "start", "--head", "--block", "--num-cpus=2",
        f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}/ray",
        f"--dashboard-agent-listen-port={free_port()}",
        f"--ray-client-server-port={free_port()}",
        f"--metrics-export-port={free_port()}", f"--runtime-env-agent-port={free_port()}",
        "--dashboard-host=127.0.0.1", "--disable-usage-stats",
    ]  # fmt: skip


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    """Wait until somebody listens on a port of this machine, a minute at most."""
    deadline = monotonic() + 60
    while monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            sleep(0.1)
        else:
            return True
    return False
