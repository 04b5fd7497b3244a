"""Connection to Ray: to an existing cluster, or to a private one.

Before `ray.init` joins a cluster, its control service is asked for whatever may be in the way. The
service replies in milliseconds; `ray.init` would try for half a minute to several before it reports
a problem, or end the process. (`GcsClient` is internal to Ray and may change: constraints.txt pins
Ray, and tests/hosts check it.)
"""

import io
import logging
import os
import platform
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError

from nanograd.errors import ClusterError, UsageError
from nanograd.runtime.signals import is_terminating, sigterm_kept

LOCAL = "local"

_CPU_TIMEOUT_S = 10
_PREFIX = "nanograd-"
# Ray reads the environment variable of this name when it is imported, which may be long ago. The
# constant is internal to Ray and may be missing in another version.
_UV_HOOK = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
_REPLY_S = 5
# A gRPC server replies to this with its own settings: the preface of RFC 9113, 3.4, and an empty
# frame of settings (type 4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_HELP = "check --address and RAY_ADDRESS, or leave them out for a private Ray on this machine"


class _RayStdout(io.TextIOBase):
    """Stdout while Ray is in use: Ray prints failures there, but stdout is for results.

    They go to stderr, without the page of advice after the first sentence.
    """

    def write(self, text: str) -> int:
        """Write the first sentence to stderr."""
        # The end of the actors at SIGTERM is no failure, but Ray reports it as one.
        if not is_terminating():
            sys.stderr.write(text.partition(" To troubleshoot")[0])
        return len(text)


@contextmanager
def session(address: str | None, num_cpus: int | None = None) -> Iterator[None]:
    """Use Ray inside a with block; an open connection is used and left open.

    Without an address and without RAY_ADDRESS, start a private Ray on this machine, with its own
    folder and token, and end it afterwards. Never join another program's Ray without being asked,
    as `ray.init()` without an address would.

    Args:
        address: as for Ray; None for RAY_ADDRESS, else a private Ray.
        num_cpus: minimum number of CPUs of a private Ray; None for those of the machine.

    Raises:
        ClusterError: no cluster replies, or it refuses the connection.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    with redirect_stdout(_RayStdout()):  # until Ray has ended: it prints then, too
        folder = None
        try:
            if address == LOCAL:
                _remove_stale_folders()
                folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
                _start_private(folder, num_cpus)
            else:
                with sigterm_kept():
                    join(address)
            yield
        finally:
            ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def num_actors(asked: int | None, most: int | None = None) -> int:
    """Return the number of actors of one CPU each.

    Wait a little if needed: the CPU of an actor that has ended is free a moment later.

    Args:
        asked: by the user; None for one per CPU.
        most: maximum.

    Raises:
        ClusterError: too few CPUs are free.
    """
    total = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    wanted = asked or min(total, most or total) or 1
    deadline = monotonic() + (_CPU_TIMEOUT_S if wanted <= total else 0)
    while (free := int(ray.available_resources().get("CPU", 0))) < wanted:  # type: ignore[no-untyped-call]
        if monotonic() >= deadline:
            break
        sleep(0.05)  # Ray emits no event for it
    if free < (asked or 1):
        raise ClusterError(
            f"{free} of {total} CPUs are free where {asked or 1} are needed; ask for fewer with "
            "--workers or wait until other jobs have finished"
        )
    return min(wanted, free)


def _remove_stale_folders() -> None:
    """Remove the folders of sessions whose process was killed, and Ray with it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid, is_ours = folder.name.split("-")[1], folder.stat().st_uid == os.getuid()
        if is_ours and pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _without_uv_hook() -> Iterator[None]:
    """Keep Ray from sending the current folder to its workers under `uv run`.

    That is meant for other hosts. On this one workers start with our own Python anyway, and the
    copy fails if the folder is large or the project is elsewhere.
    """
    before = getattr(ray_constants, _UV_HOOK, False)
    setattr(ray_constants, _UV_HOOK, False)
    try:
        yield
    finally:
        setattr(ray_constants, _UV_HOOK, before)


