"""Hosts whose Ray is started by hand: the page about it, then faults of hosts that train together.

The tests share three hosts and are in an order: the page starts a Ray of its own, and the last run
leaves a host slow. A run trains until its faults have had their effect. Then it is stopped, and its
checkpoint is compared with the state that one process computes in as many rounds.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from nanograd.digits.dataset import split
from nanograd.digits.variants import add_variants
from nanograd.images import sources
from nanograd.runtime.events import ignore
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.run import TrainingRun
from nanograd.training.run_directory import newest
from simulators.clusters import SHARED, events, running, start_node, start_ray, wait_for_nodes
from simulators.machines import RC, Machine, Network
from simulators.runbook import Block, Terminal, blocks
from simulators.waiting import wait_for
from tests.helpers.runs import bits, train_locally

pytestmark = pytest.mark.hosts

HOSTS = (("first", 11), ("second", 12), ("third", 13))
# What the reader of the page has installed: the command, and its package in a shared folder.
COMMAND = '#!/bin/sh\nexec python -m nanograd "$@"\n'
INSTALLED = f"export PATH=$HOME/venv/bin:$PATH PYTHONPATH={SHARED}"
PORTS = "30500-30599"
CALLS, EXCLUDED = "travel in calls", "it gets no more work"
# Of a host that sends slowly.
MBIT_S, DELAY_S = 20, 0.05


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Three hosts, on a network with a way out: Ray looks for its own address there."""
    with running(HOSTS, "nanograd") as made:
        for host in made.hosts.values():
            host.check_run(f"ip route add default via {made.client.address}", user=0)
            host.check_run(f"echo '{INSTALLED}' >> ~/.profile; mkdir -p ~/nanograd")
            host.check_run("cd ~/venv/bin; cat > nanograd; chmod +x nanograd", stdin=COMMAND)
        yield made


@pytest.fixture(scope="module")
def hosts(network: Network) -> Network:
    start_ray(network, 2)
    return network


def type_into_terminal(machine: Machine, block: Block) -> "subprocess.Popen[str]":
    """Type commands into a terminal of their own; they run until Ctrl-C."""
    shell = machine.command("script", "-qec", f"bash -c '{RC}\n{block.text}'", "/dev/null")
    return subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def test_page_leads_from_one_host_to_two_and_back(network, checksum):
    head, second, _ = network.hosts.values()
    by_hand = [each for each in blocks() if each.section == "Ray by hand"]
    first, join, longer, kill, other, wider = by_hand
    log = Path(network.shared, "long.log")

    rays = [type_into_terminal(head, first)]
    wait_for_nodes(head, "len(found) == 1")
    terminal = Terminal(head)
    outputs = [terminal.run(join.text)]
    # The reader needs time for the kill; here it comes at the start.
    train = longer.text.strip().replace("--epochs 300", "--epochs 60")
    train = f"RAY_AUTH_MODE=token {train} > {SHARED}/long.log 2>&1"
    head.start_service("bash", "-c", f"{RC}\n{train}")
    wait_for(lambda: log.exists() and "2 workers on 1 host" in log.read_text(), "no start")
    listed = head.check_run(kill.text.splitlines()[0]).splitlines()
    head.check_run(f"kill -9 {listed[-1].split()[0]}")
    token = head.check_run("cat ~/.ray/auth_token")
    second.check_run("umask 077; mkdir ~/.ray; cat > ~/.ray/auth_token", stdin=token)
    wait_for(lambda: '{"event"' in log.read_text(), "no end", 120)
    rays.append(type_into_terminal(second, other))
    wait_for_nodes(head, "len(found) == 2")
    outputs += [terminal.run(wider.text.replace("/shared", SHARED)), log.read_text()]
    for ray in rays:
        assert ray.stdin is not None
        ray.stdin.write("\x03")
        ray.stdin.flush()
        ray.wait(60)
    terminal.close()

    sums = [events(output)[-1]["params_sha256"] for output in outputs]
    assert sums == [checksum(), checksum(), checksum(epochs=60)]
    assert "4 workers on 2 hosts" in outputs[1]
    assert "(killed)" in outputs[2]
    assert len(listed) == 3
    assert [host.processes("raylet") for host in (head, second)] == [[], []]


