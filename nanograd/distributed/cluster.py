"""Connection to Ray: to an existing cluster, or to a private one.

Before `ray.init` joins a cluster, this module asks the cluster's control service whether that is
possible. The service replies in milliseconds; `ray.init` would try for minutes or end the process.
"""

import errno
import fcntl
import io
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any, BinaryIO

import ray

# isort: split
import psutil  # type: ignore[import-untyped]  # Ray's own copy, importable after Ray
import ray.util
from ray.exceptions import AuthenticationError, RayError

import nanograd
from nanograd.errors import ClusterError, InternalError, NanogradError, StorageError, UsageError
from nanograd.runtime import machine, storage
from nanograd.runtime.events import Listener, ignore, info
from nanograd.runtime.signals import handled, is_terminating, sigterm_kept

try:  # the only names internal to Ray
    from ray._raylet import (  # type: ignore[attr-defined]
        AuthenticationTokenLoader,
        Config,
        GcsClient,
    )
except ImportError as error:
    raise ClusterError(f"Ray {ray.__version__} is not supported; see pyproject.toml") from error

LOCAL = "local"
CPU_TIMEOUT_S = 10
_PREFIX, _LOCK, _OF_RAY = "nanograd-", "lock", "r"
_LEAST_BYTES = 1_000_000  # of free space for this folder
_RAYLET = "raylet"
_REPLY_S = 5
# A gRPC server replies to this with its own settings: the preface of RFC 9113, 3.4, and an empty
# frame of settings (type 4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))

Processes = Mapping[str, Any]


class _RayStdout(io.TextIOBase):
    """A replacement for stdout, which is for results: it writes Ray's messages to stderr."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def write(self, text: str) -> int:
        """Write the first sentence, without the page of advice after it."""
        # Drop messages about actors that end at SIGTERM or with a stopped job, which are no
        # failures, and about the raylet, which `_watched` reports.
        is_known = "Raylet is terminated" in text or "killed by `ray.kill`" in text
        line = text.partition(" To troubleshoot")[0].strip("\n")  # Ray writes "\n" separately
        if line and not is_known and not is_terminating() and _ended(self._processes) is None:
            with suppress(OSError):
                sys.stderr.write(f"{line}\n")
        return len(text)


@contextmanager
def session(
    address: str | None, num_cpus: int | None = None, listener: Listener = ignore
) -> Iterator[None]:
    """Use Ray inside a with block; an existing connection is used and stays open.

    Without an address and without RAY_ADDRESS, start a private Ray on this machine, with its own
    folder and token, and end it afterwards. `ray.init()` would join another program's Ray instead.
    A private Ray has as many CPUs as the machine, or `num_cpus` if this is more. After a failure,
    its logs are kept in a folder that the exception names.

    Raises:
        ClusterError: no cluster replies, or it refuses the connection.
        StorageError: the folder of a private Ray cannot be created.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    is_private = address == LOCAL
    what = "starting Ray" if is_private else f"joining the Ray cluster at {address}"
    listener(info(f"{what} ..."))
    processes: dict[str, Any] = {}  # of a private Ray
    # Until Ray has ended, because it also prints then.
    with redirect_stdout(_RayStdout(processes)), _environment(is_private=is_private):
        if is_private:
            with _private_ray(num_cpus, processes):
                yield
            return
        try:
            with sigterm_kept(), without_core_messages():
                _join(address)
            yield
        finally:
            ray.shutdown()


def num_actors(asked: int | None, most: int | None = None) -> int:
    """Return how many one-CPU actors to start: `asked`, or one per free CPU up to `most`.

    Raises:
        ClusterError: even after some seconds, fewer than `asked` CPUs are free or, if `asked` is
            None, no CPU is free.
    """
    total = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    wanted = asked or min(total, most or total) or 1
    deadline = monotonic() + (CPU_TIMEOUT_S if wanted <= total else 0)
    while (free := int(ray.available_resources().get("CPU", 0))) < wanted:  # type: ignore[no-untyped-call]
        if monotonic() >= deadline:
            break
        sleep(0.05)  # Ray frees the CPU of an ended actor a moment later, without an event
    if free < (asked or 1):
        raise ClusterError(
            f"{free} of {total} CPUs are free where {asked or 1} are needed; ask for fewer with "
            "--workers or wait until other jobs have finished"
        )
    return min(wanted, free)


