import os
import signal
import subprocess
import sys

import pytest

from nanograd.runtime import machine

V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
# Control groups of the process, limits of groups in microseconds of 100,000, and the CPUs.
GROUPS: dict[str, tuple[str, dict[str, str], int]] = {
    "no control group": ("", {}, 64),
    "v2 without a limit": ("0::/a", {"a": "max"}, 64),
    "v2, two CPUs": ("0::/a", {"a": "200000"}, 2),
    "v2, the limit of a parent": ("0::/a/b/c", {"a": "300000"}, 3),
    "v2, the lowest limit": ("0::/a/b", {"a": "200000", "a/b": "700000"}, 2),
    "v2, a tenth": ("0::/a", {"a": "10000"}, 1),
    "v2 in a container": ("0::/", {"": "200000"}, 2),
    "v2, a path outside the container": ("0::/../..", {"": "200000"}, 2),
    "v2, more than the machine has": ("0::/a", {"a": "99000000"}, 64),
    "v1, two CPUs": ("4:cpu,cpuacct:/a\n1:name=systemd:/a", {"cpu,cpuacct/a": "200000"}, 2),
    "v1 in a container": ("4:cpu:/docker/01\n3:cpuset:/docker/01", {"cpu": "300000"}, 3),
    "v1 without a limit": ("4:cpu:/a", {"cpu/a": "-1"}, 64),
}


@pytest.mark.parametrize(("groups", "limits", "expected"), GROUPS.values(), ids=GROUPS.keys())
def test_cpus_are_those_of_the_control_group(tmp_path, monkeypatch, groups, limits, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64))
    texts = {"proc/self/cgroup": groups}
    for group, limit in limits.items():
        folder = f"sys/fs/cgroup/{group}"
        if group.startswith("cpu"):
            texts |= {
                f"{folder}/{name}": each for name, each in zip(V1, (limit, 100000), strict=True)
            }
        else:
            texts[f"{folder}/cpu.max"] = f"{limit} 100000"
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n" if text else "")

    assert machine.num_cpus(tmp_path) == expected


def test_process_is_alive_until_it_ends():
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
def test_process_of_another_machine_is_unknown(owner):
    assert machine.is_alive(owner) is None