class Run:
    """A run on the hosts, with its driver on the first, that does not end by itself."""

    def __init__(
        self, network: Network, name: str, flags: str = "--workers 6", **settings: int
    ) -> None:
        self._first, self._place = network.hosts["first"], Path(network.shared, name)
        same = {"batch_size": 480, "shards": 6, "epochs": 5000, "hidden": 32, **settings}
        same_flags = " ".join(f"--{name.replace('_', '-')} {same[name]}" for name in same)
        command = (
            f"cd {SHARED} && exec python -m nanograd train --data sample {same_flags} {flags} "
            f"--address {self._first.address}:6379 --output {SHARED}/{name} 2>&1"
        )
        self._spec = TrainSpec.resolve({"data": ["sample"], **same})
        self._process = subprocess.Popen(
            self._first.command("bash", "-c", f"{RC}\n{command}"),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def epochs(self) -> int:
        return len(self._lines("metrics.jsonl"))

    def count(self, kind: str) -> int:
        return [json.loads(line)["event"] for line in self._lines("events.jsonl")].count(kind)

    def wait_for_epochs(self, number: int = 2) -> None:
        last = self.epochs + number
        self.wait_for(lambda: self.epochs >= last, "no progress")

    def expect(self, kind: str, act: Callable[[], object], *, is_complete: bool = False) -> None:
        """Do something that causes an event of a kind, wait for it, and for two epochs.

        Between the two, wait for the replacements of all lost workers if `is_complete`.
        """
        number = self.count(kind) + 1
        act()
        self.wait_for(lambda: self.count(kind) >= number, kind)
        if is_complete:
            self.wait_for(lambda: self.count("joined") == self.count("lost"), "no replacement")
        self.wait_for_epochs()

    def lose_actor(self, machine: Machine, signal: str, actor: str) -> None:
        """Send a signal to the actors of a class on a host, and wait for what replaces them."""
        kind = "host_lost" if actor == "ServerActor" else "lost"
        words = f"pkill -{signal} -f '^ray::{actor}'"
        self.expect(kind, lambda: machine.check_run(words, user=0), is_complete=True)

    def stop(self) -> str:
        """Stop the run, check the bits of its checkpoint, and return its output."""
        self._first.check_run("pkill -TERM -f '^python -m nanograd'")
        output, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 75, output
        saved = newest(str(self._place / "checkpoints"), ignore)
        assert saved is not None
        data, spec = sources.load(["sample"]), self._spec
        [recipe] = TrainingRun(spec, str(self._place), data).recipes
        training, _ = split(data.train, spec.validation_split, spec.seed)
        digits = add_variants(training, spec.variants, recipe.plan.seed)
        expected = train_locally(recipe, digits, saved.snapshot.round)
        assert bits(saved.snapshot)[2] == bits(expected)[2], output
        return output

    def end(self) -> None:
        """End a run that a failed test left behind, because it holds the CPUs of the hosts.

        Print what happened in it, for the report of the failed test.
        """
        if self._process.poll() is None:
            self._first.run("pkill -KILL -f '^python -m nanograd'")
            output, _ = self._process.communicate(timeout=60)
            sys.stdout.write("\n".join([*self._lines("events.jsonl")[-30:], output[-5000:]]))

    def _lines(self, name: str) -> list[str]:
        file = self._place / name
        return file.read_text().splitlines() if file.exists() else []

    def wait_for(self, condition: Callable[[], object], failure: str) -> None:
        has_ended = self._process.poll
        wait_for(lambda: has_ended() is not None or condition(), failure, 120)
        assert has_ended() is None, self._process.communicate()[0]


@pytest.fixture
def start(hosts: Network) -> Iterator[Callable[..., Run]]:
    with ExitStack() as runs:

        def start_run(*words: str, **settings: int) -> Run:
            run = Run(hosts, *words, **settings)
            runs.callback(run.end)
            return run

        yield start_run


def test_processes_that_fail_and_a_pulled_cable_cost_no_round_and_no_bit(hosts, start):
    first, second, third = hosts.hosts.values()
    run = start("processes")
    run.wait_for_epochs()

    run.lose_actor(third, "KILL", "WorkerActor")
    run.lose_actor(first, "KILL", "ServerActor")
    for actor in ("WorkerActor", "ServerActor"):
        run.lose_actor(third, "STOP", actor)
    number = run.count("waiting") + 1
    hosts.disconnect("third")
    run.wait_for(lambda: run.count("waiting") >= number, "does not wait")
    hosts.reconnect("third")
    run.wait_for_epochs()
    for _ in range(2):
        run.lose_actor(second, "KILL", "ServerActor")
    kill = "pkill -KILL -f '^ray::ServerActor'"
    run.expect("host_lost", lambda: second.check_run(kill, user=0))
    output = run.stop()

    assert "6 workers on 3 hosts" in output
    assert [word for word in ("(killed)", "(hung)", "waits for host") if word not in output] == []
    assert f"second at 10.77.0.12 failed 3 times in a minute: {EXCLUDED}" in output
    assert run.count("server_lost") == 0  # the copy of the driver was not needed
    assert CALLS not in output


@contextmanager
def occupied(machine: Machine) -> Iterator[None]:
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


@contextmanager
def filtered(machine: Machine, *rules: str) -> Iterator[None]:
    machine.check_run("nft add table ip cut", user=0)
    for hook in ("input", "output"):
        chain = f"{{ type filter hook {hook} priority 0; }}"
        machine.check_run(f"nft 'add chain ip cut {hook} {chain}'", user=0)
    for rule in rules:
        machine.check_run(f"nft 'add rule ip cut {rule}'", user=0)
    try:
        yield
    finally:
        machine.check_run("nft delete table ip cut", user=0)


def test_closed_ports_cost_speed_and_no_bit_also_if_the_driver_has_no_workers(hosts, start):
    second, closed = hosts.hosts["second"], f"tcp dport {PORTS}"
    rules = (f"input {closed} reject with tcp reset", f"output {closed} drop")
    with filtered(second, *rules), occupied(hosts.hosts["first"]):
        run = start("ports", f"--workers 4 --ports {PORTS}")
        run.wait_for_epochs()
        output = run.stop()

    assert "4 workers on 2 hosts" in output
    warnings = [line for line in output.splitlines() if CALLS in line]
    # The two cannot connect, and either may be left out first; then the other reaches the first.
    assert warnings[-1].startswith("WARNING: vectors of second at 10.77.0.12"), output
    assert [each for each in warnings if "--ports" not in each] == []
    assert "Traceback" not in output


def test_large_vectors_a_slow_host_and_a_lost_connection_cost_speed_and_no_bit(hosts, start):
    second, third = hosts.hosts["second"], hosts.hosts["third"]
    hosts.limit("third", 200)
    run = start("large", "--workers 3", shards=3, hidden=3000)
    run.wait_for_epochs(1)

    # Hosts still connect to each other, but frames with parameters are lost.
    with filtered(second, f"input ip saddr {third.address} meta length > 300 drop"):
        run.wait_for_epochs()
        output = run.stop()
    hosts.limit("third", None)

    assert "3 workers on 3 hosts" in output
    warnings = [line for line in output.splitlines() if CALLS in line]
    assert len(warnings) == 1, output
    assert [host.address for host in (second, third) if host.address not in warnings[0]] == []


def test_hosts_that_are_slow_frozen_lost_and_replaced_cost_no_round_and_no_bit(hosts, start):
    first, second = hosts.hosts["first"], hosts.hosts["second"]
    hosts.slow_down("third", MBIT_S, DELAY_S)
    run = start("hosts")
    run.wait_for_epochs(1)

    for host in (first, second):
        run.lose_actor(host, "KILL", "ServerActor")
    run.expect("host_lost", lambda: hosts.disconnect("third"))
    # Everything of Ray on that host: raylet, agents, actors.
    run.expect("host_lost", lambda: second.check_run("pkill -STOP -f '[r]ay'", user=0))
    hosts.hosts["third"].kill()
    wait_for_nodes(first, "'10.77.0.13' not in found")
    hosts.add(*HOSTS[2])
    flags = f"--address={first.address}:6379 --block --num-cpus=2"
    run.expect("joined", lambda: start_node(hosts.hosts["third"], flags))
    output = run.stop()

    assert "host second at 10.77.0.12 failed" in output
    assert "host third at 10.77.0.13 failed" in output
    assert run.count("server_lost") == 0