@contextmanager
def _private_ray(num_cpus: int | None, processes: dict[str, Any]) -> Iterator[None]:
    """Run a private Ray inside a with block; `processes` receives those that it needs, by name."""
    folder, lock = make_folder()
    with lock:
        try:
            try:
                _start(folder / _OF_RAY, num_cpus)
                for child in psutil.Process().children():
                    with suppress(psutil.NoSuchProcess):
                        if (name := child.name()) in (_RAYLET, "gcs_server"):
                            processes[name] = child
                with _watched(processes):
                    yield
            finally:
                with redirect_stdout(io.StringIO()):  # hide that its processes end
                    ray.shutdown()
        except Exception as error:
            of_ray = isinstance(error, ClusterError | InternalError)
            if of_ray or not isinstance(error, NanogradError):
                with suppress(OSError):  # if the disk is full, raise the failure itself
                    if found := list(folder.glob(f"{_OF_RAY}/session_2*/logs")):
                        kept = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}logs-"))
                        for logs in found:
                            logs.rename(kept / logs.parent.name)
                        error.add_note(f"Ray's logs are in {kept}")
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if folder.is_dir():  # a process of Ray wrote a file; the next start removes the folder
                (folder / _LOCK).touch()


@contextmanager
def _watched(processes: Processes) -> Iterator[None]:
    """Interrupt a with block, with ClusterError, when a process of the private Ray ends.

    Otherwise Ray's calls would wait, and Ray would end this process later, without a message. After
    a signal to this process, the end of Ray's processes is no failure, because a service manager
    signals all processes together.
    """

    def interrupt(number: int, _: object) -> None:
        if _ended(processes) and not is_terminating():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            raise KeyboardInterrupt  # the only exception that Ray's calls let through

    with handled(interrupt, signal.SIGCHLD):
        try:
            yield
        except BaseException as error:
            name = _ended(processes)
            if name is None or is_terminating():
                raise
            # Without a control service, processes of the raylet would run for another minute.
            with suppress(psutil.NoSuchProcess, KeyError):
                for each in processes[_RAYLET].children(recursive=True):
                    each.kill()
            raise ClusterError(
                f"Ray's {name} on this machine has ended, killed or out of memory; run "
                "the same command again to continue"
            ) from error


def _ended(processes: Processes) -> str | None:
    """Return the name of a process that has ended; None if all are running."""
    for name, process in processes.items():
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                continue
        return name
    return None


def make_folder() -> tuple[Path, BinaryIO]:
    """Create and lock a folder for a private Ray; remove those that killed processes left behind.

    Only this user may enter the folder, because Ray's folder inside is writable by everyone.
    """
    storage.absolute(".")  # raises if the working directory is gone, without which Ray fails
    try:
        top = Path(tempfile.gettempdir())
        for lock_file in top.glob(f"{_PREFIX}*/{_LOCK}"):
            # OSError: the folder is in use, is another user's, or has just been removed.
            with suppress(OSError), lock_file.open("r+b") as stale:
                fcntl.flock(stale, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_file.parent, ignore_errors=True)
        if shutil.disk_usage(top).free < _LEAST_BYTES:  # workers that cannot log never start
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}"))
        lock = (made / _LOCK).open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Other processes look for the final name, so the folder gets it after it is locked. The
        # name is short, because the path of a socket in the folder has at most 107 bytes.
        return made.rename(made.with_name(made.name[1 : -len(_OF_RAY) - 1])), lock
    except OSError as error:
        raise StorageError(
            f"cannot make a folder for Ray ({error.strerror}); set TMPDIR to a local folder"
        ) from error


@contextmanager
def _environment(*, is_private: bool) -> Iterator[None]:
    """Set Ray's variables inside a with block, unless the user has set them.

    Inside the block, Ray can read the command lines of processes even if these contain bytes that
    are not UTF-8. A private Ray does not see that `uv run` started this process. Otherwise, it
    would copy the current folder to all workers, which fails if the folder is large. Only workers
    on other hosts need a copy.
    """
    before, read_words = dict(os.environ), psutil.Process.cmdline

    def cmdline(process: Any) -> list[str]:
        words = [word.encode(errors="backslashreplace").decode() for word in read_words(process)]
        return [] if is_private and words[1:2] == ["run"] else words

    # Ray Data's actors make Ray's core write a line about restarts to our stderr at each start.
    defaults = {"RAY_BACKEND_LOG_LEVEL": "fatal"}
    if is_private:
        # Without a token in the environment, Ray writes one to ~/.ray that all users can read.
        defaults |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ.update({**defaults, **before})
    # Workers must find this package even if only the hook of an editable installation knows it. In
    # the folder above a clone, Python would import the clone as a package and not ask the hook.
    root = str(Path(nanograd.__file__).parents[1])
    if root not in sys.path:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, before.get("PYTHONPATH")]))
    # Ray keeps the token of an earlier session.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    psutil.Process.cmdline = cmdline
    try:
        yield
    finally:
        psutil.Process.cmdline = read_words
        # Also remove RAY_AUTH_MODE and PYTHONBREAKPOINT, which Ray has set.
        for name in [each for each in os.environ if each.startswith(("RAY_", "PYTHON"))]:
            del os.environ[name]
        os.environ.update(before)


