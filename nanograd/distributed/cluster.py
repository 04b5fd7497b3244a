"""Connection to Ray: to an existing cluster, or to a private one.

Before `ray.init` joins a cluster, its control service is asked for whatever may be in the way. The
service replies in milliseconds; `ray.init` would try for half a minute to several before it reports
a problem, or end the process. (`GcsClient` is internal to Ray and may change: constraints.txt pins
Ray, and tests/hosts check it.)
"""

import fcntl
import io
import logging
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any, BinaryIO

import ray
from ray._private import ray_constants
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError

import nanograd
from nanograd.errors import ClusterError, InternalError, NanogradError, StorageError, UsageError
from nanograd.runtime import machine
from nanograd.runtime.events import Listener, ignore, info
from nanograd.runtime.signals import handled, is_terminating, sigterm_kept

LOCAL = "local"

_CPU_TIMEOUT_S = 10
_PREFIX, _LOCK, _OF_RAY = "nanograd-", "lock", "r"
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
        # The end of the actors at SIGTERM is no failure, but Ray reports it as one. We report the
        # end of Ray's own processes, and Ray's message may come before `_ended_process` sees it.
        of_raylet = "Raylet is terminated" in text
        if not is_terminating() and not of_raylet and _ended_process() is None:
            with suppress(OSError):
                sys.stderr.write(text.partition(" To troubleshoot")[0])
        return len(text)


@contextmanager
def session(
    address: str | None, num_cpus: int | None = None, listener: Listener = ignore
) -> Iterator[None]:
    """Use Ray inside a with block; an open connection is used and left open.

    Without an address and without RAY_ADDRESS, start a private Ray on this machine, with its own
    folder and token, and end it afterwards. Never join another program's Ray without being asked,
    as `ray.init()` without an address would. After a failure its logs are kept, and the exception
    has a note that names their folder.

    Args:
        address: as for Ray; None for RAY_ADDRESS, else a private Ray.
        num_cpus: minimum number of CPUs of a private Ray; None for those of the machine.
        listener: receives a message before Ray starts, which takes seconds.

    Raises:
        ClusterError: no cluster replies, or it refuses the connection.
        StorageError: the files of a private Ray have no place.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    is_private = address == LOCAL
    what = "starting Ray" if is_private else f"joining the Ray cluster at {address}"
    listener(info(f"{what} ..."))
    with redirect_stdout(_RayStdout()):  # until Ray has ended: it prints then, too
        if is_private:
            with _private_ray(num_cpus):
                yield
            return
        try:
            _forget_token()
            with sigterm_kept():
                join(address)
            yield
        finally:
            ray.shutdown()


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


@contextmanager
def _private_ray(num_cpus: int | None) -> Iterator[None]:
    """Run a private Ray inside a with block; keep its logs after a failure."""
    folder, lock = _make_folder()
    with lock:
        try:
            with _environment():
                try:
                    _forget_token()
                    _start(folder / _OF_RAY, num_cpus)
                    with _watched():
                        yield
                finally:
                    with redirect_stdout(io.StringIO()):  # the end of its processes is no news
                        ray.shutdown()
        except Exception as error:
            of_ray = isinstance(error, ClusterError | InternalError)
            if of_ray or not isinstance(error, NanogradError):
                _keep_logs(folder, error)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if folder.is_dir():  # a process of Ray still wrote: the next start removes it
                (folder / _LOCK).touch()


@contextmanager
def _watched() -> Iterator[None]:
    """Interrupt a with block when a process of the private Ray ends.

    Ray's calls would wait, and Ray would end this process after a while, without a word. After a
    signal its processes may end first: a service manager ends all together.

    Raises:
        ClusterError: a process has ended.
    """

    def interrupt(number: int, _: object) -> None:
        if _ended_process() and not is_terminating():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            raise KeyboardInterrupt  # what Ray's calls let through

    with handled(interrupt, signal.SIGCHLD):
        try:
            yield
        except BaseException as error:
            if (name := _ended_process()) and not is_terminating():
                _kill_agents()
                raise ClusterError(
                    f"Ray's {name} on this machine has ended, killed or out of memory; the same "
                    "command continues"
                ) from error
            raise


def _processes() -> dict[str, subprocess.Popen[bytes]]:
    """Return those processes of the private Ray that it cannot spare."""
    node: Any = ray_worker._global_node
    names = (ray_constants.PROCESS_TYPE_RAYLET, ray_constants.PROCESS_TYPE_GCS_SERVER)
    started = node.all_processes if node else {}
    return {name: started[name][0].process for name in names if name in started}


def _ended_process() -> str | None:
    """Return the name of a process of the private Ray that has ended."""
    return next((name for name, each in _processes().items() if _has_ended(each)), None)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    # `Popen.poll` says no while another thread polls, so a signal handler could miss the end.
    if process.returncode is not None:
        return True
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # another thread has fetched its exit code
        return True


def _kill_agents() -> None:
    """Kill what the raylet has started: without a control service it would stay for a minute."""
    import psutil  # type: ignore[import-untyped] # noqa: PLC0415 - Ray's own copy

    raylet = _processes().get(ray_constants.PROCESS_TYPE_RAYLET)
    if raylet and raylet.poll() is None:
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(raylet.pid).children(recursive=True):
                each.kill()


def _make_folder() -> tuple[Path, BinaryIO]:
    """Make a folder for a private Ray, whose lock keeps it from being removed as stale.

    Ray makes its own folder writable for all users. That folder, `_OF_RAY`, is inside this one,
    which only this user may enter.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        _remove_stale_folders()
        made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}"))
        lock = (made / _LOCK).open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now has it a name that other processes look for. That is as short as possible: below
        # it are sockets, whose paths have at most 107 bytes.
        return made.rename(made.with_name(made.name[1 : -len(_OF_RAY) - 1])), lock
    except OSError as error:
        raise StorageError(
            f"cannot make a folder for Ray ({error.strerror}); set TMPDIR to a local folder"
        ) from error


