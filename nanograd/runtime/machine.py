"""This machine: available CPUs, names of processes, and whether a process is alive.

The name of a process is `<machine>-<pid>-<start>`, unique across machines and time. A temporary
file has the name of its process in its own name, which shows whether the process is still running.
"""

import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path


def num_cpus(root: Path = Path("/")) -> int:
    """Return the number of whole CPUs that this process may use, at least 1.

    The limit of a container is a quota of its control group. `root` contains `proc` and `sys`.

    References:
        Linux kernel documentation, "Control Group v2", cpu.max; "CFS Bandwidth Control" (v1).
    """
    return max(1, int(min([len(os.sched_getaffinity(0)), *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in CPUs, of the control groups that contain this process."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # Linux without control groups
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controllers
        group = top / path.strip("/")
        # In a container, the path is relative to the host, but the top is the container's group.
        for each in [group, *group.parents[: len(group.parts) - len(top.parts)]]:
            for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
                # OSError: the system has the other version of control groups, or no CPU controller.
                with suppress(OSError):
                    quota, period = " ".join((each / name).read_text() for name in names).split()
                    if quota not in ("max", "-1"):
                        yield int(quota) / int(period)


def owner() -> str:
    """Return the name of this process."""
    return _owner(os.getpid())


@cache  # by the process id, because a forked process has another one
def _owner(pid: int) -> str:
    return f"{_machine()}-{pid}-{_start(pid)}"


def pid_of(owner_: str) -> int:
    """Return the process id in the name of a process."""
    return int(owner_.split("-")[1])


def is_alive(owner_: str) -> bool | None:
    """Return whether a process is alive; None if it belongs to another machine or container.

    >>> is_alive(owner()), is_alive("0123456789-1-1")
    (True, None)
    """
    machine, _, process = owner_.partition("-")
    pid, _, start = process.partition("-")
    if machine != _machine() or not pid.isdigit():
        return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # a process of another user; /proc may hide when it started
    return _start(int(pid)) == start


@cache
def _machine() -> str:
    """Return a name of this boot of the machine and of the namespace of process IDs."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        name = boot + str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # a sandbox without these files
        name = f"{platform.node()} {uuid.getnode()}"
    return sha256(name.encode()).hexdigest()[:10]


def _start(pid: int) -> str:
    """Return the start of a process in ticks since boot; empty if the process has ended.

    References:
        proc_pid_stat(5): fields 3 and 22, after a name in parentheses.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return ""
    return "" if state in "ZX" else fields[18]