def _start(folder: Path, num_cpus: int | None) -> None:
    cores = machine.num_cpus()
    try:
        # Fail at once if this machine cannot connect to itself, because Ray would wait forever.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            socket.create_connection(listener.getsockname(), timeout=_REPLY_S).close()
        with sigterm_kept(), without_core_messages():
            ray.init(
                address=LOCAL,
                num_cpus=max(num_cpus or cores, cores),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
            )
    except Exception as error:  # Ray has no exception class for a slow start
        raise ClusterError(
            f"cannot start Ray on this machine ({first_line(error)}); --workers 0 works without it"
        ) from error


def _join(address: str) -> None:
    """Join a running cluster by host:port of its control service, or by `auto`.

    Raises:
        UsageError: the address has neither form.
        ClusterError: the cluster does not reply, refuses the connection or has another version of
            Ray or Python, or this machine is not one of its hosts.
    """
    if "://" in address or (address != "auto" and not address.rpartition(":")[2].isdigit()):
        raise UsageError(
            f"{address} is not an address of the form host:port, to use on a host of the cluster; "
            "from elsewhere use `ray job submit --address http://...`"
        )
    found = None
    try:
        if found := _resolve(address):
            _check(found, address)
        ray.init(address=found or address, log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        raise ClusterError(
            f"the Ray cluster at {found or address} refuses our token; set RAY_AUTH_MODE=token and "
            "put its token into ~/.ray/auth_token or RAY_AUTH_TOKEN; if it is not your cluster, "
            "name yours with --address HOST:PORT, as `ray start` printed it"
        ) from error
    except RuntimeError as error:  # for example another version of Ray or Python
        text = " ".join(str(error).split())
        raise ClusterError(f"cannot join the Ray cluster at {address}: {text}") from error
    except (RayError, ConnectionError, TimeoutError, OSError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster replies at {address} ({first_line(error)}); check --address and "
            "RAY_ADDRESS, or leave them out for a private Ray on this machine"
        ) from error


def _resolve(address: str) -> str | None:
    """Return host:port of a control service; None if only Ray can find it."""
    if address == "auto":
        found = set[str]()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = process.cmdline()
                found |= {word[14:] for word in words if word.startswith("--gcs-address=")}
        return found.pop() if len(found) == 1 else None
    host, _, port = address.rpartition(":")
    if host in ("localhost", "127.0.0.1"):  # Ray does not listen there
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"{host}:{port}"


def _check(found: str, address: str) -> None:
    """Fail at once if Ray does not listen, or has no raylet on this host, which a driver needs."""
    host, _, port = found.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_REPLY_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            connection.sendall(_PREFACE)
            if connection.recv(9)[3:4] != b"\4":
                raise ConnectionError("another server than Ray listens there")
    with without_core_messages():
        client: Any = GcsClient(address=found)
    nodes = client.get_all_node_info(timeout=_REPLY_S).values()
    hosts = {node.node_manager_address for node in nodes if node.state == 0}  # alive
    for host in hosts:
        # A server can only be created at an address of this machine.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with suppress(OSError), socket.create_server((host, 0), family=family):
            return
    if not hosts:
        raise ClusterError(f"no host of the Ray cluster at {address} is alive; start Ray again")
    raise ClusterError(
        f"this machine is not a host of the Ray cluster at {address}; run the command on one "
        f"of {', '.join(sorted(hosts))}, or use `ray job submit`"
    )


@contextmanager
def without_core_messages() -> Iterator[None]:
    """Silence file descriptor 2 inside a with block, because Ray's core writes to it."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - its descriptor is what matters
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def first_line(error: BaseException) -> str:
    """Return the message of an error without the page that Ray adds."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
