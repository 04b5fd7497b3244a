"""Claim: between hosts, a round takes as long as its sums need on the wire, and less than DDP's.

Three hosts are simulated by network namespaces of this machine (needs root), so they share its
cores. Each host has an address, files and a raylet, and a third of the W workers. The link of the
first host is limited with tbf in both directions. The contenders train the same net with the same
batch size and optimizer (momentum) on undistorted images. They take turns: in each turn, every
contender runs a block of rounds under every limit.

Each of K hosts sends slices of its sums to the hosts that add them, and its total slice to all
other hosts. So it sends 2 (K-1)/K vectors of 4 P bytes and receives as many, as in a ring.

    bound = link / (2 (K-1)/K x 8 x 4 P bits)

Rounds/s are medians over the turns. `ratio` is nanograd's rounds/s in the same run, divided by the
contender's. MB per round were counted by the network device of the first host
and include the headers of TCP and Ethernet and Ray's own traffic. `CPU ms` is the processor time
per round of all processes of the first host, and `others` of the other hosts; both include idle
contenders. `us/image` (of a worker) and `server ms` (per round) are the constants of
scripts/simulate_scaling.py, measured on the first host while the group waits.
"""

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from common import HERE, Row, arguments, report, tree
from contenders.base import Setting

sys.path.insert(0, str(HERE.parent))
from simulators.clusters import SHARED as _FOLDER
from simulators.clusters import running, start_ray
from simulators.machines import RC, Machine, Network

_HOSTS = (("first", 11), ("second", 12), ("third", 13))
_CONTENDERS = ("nanograd", "pytorch-ddp", "ray-train")


@dataclass
class Measurement:
    """A contender under a limit of the link.

    Args:
        mbit_s: the limit; None for no limit.
        rounds: number of rounds in a block.
        seconds: seconds per round, for each block.
        received: bytes per round that the first host receives.
        sent: bytes per round that the first host sends.
        cpu_s: processor seconds per round, on the first host and on the other hosts.
    """

    mbit_s: int | None
    rounds: int = 10
    seconds: list[float] = field(default_factory=list)
    received: float = 0.0
    sent: float = 0.0
    cpu_s: tuple[float, float] = (0.0, 0.0)


class Driver:
    """The processes of a contender: one on the first host, or one on each."""

    def __init__(self, network: Network, setting: Setting) -> None:
        self.setting, self._network = setting, network
        first, *others = network.hosts.values()
        hosts = [first, *others] if setting.name == "pytorch-ddp" else [first]
        self._processes = [
            _start(host, f"links_driver.py '{json.dumps(asdict(setting))}' {first.address} {rank}")
            for rank, host in enumerate(hosts)
        ]
        facts = [_receive(each) for each in self._processes]
        self.facts = facts[0]

    def run(self, measurement: Measurement) -> None:
        """Train a block of rounds, and add its time, bytes and CPU time to the measurement."""
        rounds = measurement.rounds
        self._network.limit("first", measurement.mbit_s)
        before, cpu_before = self._network.num_bytes("first"), self._cpu_s()
        seconds = self._request(rounds)
        after, cpu_after = self._network.num_bytes("first"), self._cpu_s()
        self._network.limit("first", None)
        first, others = ((y - x) / rounds for x, y in zip(cpu_before, cpu_after, strict=True))
        measurement.cpu_s = first, others
        measurement.seconds.append(seconds / rounds)
        received, sent = ((y - x) / rounds for x, y in zip(before, after, strict=True))
        measurement.received, measurement.sent = received, sent

    def close(self) -> None:
        """End the processes."""
        for each in self._processes:
            if each.stdin is not None:
                each.stdin.close()
        for each in self._processes:
            try:
                each.wait(30)
            except subprocess.TimeoutExpired:
                each.kill()

    def _cpu_s(self) -> tuple[float, float]:
        """Return the processor seconds of the first host and of the others."""
        first, *others = map(_cpu_s, self._network.hosts.values())
        return first, sum(others)

    def _request(self, rounds: int) -> float:
        for each in self._processes:
            if each.stdin is not None:
                each.stdin.write(f"{rounds}\n")
                each.stdin.flush()
        return max(float(_receive(each)["seconds"]) for each in self._processes)