def _remove_stale_folders() -> None:
    """Remove the folders of sessions whose process was killed, and Ray with it."""
    for lock_file in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        # OSError: in use, another user's, or removed by another process meanwhile.
        with suppress(OSError), lock_file.open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock_file.parent, ignore_errors=True)


def _keep_logs(folder: Path, error: Exception) -> None:
    """Move the logs of a private Ray out of its folder, and note in the exception where to."""
    with suppress(OSError):  # the disk is full: the failure itself matters more
        if found := list(folder.glob(f"{_OF_RAY}/session_2*/logs")):
            kept = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}logs-"))
            for logs in found:
                logs.rename(kept / logs.parent.name)
            error.add_note(f"Ray's logs are in {kept}")


@contextmanager
def _environment() -> Iterator[None]:
    """Set Ray's variables, where they are not set, inside a with block."""
    defaults = {
        # Without a token in the environment Ray writes one to ~/.ray, mode 0644.
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray Data's actors make Ray's core write a line about restarts to our stderr at each start.
        "RAY_BACKEND_LOG_LEVEL": "fatal",
    }
    before = dict(os.environ)
    os.environ.update({**defaults, **before})
    try:
        yield
    finally:
        # Ray itself sets RAY_AUTH_MODE and PYTHONBREAKPOINT.
        for name in [each for each in os.environ if each.startswith(("RAY_", "PYTHONBREAK"))]:
            del os.environ[name]
        os.environ.update(before)


def _forget_token() -> None:
    """Let Ray read its token again: it keeps that of an earlier session of this process."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _encodable_command() -> Iterator[None]:
    """Let Ray record this command even if a name of a file in it is not UTF-8."""
    before: Any = ray_utils.get_entrypoint_name
    ray_utils.get_entrypoint_name = lambda: before().encode(errors="backslashreplace").decode()
    try:
        yield
    finally:
        ray_utils.get_entrypoint_name = before


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


@contextmanager
def _importable() -> Iterator[None]:
    """Let workers import this package where only a hook of an editable installation finds it.

    Ray puts the current folder on their path. In the one above a clone, the folder `nanograd` of
    the clone is a package without a file, which Python takes before it asks the hook.
    """
    root, before = str(Path(nanograd.__file__).parents[1]), os.environ.get("PYTHONPATH")
    if root not in sys.path:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *([before] if before else [])])
    try:
        yield
    finally:
        if before is not None:
            os.environ["PYTHONPATH"] = before
        else:
            os.environ.pop("PYTHONPATH", None)


def _start(folder: Path, num_cpus: int | None) -> None:
    cores = machine.num_cpus()
    try:
        _check_loopback()
        with (
            sigterm_kept(),
            without_core_messages(),
            _without_uv_hook(),
            _encodable_command(),
            _importable(),
        ):
            ray.init(
                address=LOCAL,
                num_cpus=max(num_cpus or cores, cores),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
            )
    except Exception as error:  # a slow start has no exception class of its own
        raise ClusterError(
            f"cannot start Ray on this machine ({first_line(error)}); --workers 0 works without it"
        ) from error


def _check_loopback() -> None:
    """Fail at once where this machine cannot connect to itself: Ray would wait for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname(), timeout=_REPLY_S).close()


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
        with _encodable_command():
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
