"""Connecting to Ray: to the cluster the user means, or to a private one of our own."""

import io
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from time import monotonic, sleep

import ray
from ray._private import ray_constants

from nanograd.distributed.joining import join
from nanograd.distributed.quiet import first_line, without_core_messages
from nanograd.errors import ClusterError
from nanograd.signals import sigterm_kept

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
