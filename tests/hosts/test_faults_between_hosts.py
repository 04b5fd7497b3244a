"""Three hosts that train together, and what happens to them: the bits stay the same.

Every test trains the same run on three hosts, one of which is killed, frozen, cut off or slowed
down meanwhile, and compares its parameters with those of one process.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from simulators.clusters import SHARED, nodes, running, start_node, start_ray, wait_for_hosts
from simulators.machines import RC, Machine, Network
from simulators.waiting import wait_for
from tests.hosts.conftest import Checksum

pytestmark = pytest.mark.hosts

HOSTS = (("first", 11), ("second", 12), ("third", 13))
SETTINGS = {"batch_size": 96, "shards": 6, "epochs": 24, "hidden": 32}
FLAGS = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in SETTINGS.items())
PORTS = "30500-30599"
CPUS = "--block --num-cpus=2"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Three hosts with Ray, two CPUs each."""
    with running(HOSTS, "nanograd") as made:
        start_ray(made, 2)
        yield made


@pytest.fixture(scope="module")
def expected(checksum: Checksum) -> str:
    """Return the checksum of the parameters that one process computes."""
    return checksum(**SETTINGS)


@dataclass
class Run:
    """A run on the hosts.

    Args:
        place: its run directory.
        process: the command.
    """

    place: Path
    process: "subprocess.Popen[str]"

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        file = self.place / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the group so far."""
        lines = (self.place / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def end(self, timeout_s: float) -> tuple[str, str]:
        """Wait for the end; return the checksum of the parameters and all output."""
        output, _ = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 0, output
        return json.loads(output.splitlines()[-1])["params_sha256"], output


def start(network: Network, name: str, flags: str = "--workers 6") -> Run:
    """Start a run on the first host."""
    first = network.hosts["first"]
    command = (
        f"cd {SHARED} && exec python -m nanograd train --data sample {FLAGS} {flags} "
        f"--address {first.address}:6379 --output {SHARED}/{name} --overwrite 2>&1"
    )
    process = subprocess.Popen(
        first.command("bash", "-c", f"{RC}\n{command}"), stdout=subprocess.PIPE, text=True
    )
    return Run(Path(network.shared, name), process)


def wait_for_epoch(run: Run, epoch: int) -> None:
    """Wait until some epochs are finished."""
    running = run.process.poll
    wait_for(lambda: run.epochs >= epoch or running() is not None, "no progress", 120)
    assert running() is None, run.process.communicate()[0]


def signal(machine: Machine, number: str, actor: str) -> None:
    """Send a signal to the actors of a class on a host."""
    machine.check_run(f"pkill -{number} -f '^ray::{actor}'", user=0)


@pytest.mark.parametrize("workers", [3, 6])
def test_workers_on_three_hosts_have_the_bits_of_one_process(
    network: Network, expected: str, workers: int
) -> None:
    checksum, output = start(network, f"plain{workers}", f"--workers {workers}").end(240)

    assert checksum == expected
    assert f"{workers} workers on 3 hosts" in output
    assert "calls" not in output


@pytest.mark.parametrize(("workers", "hidden"), [(2, 3000), (3, 5000)])
def test_vectors_larger_than_any_buffer_change_no_bit(
    network: Network, checksum: Checksum, workers: int, hidden: int
) -> None:
    same = {"batch_size": 512, "shards": workers, "hidden": hidden, "epochs": 2}
    large = (
        f"--preset classic --batch-size 512 --shards {workers} --workers {workers} "
        f"--hidden {hidden} --epochs 2"
    )

    found, output = start(network, f"large{hidden}", large).end(240)

    assert found == checksum(preset="classic", **same)
    assert f"{workers} workers on {workers} hosts" in output
    assert "failed" not in output


Fault = Callable[[Network], None]
FAULTS: dict[str, tuple[Fault, str]] = {
    "worker killed": (lambda n: signal(n.hosts["second"], "KILL", "WorkerActor"), "(killed)"),
    "server killed": (
        lambda n: signal(n.hosts["second"], "KILL", "ServerActor"),
        "host second at 10.77.0.12 failed",
    ),
    "worker frozen": (lambda n: signal(n.hosts["third"], "STOP", "WorkerActor"), "(hung)"),
    "server frozen": (
        lambda n: signal(n.hosts["third"], "STOP", "ServerActor"),
        "host third at 10.77.0.13 failed",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_failed_process_costs_no_round_and_no_bit(
    network: Network, expected: str, fault: str
) -> None:
    inject, words = FAULTS[fault]
    run = start(network, fault.replace(" ", "-"))
    wait_for_epoch(run, 3)

    inject(network)
    checksum, output = run.end(120)

    assert checksum == expected
    assert words in output
    assert "server failed" not in output  # the copy of the driver was not needed


def test_host_that_fails_again_and_again_gets_no_more_work(network: Network, expected: str) -> None:
    run = start(network, "flaps")
    wait_for_epoch(run, 2)

    for number in range(1, 4):
        wait_for(lambda: is_running(network.hosts["second"], "ServerActor"), "no server")
        signal(network.hosts["second"], "KILL", "ServerActor")
        wait_for_event(run, "host_lost", number)
    checksum, output = run.end(120)

    assert checksum == expected
    assert "host second at 10.77.0.12 failed 3 times in a minute: it gets no more work" in output


def is_running(machine: Machine, actor: str) -> bool:
    """Return whether a host has an actor of a class."""
    return machine.run(f"pgrep -f '^ray::{actor}'", user=0).returncode == 0


def kinds(run: Run) -> list[str]:
    """Return the kinds of events so far."""
    return [event["event"] for event in run.events()]


def wait_for_event(run: Run, kind: str, number: int = 1) -> None:
    """Wait until an event has happened so often."""
    running = run.process.poll
    wait_for(lambda: kinds(run).count(kind) >= number or running() is not None, kind, 60)
    assert running() is None, run.process.communicate()[0]


def replace(network: Network, name: str, number: int) -> None:
    """Put a new host in the place of one that is broken."""
    network.hosts[name].kill()
    address = network.hosts[name].address
    wait_for(lambda: address not in nodes(network), f"{name} is never dead to Ray")
    network.add(name, number)
    start_node(network.hosts[name], f"--address={network.hosts['first'].address}:6379 {CPUS}")


def test_host_killed_another_frozen_and_the_first_back_cost_no_round(
    network: Network, checksum: Checksum
) -> None:
    epochs = 120
    run = start(network, "hosts", f"--workers 6 --epochs {epochs}")
    wait_for_epoch(run, 2)

    network.hosts["third"].kill()
    wait_for_event(run, "host_lost")
    wait_for_epoch(run, run.epochs + 2)
    # Everything of Ray on that host: raylet, agents, actors.
    network.hosts["second"].check_run("pkill -STOP -f '[r]ay'", user=0)
    wait_for_event(run, "host_lost", 2)
    replace(network, "third", 13)
    wait_for_event(run, "joined")
    found, output = run.end(240)
    replace(network, "second", 12)
    wait_for_hosts(network)

    assert found == checksum(**{**SETTINGS, "epochs": epochs})
    assert "host third at 10.77.0.13 failed" in output
    assert "host second at 10.77.0.12 failed" in output
    assert "server_lost" not in kinds(run)


@pytest.mark.parametrize("verdict", ["drop", "reject with tcp reset"])
def test_closed_ports_cost_speed_and_no_bit(network: Network, expected: str, verdict: str) -> None:
    second, rule = network.hosts["second"], f"tcp dport {PORTS} counter {verdict}"
    second.check_run("nft add table ip cut", user=0)
    for hook in ("input", "output"):
        chain = f"{{ type filter hook {hook} priority 0; }}"
        second.check_run(f"nft 'add chain ip cut {hook} {chain}'", user=0)
    second.check_run(f"nft 'add rule ip cut input {rule}'", user=0)
    second.check_run(f"nft 'add rule ip cut output tcp dport {PORTS} drop'", user=0)

    checksum, output = start(network, verdict[:4], f"--workers 6 --ports {PORTS}").end(240)

    second.check_run("nft delete table ip cut", user=0)
    assert checksum == expected
    assert output.count("vectors of second at 10.77.0.12 travel in calls") == 1
    assert "is a firewall in the way? --ports chooses the ports" in output
    assert "Traceback" not in output


def cut(network: Network, rule: str) -> None:
    """Let the second host receive no packets of a kind; they are counted."""
    network.hosts["second"].check_run(
        "nft add table ip cut && nft 'add chain ip cut input "
        "{ type filter hook input priority 0; }' && "
        f"nft 'add rule ip cut input ip saddr {network.hosts['third'].address} {rule} drop'",
        user=0,
    )


@pytest.fixture
def uncut(network: Network) -> Iterator[None]:
    """Let the second host receive everything again."""
    yield
    network.hosts["second"].check_run("nft delete table ip cut", user=0)


# Nothing from the start; nothing in mid-run; a handshake, but no frame with parameters.
@pytest.mark.parametrize(("rule", "epoch"), [("", 0), ("", 3), ("meta length > 300", 3)])
@pytest.mark.usefixtures("uncut")
def test_two_hosts_out_of_reach_of_each_other_cost_speed_and_no_bit(
    network: Network, expected: str, rule: str, epoch: int
) -> None:
    if not epoch:
        cut(network, rule)
    run = start(network, "apart")
    if epoch:
        wait_for_epoch(run, epoch)
        cut(network, rule)
    checksum, output = run.end(400)

    assert checksum == expected
    assert_both_named(output)


@pytest.mark.usefixtures("uncut")
def test_two_hosts_out_of_reach_are_served_by_the_host_of_the_driver_without_workers(
    network: Network, expected: str
) -> None:
    cut(network, "")
    with occupied(network.hosts["first"]):
        checksum, output = start(network, "served", "--workers 4").end(400)

    assert checksum == expected
    assert "4 workers on 2 hosts" in output
    assert_both_named(output)


def assert_both_named(output: str) -> None:
    [warning] = [line for line in output.splitlines() if "travel in calls" in line]
    assert "second at 10.77.0.12" in warning
    assert "third at 10.77.0.13" in warning


@contextmanager
def occupied(machine: Machine) -> Iterator[None]:
    """Hold all CPUs of a host."""
    program = (
        "import ray, sys; ray.init(address='auto')\n"
        "here = {'ray.io/node-id': ray.get_runtime_context().get_node_id()}\n"
        "@ray.remote(num_cpus=2, label_selector=here)\n"
        "class Holder:\n"
        "    def hold(self): pass\n"
        "holder = Holder.remote(); ray.get(holder.hold.remote())\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        machine.command("bash", "-c", f"{RC}\nexec python -c \"{program}\" 2>/dev/null"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert any(line == "held\n" for line in process.stdout)
    yield
    process.communicate(timeout=60)


def test_cable_pulled_and_plugged_in_again_costs_no_bit(network: Network, expected: str) -> None:
    run = start(network, "cable")
    wait_for_epoch(run, 3)

    network.disconnect("second")
    wait_for_event(run, "waiting")
    network.reconnect("second")
    checksum, output = run.end(240)

    assert checksum == expected
    assert "waits for host second at 10.77.0.12" in output


def test_slow_host_costs_time_and_no_bit(network: Network, expected: str) -> None:
    network.limit("third", 100)

    checksum, _ = start(network, "slow").end(400)

    network.limit("third", None)
    assert checksum == expected
