import json
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import ray.util

from simulators.waiting import wait_for
from tests.conftest import ROOT, environment_without_ray


@dataclass(frozen=True)
class Head:
    url: str  # of its dashboard, where jobs are submitted
    address: str  # that a command on this machine joins
    environment: dict[str, str]  # of processes that may do either
    pid: int  # all its processes are below it

    @property
    def joining(self) -> dict[str, str]:
        token = {name: self.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
        return {"RAY_ADDRESS": self.address, **token}

    def submit(self, *words: str) -> tuple[int, str]:
        """Run a job in the project's directory; returns its exit code and output."""
        submit = ["ray", "job", "submit", "--address", self.url, "--working-dir", str(ROOT), "--"]
        done = subprocess.run(
            [*submit, *words], env=self.environment,
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr


@contextmanager
def running_head(
    programs: Path, folder: Path, num_cpus: int = 2, **variables: str
) -> Iterator[Head]:
    """Run a head inside a with block, with the `ray` and the `python` in the folder `programs`.

    The name of `folder` is short, because sockets below it have names of at most 107 bytes.
    """
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = environment_without_ray(
        PATH=f"{programs}:{os.environ['PATH']}",
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        **variables,
    )
    port, dashboard = free_port(), free_port()
    process = subprocess.Popen(
        [
            str(programs / "ray"), "start", "--head", "--block", f"--num-cpus={num_cpus}",
            f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}/ray",
            f"--dashboard-agent-listen-port={free_port()}",
            f"--ray-client-server-port={free_port()}",
            f"--metrics-export-port={free_port()}", f"--runtime-env-agent-port={free_port()}",
            "--dashboard-host=127.0.0.1", "--disable-usage-stats",
        ],
        env=environment, start_new_session=True,
        stdout=(folder / "output").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    url, address = f"http://127.0.0.1:{dashboard}", f"{ray.util.get_node_ip_address()}:{port}"
    nodes = Request(  # noqa: S310 - our own server
        f"{url}/api/v0/nodes", headers={"Authorization": f"Bearer {token.read_text()}"}
    )
    try:
        wait_for(lambda: process.poll() is not None or _has_node(nodes), "the head did not start")
        assert process.poll() is None, (folder / "output").read_text()
        yield Head(url, address, environment, process.pid)
    finally:
        # SIGTERM would take `ray start --block` half a minute; there is nothing to save.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _has_node(request: Request) -> bool:
    try:
        with urlopen(request, timeout=5) as answer:  # noqa: S310
            nodes = json.load(answer)["data"]["result"]["result"]
    except OSError:
        return False
    return any(node["state"] == "ALIVE" for node in nodes)


def wait_for_port(port: int) -> None:
    def listens() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    wait_for(listens, "the server did not start")


def free_port() -> int:
    """Return a port that no process listens on.

    It lies between the ports of Ray's workers and those the system gives out: a connection that
    starts meanwhile cannot take it.
    """
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("", port))
            return port
