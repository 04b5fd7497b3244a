"""Connecting to Ray: to the cluster the user means, or to a private one of our own."""

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
from nanograd.runtime.signals import sigterm_kept

LOCAL = "local"

_CPU_TIMEOUT_S = 10
_PREFIX = "nanograd-"
# The environment variable of this name is read when Ray is imported, which may be long ago; the
# constant is Ray's own business, and another version may do without.
_UV_HOOK = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"


class _Aside(io.TextIOBase):
    """stdout while Ray is in use: it prints there what it lost, but that is for results.

    It goes to stderr, without the page of advice behind its first sentence.
    """

    def write(self, text: str) -> int:
        """Pass on, in short."""
        sys.stderr.write(text.partition(" To troubleshoot")[0])
        return len(text)


@contextmanager
def session(address: str | None, num_cpus: int | None = None) -> Iterator[None]:
    """Use Ray inside a with block; a connection that is already there is used and left open.

    Without an address and without RAY_ADDRESS a private Ray is started in this machine, with its
    own folder and token, and ended afterwards. Another program's Ray is never joined unasked:
    `ray.init()` without an address would.

    Args:
        address: as Ray's own; None for RAY_ADDRESS, else a private Ray.
        num_cpus: how many a private Ray shall offer at least; None for the machine's.

    Raises:
        ClusterError: nobody answers, or we are refused.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    with redirect_stdout(_Aside()):  # to the end of Ray, which has things to say then, too
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
    """How many actors of one CPU each there shall be.

    CPUs of actors that have just ended are free a moment later, so this waits a little.

    Args:
        asked: by the user; None for as many as have a CPU.
        most: more make no sense.

    Raises:
        ClusterError: fewer CPUs are free than were asked for, or none at all.
    """
    total = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    wanted = asked or min(total, most or total) or 1
    deadline = monotonic() + (_CPU_TIMEOUT_S if wanted <= total else 0)
    while (free := _free_cpus()) < wanted and monotonic() < deadline:
        sleep(0.05)  # Ray has no event for it
    if free < (asked or 1):
        raise ClusterError(
            f"{free} of {total} CPUs are free where {asked or 1} are needed; ask for fewer with "
            "--workers or wait until others have finished"
        )
    return min(wanted, free)


def _free_cpus() -> int:
    """Whole CPUs that nobody holds at present, over all nodes."""
    resources = ray.available_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("CPU", 0))


def _remove_stale_folders() -> None:
    """Remove what sessions left whose process was killed; Ray's own processes ended with it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.split("-")[1]
        if (
            pid.isdigit()
            and not Path("/proc", pid).exists()
            and folder.stat().st_uid == os.getuid()
        ):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _without_uv_hook() -> Iterator[None]:
    """Keep Ray from sending the current folder to its workers below `uv run`.

    That is for hosts that lack it: here it would copy whatever is in that folder, fail if that is
    much or if the project is elsewhere, and workers start with our own Python anyway.
    """
    before = getattr(ray_constants, _UV_HOOK, False)
    setattr(ray_constants, _UV_HOOK, False)
    try:
        yield
    finally:
        setattr(ray_constants, _UV_HOOK, before)


def _start_private(folder: str, num_cpus: int | None) -> None:
    # A token of its own, in the environment: without one Ray writes it to ~/.ray, mode 0644.
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
    except Exception as error:  # a slow start raises no class of its own
        raise ClusterError(
            f"cannot start Ray on this machine ({first_line(error)}); --workers 0 works without it"
        ) from error


_ANSWER_S = 5
# What every gRPC server answers with settings of its own: the preface of RFC 9113, 3.4, and an
# empty frame of settings (type 4).
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_HELP = "check --address and RAY_ADDRESS, or leave them out for a private Ray on this machine"


def join(address: str) -> None:
    """Join a cluster that runs, as one of its hosts.

    Args:
        address: host:port of its control service, or auto.

    Raises:
        UsageError: an address for something else.
        ClusterError: nobody answers, we are refused, versions differ, or this is no host of it.
    """
    if "://" in address:
        raise UsageError(
            f"{address} is no address to train or predict at: that is host:port, and from a host "
            "of the cluster; from elsewhere `ray job submit --address http://...`"
        )
    try:
        found = canonicalize_bootstrap_address(address)
        if found is None:
            raise ConnectionError("no Ray runs on this machine")
        _knock(found)
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
            f"no Ray cluster answers at {address} ({first_line(error)}); {_HELP}"
        ) from error


def _knock(address: str) -> None:
    """Fail at once where nobody listens, or something else than Ray."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        connection.sendall(_HELLO)
        if connection.recv(9)[3:4] != b"\4":
            raise ConnectionError("what listens there is not Ray")


def _compare_versions(client: Any, address: str) -> None:
    from ray._common.usage.usage_lib import get_cluster_metadata  # noqa: PLC0415 - slow to import

    found: dict[str, str] = get_cluster_metadata(client)
    theirs = (found["ray_version"], found["python_version"])
    ours = (ray.__version__, platform.python_version())
    if theirs != ours:
        raise ClusterError(
            "the Ray cluster at {} has Ray {} and Python {}, here are Ray {} and Python {}; "
            "use the cluster's versions".format(address, *theirs, *ours)
        )


def _find_this_host(client: Any, address: str) -> None:
    """A driver needs a raylet beside it; without one Ray looks for it for a minute."""
    nodes = client.get_all_node_info(timeout=_ANSWER_S).values()
    hosts = {node.node_manager_address for node in nodes if node.state == GcsNodeInfo.ALIVE}
    if not any(map(_is_ours, hosts)):
        raise ClusterError(
            f"this machine is no host of the Ray cluster at {address}; run the command on one of "
            f"{', '.join(sorted(hosts))}, or use `ray job submit`"
        )


def _is_ours(ip_address: str) -> bool:
    """Whether an address is one of this machine's: only then can it be bound to."""
    try:
        family = socket.AF_INET6 if ":" in ip_address else socket.AF_INET
        socket.create_server((ip_address, 0), family=family).close()
    except OSError:
        return False
    return True


@contextmanager
def without_core_messages() -> Iterator[None]:
    """Send file descriptor 2 nowhere: Ray's core writes its own lines there."""
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
    """What an error says, without the page that Ray adds."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
