"""The commands of docs/own-cluster.md, typed into the terminals of two hosts."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanograd.settings.train_spec import TrainSpec
from simulators.clusters import SHARED, events, running
from simulators.machines import RC, Machine, Network
from simulators.runbook import Block, Terminal, blocks
from simulators.waiting import wait_for
from tests.hosts.conftest import Checksum

pytestmark = pytest.mark.hosts

PAGE = "docs/own-cluster.md"
# What the reader has installed: the command, and its package in a folder that both hosts see.
COMMAND = '#!/bin/sh\nexec python -m nanograd "$@"\n'
INSTALLED = f"export PATH=$HOME/venv/bin:$PATH PYTHONPATH={SHARED}"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Two hosts, on a network with a way out: Ray looks for its own address there."""
    with running((("head", 11), ("second", 12)), "nanograd") as made:
        for host in made.hosts.values():
            host.check_run(f"ip route add default via {made.client.address}", user=0)
            host.check_run(f"echo '{INSTALLED}' >> ~/.profile; mkdir -p ~/nanograd")
            host.check_run("cd ~/venv/bin; cat > nanograd; chmod +x nanograd", stdin=COMMAND)
        yield made


def start_ray(machine: Machine, block: Block) -> "subprocess.Popen[str]":
    """Type the commands into a terminal of their own; they run until Ctrl-C."""
    shell = machine.command("script", "-qec", f"bash -c '{RC}\n{block.text}'", "/dev/null")
    return subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for_nodes(head: Machine, number: int) -> None:
    """Wait until `ray status` lists so many hosts."""
    status = "RAY_AUTH_MODE=token ray status"
    wait_for(lambda: head.run(status).stdout.count(" node_") == number, "no such host", 90)


def test_page_leads_from_one_host_to_two_and_back(network: Network, checksum: Checksum) -> None:
    head, second = network.hosts.values()
    first, join, longer, kill, other, wider = blocks(PAGE)

    rays = [start_ray(head, first)]
    wait_for_nodes(head, 1)
    terminal = Terminal(head)
    outputs = [terminal.run(join.text)]
    log = f"> {SHARED}/long.log 2>&1"
    head.start_service("bash", "-c", f"{RC}\nRAY_AUTH_MODE=token {longer.text.strip()} {log}")
    wait_for(lambda: "rounds/s" in log_of(network), "no progress", 60)
    listed = head.check_run(kill.text.splitlines()[0]).splitlines()
    head.check_run(f"kill -9 {listed[-1].split()[0]}")
    token = head.check_run("cat ~/.ray/auth_token")
    second.check_run("umask 077; mkdir ~/.ray; cat > ~/.ray/auth_token", stdin=token)
    wait_for(lambda: '{"event"' in log_of(network), "no end", 120)
    rays.append(start_ray(second, other))
    wait_for_nodes(head, 2)
    outputs.append(terminal.run(wider.text.replace("/shared", SHARED)))
    for ray in rays:
        assert ray.stdin is not None
        ray.stdin.write("\x03")
        ray.stdin.flush()
        ray.wait(60)
    terminal.close()

    outputs.append(log_of(network))
    for number, epochs in enumerate([*2 * [TrainSpec().epochs], 60]):
        assert events(outputs[number])[-1]["params_sha256"] == checksum(epochs=epochs)
    assert "4 workers on 2 hosts" in outputs[1]
    assert "(killed)" in outputs[2]
    assert len(listed) == 3
    assert [host.processes("raylet") for host in (head, second)] == [[], []]


def log_of(network: Network) -> str:
    """Return the output of the long run so far."""
    file = Path(network.shared, "long.log")
    return file.read_text() if file.exists() else ""
