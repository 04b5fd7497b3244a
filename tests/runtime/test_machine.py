import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nanograd.runtime import machine

GROUPS: dict[str, tuple[str, dict[str, str], int]] = {
    "no control group": ("", {}, 64),
    "v2 without a limit": ("0::/a", {"a/cpu.max": "max 100000"}, 64),
    "v2, two CPUs": ("0::/a", {"a/cpu.max": "200000 100000"}, 2),
    "v2, the limit of a parent": ("0::/a/b/c", {"a/cpu.max": "300000 100000"}, 3),
    "v2, the lowest limit": (
        "0::/a/b",
        {"a/cpu.max": "200000 100000", "a/b/cpu.max": "700000 100000"},
        2,
    ),
    "v2, a tenth": ("0::/a", {"a/cpu.max": "10000 100000"}, 1),
    "v2 in a container": ("0::/", {"cpu.max": "200000 100000"}, 2),
    "v2, a path outside the container": ("0::/../..", {"cpu.max": "200000 100000"}, 2),
    "v2, more than the machine has": ("0::/a", {"a/cpu.max": "99000000 100000"}, 64),
    "v1, two CPUs": (
        "4:cpu,cpuacct:/a\n1:name=systemd:/a",
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "200000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
        2,
    ),
    "v1 in a container": (
        "4:cpu:/docker/0123\n3:cpuset:/docker/0123",
        {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"},
        3,
    ),
    "v1 without a limit": (
        "4:cpu:/a",
        {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
        64,
    ),
}


@pytest.mark.parametrize(("groups", "files", "expected"), GROUPS.values(), ids=GROUPS.keys())
def test_cpus_are_those_of_the_control_group(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str,
    files: dict[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64))
    texts = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {**texts, "proc/self/cgroup": groups}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n" if text else "")

    assert machine.num_cpus(tmp_path) == expected


@pytest.mark.parametrize("count", [7, None])
def test_cpus_are_those_of_the_affinity_or_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    assert machine.num_cpus(tmp_path) == 3

    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "process_cpu_count", lambda: count, raising=False)
    assert machine.num_cpus(tmp_path) == (count or 1)


def test_quota_of_a_real_control_group_is_found() -> None:
    group = Path("/sys/fs/cgroup/cpu") / f"nanograd-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("needs a control group of version 1 that may be written")
    program = (
        "import os, sys; from pathlib import Path; from nanograd.runtime import machine\n"
        "Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()))\n"
        "print(machine.num_cpus())"
    )
    try:
        (group / "cpu.cfs_quota_us").write_text("100000")
        command = [sys.executable, "-c", program, str(group)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        group.rmdir()

    assert done.stdout == "1\n"


def test_process_is_alive_until_it_ends() -> None:
    program = "from nanograd.runtime import machine; print(machine.owner(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        owner = process.stdout.readline().strip()
        before = machine.is_alive(owner)
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        unreaped = machine.is_alive(owner)
    after = machine.is_alive(owner)

    assert (before, unreaped, after) == (True, False, False)
    # One with the same number that started later is another.
    earlier = f"{machine.owner()[:-1]}{(int(machine.owner()[-1]) + 1) % 10}"
    assert (machine.is_alive(machine.owner()), machine.is_alive(earlier)) == (True, False)


@pytest.mark.parametrize("owner", ["", "-", "k3", "0123456789-7-7", "0123456789-x"])
def test_process_of_another_machine_is_unknown(owner: str) -> None:
    assert machine.is_alive(owner) is None


def test_process_of_another_container_is_unknown() -> None:
    program = "from nanograd.runtime import machine; print(machine.owner())"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("needs namespaces")

    assert machine.is_alive(done.stdout.strip()) is None
