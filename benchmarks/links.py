"""Claim: between hosts, a round costs the transfer through the server's link, and calls.

Three hosts, each with an address, files and a raylet: network namespaces of this machine, so they
share its cores (needs root). W workers, a third of them on each host, with one shard each; server
and driver are on the first. Both directions of the first host's link are limited with tbf. The
vectors of workers on other hosts travel in calls. Each receives the parameters and sends a
gradient, 4 P bytes each way, and none sends before all have received:

    bound = link / (2 directions x 2/3 W workers on other hosts x 4 P bytes)

Rounds/s are medians over blocks that take turns between the limits. MB per round were counted by
the network device of the first host; CPU ms per round are the processor time of all processes of
that host, and of the others. The constants are those of scripts/simulate_scaling.py: the time of a
worker per image and of the server per round, measured on the first host while the group waits.
"""

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from common import HERE, Row, arguments, report, tree

sys.path.insert(0, str(HERE.parent))
from simulators.machines import RC, Machine, Network
from simulators.waiting import wait_for

_PORT, _FOLDER = 6379, "/mnt/all"
_HOSTS = (("first", 11), ("second", 12), ("third", 13))
_PROGRAM = Path(__file__).with_name("links_driver.py")


@dataclass
class Limit:
    """A limit of the link and its measurements.

    Args:
        mbit_s: the limit; None for no limit.
        seconds: seconds per round, of each block.
        received: bytes per round.
        sent: bytes per round.
        cpu_s: processor seconds per round, of the first host and of the others.
    """

    mbit_s: int | None
    seconds: list[float] = field(default_factory=list)
    received: float = 0.0
    sent: float = 0.0
    cpu_s: tuple[float, float] = (0.0, 0.0)


class Driver:
    """The program on the first host that trains on request."""

    def __init__(self, network: Network, *numbers: int) -> None:
        self._network, first = network, network.hosts["first"]
        words = ["python", f"{_FOLDER}/links_driver.py", *map(str, numbers)]
        self._process = subprocess.Popen(
            first.command("bash", "-c", f"{RC}\ncd {_FOLDER}; exec {' '.join(words)}"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes")
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self.constants = self._receive()

    def run(self, rounds: int, limit: Limit) -> None:
        """Train rounds under a limit, and add the measurements to it."""
        self._network.limit("first", limit.mbit_s)
        before, cpu_before = self._network.num_bytes("first"), self._cpu_s()
        seconds = self._request(rounds)
        after, cpu_after = self._network.num_bytes("first"), self._cpu_s()
        self._network.limit("first", None)
        first, others = ((y - x) / rounds for x, y in zip(cpu_before, cpu_after, strict=True))
        limit.cpu_s = first, others
        limit.seconds.append(seconds / rounds)
        limit.received, limit.sent = ((y - x) / rounds for x, y in zip(before, after, strict=True))

    def close(self) -> None:
        """End the program."""
        self._process.communicate()

    def _cpu_s(self) -> tuple[float, float]:
        """Return the processor seconds of the first host and of the others."""
        first, *others = map(_cpu_s, self._network.hosts.values())
        return first, sum(others)

    def _request(self, rounds: int) -> float:
        self._requests.write(f"{rounds}\n")
        self._requests.flush()
        return float(self._receive()["seconds"])

    def _receive(self) -> Row:
        reply: Row = json.loads(self._replies.readline())
        return reply


def main() -> None:
    """Measure and print a row for each limit and net."""
    parser = arguments(__doc__)
    parser.add_argument("--links", type=int, nargs="*", default=[0, 1000, 300, 100])
    parser.add_argument("--hidden", type=int, nargs="*", default=[200])
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--images", type=int, default=42, help="images per worker and round")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    network = Network()
    try:
        for name, number in _HOSTS:
            network.add(name, number)
        _start_ray(network, given.workers // 3)
        rows = [row for hidden in given.hidden for row in _measure(network, hidden, given)]
    finally:
        network.close()
    report(rows, given.json)


def _cpu_s(machine: Machine) -> float:
    """Return the processor seconds of the processes of a host."""
    own = Path(f"/proc/{machine.pid}/ns/pid").readlink()
    ticks = 0
    for pid, number in tree(os.getpid()).items():
        with suppress(OSError):  # it ended meanwhile
            ticks += number * (Path(f"/proc/{pid}/ns/pid").readlink() == own)
    return ticks / os.sysconf("SC_CLK_TCK")


def _start_ray(network: Network, cpus: int) -> None:
    first, *others = network.hosts.values()
    settings = "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=" + "3" * 64
    common = f"--block --num-cpus={cpus} --disable-usage-stats --node-ip-address={first.address}"
    for machine in (network.client, first, *others):
        machine.check_run(f"echo export {settings} PATH=$HOME/venv/bin:$PATH >> ~/.profile")
    network.client.check_run(
        f"cp -r ~/nanograd/nanograd ~/nanograd/benchmarks/{_PROGRAM.name} {_FOLDER}/"
    )
    first.start_service(
        "bash", "-c", f"{RC}\nray start --head --port={_PORT} {common} --include-dashboard=false"
    )
    for other in others:
        start = f"ray start --address={first.address}:{_PORT} --block --num-cpus={cpus}"
        knock = f"exec 3<>/dev/tcp/{first.address}/{_PORT}"
        wait_for(lambda host=other, knock=knock: host.run(knock).returncode == 0, "no head", 60)
        other.start_service("bash", "-c", f"{RC}\n{start}")


def _measure(network: Network, hidden: int, given: Namespace) -> Sequence[Row]:
    driver = Driver(network, hidden, given.workers, given.images)
    limits = [Limit(link or None) for link in given.links]
    for limit in limits:  # to estimate the number of rounds that fill a block
        driver.run(10, limit)
    lengths = [max(5, int(given.seconds / limit.seconds.pop())) for limit in limits]
    for _ in range(given.repeats):
        for limit, rounds in zip(limits, lengths, strict=True):
            driver.run(rounds, limit)
    driver.close()
    return [_row(limit, hidden, given.workers, driver.constants) for limit in limits]


def _row(limit: Limit, hidden: int, workers: int, constants: Row) -> Row:
    vectors = 4 * constants["num_parameters"] * 2 * workers // 3
    return {
        "link Mbit/s": limit.mbit_s or "none",
        "H": hidden,
        "W": workers,
        "rounds/s": 1 / median(limit.seconds),
        "fastest": 1 / min(limit.seconds),
        "bound": limit.mbit_s * 1e6 / 8 / (2 * vectors) if limit.mbit_s else "",
        "MB in": limit.received / 1e6,
        "MB out": limit.sent / 1e6,
        "vectors MB": vectors / 1e6,
        "CPU ms": limit.cpu_s[0] * 1e3,
        "others": limit.cpu_s[1] * 1e3,
        "us/image": constants["image_s"] * 1e6,
        "server ms": constants["server_s"] * 1e3,
    }


if __name__ == "__main__":
    main()
