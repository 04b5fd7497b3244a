"""This machine: the CPUs that this process may use, and which processes are alive.

A process is named by an owner, `<machine>-<pid>-<start>`, that no later process on any machine has.
Files that several processes share carry it, so that what a killed process left can be told from
what a running one still writes.
"""

import os
import platform
import uuid
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path


def num_cpus(root: Path = Path("/")) -> int:
    """Return the number of whole CPUs that this process may use, at least 1.

    A container's limit (`docker --cpus`, a Kubernetes limit) is a quota of time of its control
    group: affinity and the number of CPUs do not show it.

    Args:
        root: where `proc` and `sys` are.

    References:
        Linux kernel documentation, "Control Group v2", cpu.max; "CFS Bandwidth Control" (v1).
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:  # macOS
        allowed = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    return max(1, int(min([allowed, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota of CPUs of each control group that holds this process."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # no Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            top = root / "sys/fs/cgroup" / controllers
            group = top / path.strip("/")
            # A container sees the path outside of it, but mounts its own group at the top.
            yield from map(_quota, [group, *group.parents[: len(group.parts) - len(top.parts)]])


def _quota(group: Path) -> float:
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((group / name).read_text() for name in names).split()
        except OSError:
            continue  # the other version, or a group without the controller
        if quota not in ("max", "-1"):
            return int(quota) / int(period)
    return float("inf")


def owner() -> str:
    """Return the name of this process."""
    return f"{_machine()}-{os.getpid()}-{_start(os.getpid())}"


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
        return True  # another user's, whose start /proc may hide
    return _start(int(pid)) == start


@cache
def _machine() -> str:
    """Return a name of this boot and this space of process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        name = boot + str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux
        name = f"{platform.node()} {uuid.getnode()}"
    return sha256(name.encode()).hexdigest()[:10]


def _start(pid: int) -> str:
    """Return when a process started, in ticks since boot; empty for one that has ended.

    References:
        proc_pid_stat(5): fields 3 and 22, after a name in parentheses.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no Linux
        return ""
    return "" if state in "ZX" else fields[18]