def _start_private(folder: str, num_cpus: int | None) -> None:
    # A token in the environment: without one Ray writes it to ~/.ray, mode 0644.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray Data's actors make Ray's core write a line about restarts to our stderr at each start.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    cores = len(os.sched_getaffinity(0))
    try:
        with sigterm_kept(), without_core_messages(), _without_uv_hook():
            ray.init(
                address=LOCAL,
                num_cpus=max(num_cpus or cores, cores),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
    except Exception as error:  # a slow start has no exception class of its own
        raise ClusterError(
            f"cannot start Ray on this machine ({first_line(error)}); --workers 0 works without it"
        ) from error


def join(address: str) -> None:
    """Join a running cluster, as one of its hosts.

    Args:
        address: host:port of its control service, or auto.

    Raises:
        UsageError: an address of another kind.
        ClusterError: no cluster replies, it refuses the connection, versions differ, or this
            machine is not one of its hosts.
    """
    if "://" in address:
        raise UsageError(
            f"{address} is not an address of the form host:port, to use on a host of the cluster; "
            "from elsewhere use `ray job submit --address http://...`"
        )
    try:
        found = canonicalize_bootstrap_address(address)
        if found is None:
            raise ConnectionError("no Ray runs on this machine")
        _check_listening(found)
        with without_core_messages():
            client: Any = GcsClient(address=found)
        _compare_versions(client, address)
        _find_this_host(client, address)
        ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        raise ClusterError(
            f"the Ray cluster at {address} refuses our token; put the cluster's token into "
            "~/.ray/auth_token or RAY_AUTH_TOKEN and set RAY_AUTH_MODE=token"
        ) from error
    except (RayError, RuntimeError, ConnectionError, TimeoutError, OSError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster replies at {address} ({first_line(error)}); {_HELP}"
        ) from error


def _check_listening(address: str) -> None:
    """Fail at once where nothing listens, or something other than Ray."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_REPLY_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        connection.sendall(_PREFACE)
        if connection.recv(9)[3:4] != b"\4":
            raise ConnectionError("another server than Ray listens there")


def _compare_versions(client: Any, address: str) -> None:
    from ray._common.usage.usage_lib import get_cluster_metadata  # noqa: PLC0415 - slow to import

    found: dict[str, str] = get_cluster_metadata(client)
    theirs = (found["ray_version"], found["python_version"])
    ours = (ray.__version__, platform.python_version())
    if theirs != ours:
        raise ClusterError(
            "the Ray cluster at {} has Ray {} and Python {}, this machine Ray {} and Python {}; "
            "use the cluster's versions".format(address, *theirs, *ours)
        )


def _find_this_host(client: Any, address: str) -> None:
    """Check for a raylet on this host: a driver needs one, and Ray waits a minute for it."""
    nodes = client.get_all_node_info(timeout=_REPLY_S).values()
    hosts = {node.node_manager_address for node in nodes if node.state == GcsNodeInfo.ALIVE}
    if not any(map(_is_ours, hosts)):
        raise ClusterError(
            f"this machine is not a host of the Ray cluster at {address}; run the command on one "
            f"of {', '.join(sorted(hosts))}, or use `ray job submit`"
        )


def _is_ours(ip_address: str) -> bool:
    """Return whether an address belongs to this machine: only then can it be bound to."""
    try:
        family = socket.AF_INET6 if ":" in ip_address else socket.AF_INET
        socket.create_server((ip_address, 0), family=family).close()
    except OSError:
        return False
    return True


@contextmanager
def without_core_messages() -> Iterator[None]:
    """Silence file descriptor 2 inside a with block: Ray's core writes lines there."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def first_line(error: BaseException) -> str:
    """Return the message of an error without the page that Ray adds."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