def main() -> None:
    """Measure and print a row for each net, contender and limit."""
    parser = arguments(__doc__)
    parser.add_argument("--links", type=int, nargs="*", default=[0, 1000, 100])
    parser.add_argument("--hidden", type=int, nargs="*", default=[200, 800])
    parser.add_argument("--contenders", nargs="*", default=_CONTENDERS)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--shards", type=int, default=0, help="0: default for the batch size")
    parser.add_argument("--images", type=int, default=128, help="images per worker and round")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    files = ("nanograd", "benchmarks/contenders", "benchmarks/links_driver.py")
    with running(_HOSTS, *files) as network:
        # nanograd's workers take CPUs, Ray Train's workers the resource `train`. So both contenders
        # have a third of their workers on each host.
        start_ray(network, given.workers // 3)
        rows = [row for hidden in given.hidden for row in _measure(network, hidden, given)]
    report(rows, given.json)


def _start(host: Machine, arguments: str) -> "subprocess.Popen[str]":
    log = subprocess.DEVNULL if not os.environ.get("BENCH_DEBUG") else None
    return subprocess.Popen(
        host.command("bash", "-c", f"{RC}\ncd {_FOLDER}; exec python {arguments}"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
    )  # fmt: skip


def _receive(process: "subprocess.Popen[str]") -> Row:
    if process.stdout is None or not (line := process.stdout.readline()):
        raise RuntimeError("a contender ended; BENCH_DEBUG=1 shows why")
    reply: Row = json.loads(line)
    return reply


def _cpu_s(machine: Machine) -> float:
    """Return the processor seconds of the processes of a host."""
    own = Path(f"/proc/{machine.pid}/ns/pid").readlink()
    ticks = 0
    for pid, number in tree(os.getpid()).items():
        with suppress(OSError):  # the process has just ended
            ticks += number * (Path(f"/proc/{pid}/ns/pid").readlink() == own)
    return ticks / os.sysconf("SC_CLK_TCK")


def _measure(network: Network, hidden: int, given: Namespace) -> Sequence[Row]:
    with ExitStack() as stack:
        drivers = []
        for name in given.contenders:
            driver = Driver(network, _setting(name, hidden, given))
            stack.callback(driver.close)
            drivers.append(driver)
        measured = [
            (driver, Measurement(link or None)) for link in given.links for driver in drivers
        ]
        for driver, each in measured:  # estimate the number of rounds that fill a block
            driver.run(each)
            each.rounds = max(5, int(given.seconds / each.seconds.pop()))
        for _ in range(given.repeats):
            for driver, each in measured:
                driver.run(each)
        return [_row(driver, each, measured) for driver, each in measured]


def _setting(name: str, hidden: int, given: Namespace) -> Setting:
    return Setting(
        name=name, data="sample", batch=given.workers * given.images, workers=given.workers,
        hidden=hidden, shards=given.shards,
    )  # fmt: skip


def _row(driver: Driver, each: Measurement, measured: Sequence[tuple[Driver, Measurement]]) -> Row:
    peers = [m for d, m in measured if m.mbit_s == each.mbit_s and d.setting.name == "nanograd"]
    setting, facts = driver.setting, measured[0][0].facts
    vector = 4 * facts.get("num_parameters", 0)
    share = 2 * (len(_HOSTS) - 1) / len(_HOSTS)
    row = {
        "link Mbit/s": each.mbit_s or "none",
        "H": setting.hidden,
        "W": setting.workers,
        "contender": setting.name,
        "rounds/s": 1 / median(each.seconds),
        "fastest": 1 / min(each.seconds),
        "ratio": median(each.seconds) / median(peers[0].seconds) if peers else "",
        "bound": each.mbit_s * 1e6 / 8 / (share * vector) if each.mbit_s and vector else "",
        "MB in": each.received / 1e6,
        "MB out": each.sent / 1e6,
        "least MB": share * vector / 1e6,
        "CPU ms": each.cpu_s[0] * 1e3,
        "others": each.cpu_s[1] * 1e3,
    }
    if driver.facts:
        row |= {
            "us/image": driver.facts["image_s"] * 1e6,
            "server ms": driver.facts["server_s"] * 1e3,
        }
    return row


if __name__ == "__main__":
    main()
