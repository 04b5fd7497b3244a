"""A Ray cluster on simulated hosts, started with the commands of docs/cluster.md."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from simulators.machines import HOME, OTHER_ID, RC, Machine, Network
from simulators.runbook import Terminal, blocks
from simulators.waiting import wait_for

URL = "http://127.0.0.1:8265"
FILE = "cluster-onpremise.yaml"
RAY_PORT, STORE_PORT, OTHER_PORT = 6379, 9000, 7379
BUCKET = "s3://digits"
SHARED = "/mnt/all"
_DRIVER_LOG = "/tmp/ray/session_latest/logs/job-driver-{}.log"
_SECOND_TERMINAL = "in a second terminal"


@dataclass(frozen=True)
class Ended:
    """A finished command or job."""

    code: int
    output: str

    @property
    def last(self) -> dict[str, Any]:
        """The last JSON line of nanograd."""
        return events(self.output)[-1]


def events(output: str) -> list[dict[str, Any]]:
    """Return the JSON lines in an output of nanograd."""
    lines = [line for line in output.splitlines() if line.startswith('{"event"')]
    assert lines, output
    return list(map(json.loads, lines))


class Cluster:
    """A cluster, controlled from a terminal on the client.

    Args:
        network: the hosts of docs/cluster.md; the first host is the head.
        other_ray: a Ray of another user on the head, if any.
    """

    def __init__(self, network: Network, other_ray: "OtherRay") -> None:
        self.network, self.client, self.other_ray = network, network.client, other_ray
        self.head = next(iter(network.hosts.values()))
        self.terminal = Terminal(self.client)

    def run_section(self, section: str) -> list[str]:
        """Run the commands of a section of the runbook; return the output of each block."""
        return [self.run_block(section, number) for number in range(len(_blocks(section)))]

    def run_block(self, section: str, number: int) -> str:
        """Run one block of commands of a section; return the output."""
        block = _blocks(section)[number]
        if block.info == _SECOND_TERMINAL:
            self.client.start_service("bash", "-c", f"{RC}\ncd ~/nanograd\n{block.text}")
            connect = "exec 3<>/dev/tcp/127.0.0.1/8265"
            wait_for(lambda: self.client.run(connect).returncode == 0, "no dashboard on the client")
            return ""
        return self.terminal.run(block.text, timeout_s=400)

    def edit(self, script: str) -> None:
        """Edit the cluster file with sed."""
        self.terminal.run(f"sed -i '{script}' {FILE}")

    def wait_for_hosts(self, number: int) -> None:
        """Wait until the cluster has this many hosts."""
        wait_for_nodes(self.head, f"len(found) == {number}", 240)

    def num_hosts_of_actors(self, kind: str) -> int:
        """Return the number of hosts with actors of a class in the newest job."""
        done = _query_control_service(
            self.head,
            "async def actors():\n"
            "    return (await client.async_get_all_actor_info(timeout=5)).values()\n"
            "hosts = {}\n"
            "for actor in asyncio.run(actors()):\n"
            f"    if '{kind}' in actor.class_name:\n"
            "        job = int.from_bytes(actor.job_id, 'little')\n"
            "        hosts.setdefault(job, set()).add(actor.address.node_id)\n"
            "print(len(hosts[max(hosts)]))\n",
        )
        assert done.returncode == 0, done.stdout
        return int(done.stdout)

    def log(self, name: str) -> str:
        """Return the output of a job so far."""
        return self.head.run(f"cat {_DRIVER_LOG.format(name)}").stdout

    def wait_for_text(self, name: str, text: str, timeout_s: float = 120) -> None:
        """Wait until the log of a job contains a text."""
        try:
            wait_for(lambda: text in self.log(name), "", timeout_s, every_s=0.2)
        except AssertionError:
            raise AssertionError(f"{name} never logged {text!r}:\n{self.log(name)}") from None

    def wait_for_end(self, name: str, timeout_s: float = 240) -> Ended:
        """Wait until a job has ended; return the exit code of the driver, and the log."""
        program = (
            "from time import sleep\n"
            "from ray.job_submission import JobSubmissionClient\n"
            f"client = JobSubmissionClient('{URL}')\n"
            f"while not (info := client.get_job_info('{name}')).status.is_terminal():\n"
            "    sleep(0.1)\n"
            "print(info.driver_exit_code)\n"
        )
        self.wait_for_text(name, '{"event"', timeout_s)
        done = self.client.run("RAY_AUTH_MODE=token python -", stdin=program)
        assert done.returncode == 0, done.stdout
        code = done.stdout.split()[-1]
        return Ended(int(code) if code != "None" else -1, self.log(name))

    def run_on(self, name: str, words: str, environment: str = "") -> Ended:
        """Run a nanograd command on a host, in the shared folder."""
        command = f"cd {SHARED} && env {environment} ~/venv/bin/python -m nanograd {words}"
        done = self.network.hosts[name].run(command, timeout_s=300)
        return Ended(done.returncode, done.stdout)


@contextmanager
def running(hosts: Sequence[tuple[str, int]], *files: str) -> Iterator[Network]:
    """Run a client and hosts inside a with block.

    Args:
        hosts: name of each host, and the last number of its address.
        files: files and folders of the checkout that are copied to the shared folder.
    """
    network = Network()
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: network.add(*host), hosts))
        network.hosts = {name: network.hosts[name] for name, _ in hosts}
        for file in files:
            network.client.check_run(f"cp -r ~/nanograd/{file} {SHARED}/")
        yield network
    finally:
        network.close()


def start_ray(network: Network, cpus: int) -> str:
    """Start Ray on all hosts, with the head on the first; return the address of the head.

    Args:
        network: the hosts.
        cpus: number of CPUs of each host, and amount of the resource `train`.
    """
    first, *others = network.hosts.values()
    address = f"{first.address}:{RAY_PORT}"
    common = f"--block --num-cpus={cpus} --resources='{{\"train\": {cpus}}}'"
    head = f"--head --port={RAY_PORT} --node-ip-address={first.address}"
    start_node(first, f"{head} {common} --disable-usage-stats --include-dashboard=false")
    knock = f"exec 3<>/dev/tcp/{first.address}/{RAY_PORT}"
    for other in others:
        wait_for(lambda host=other: host.run(knock).returncode == 0, "no head", 60)
        start_node(other, f"--address={address} {common}")
    wait_for_hosts(network)
    return address


def wait_for_hosts(network: Network) -> None:
    """Wait until the nodes of Ray are exactly the hosts."""
    head = next(iter(network.hosts.values()))
    expected = sorted(host.address for host in network.hosts.values())
    wait_for_nodes(head, f"found == {expected}")


def wait_for_nodes(head: Machine, condition: str, timeout_s: float = 180) -> None:
    """Wait until an expression of `found`, the sorted addresses of Ray's live nodes, is true."""
    # One process asks again and again: a start of Python for each question would take a core from
    # the Ray that is starting.
    query = (
        "from time import sleep\n"
        "def is_reached():\n"
        "    nodes = client.get_all_node_info(timeout=5).values()\n"
        "    found = sorted(node.node_manager_address for node in nodes if node.state == 0)\n"
        f"    return {condition}\n"
        "while not is_reached():\n"
        "    sleep(0.1)\n"
    )
    wait_for(
        lambda: _query_control_service(head, query).returncode == 0,
        f"of the nodes of Ray, this is never true: {condition}",
        timeout_s,
    )


def _query_control_service(head: Machine, query: str) -> "subprocess.CompletedProcess[str]":
    # The dashboard may hang while Ray restarts, and a driver takes seconds to start.
    client = f"GcsClient(address='{head.address}:{RAY_PORT}')"
    program = f"import asyncio\nfrom ray._raylet import GcsClient\nclient = {client}\n{query}"
    knock = f"(exec 3<>/dev/tcp/{head.address}/{RAY_PORT})"
    python = "RAY_AUTH_MODE=token timeout 30 ~/venv/bin/python"
    return head.run(f"{{ {knock} && {python} -; }} 2>/dev/null", stdin=program)


def start_node(machine: Machine, flags: str) -> None:
    """Start Ray on a host with the cluster's token; Ray then detects a dead host within 15 s."""
    settings = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "3" * 64,
        "RAY_health_check_initial_delay_ms": 1000,
        "RAY_health_check_period_ms": 1000,
        "RAY_health_check_timeout_ms": 2000,
        "RAY_health_check_failure_threshold": 5,
        "PATH": "$HOME/venv/bin:$PATH",
    }
    words = " ".join(f"{name}={value}" for name, value in settings.items())
    machine.check_run(f"echo 'export {words}' >> ~/.profile")
    machine.start_service("bash", "-c", f"{RC}\nray start {flags}")


def start_store(head: Machine) -> str:
    """Start an object store on a host; return the URI of a bucket."""
    serve = f"~/venv/bin/python -m moto.server -H {head.address} -p {STORE_PORT}"
    head.start_service("bash", "-c", f"{RC}\n{serve}")
    program = (
        "from pyarrow.fs import FileSystem\n"
        f"FileSystem.from_uri('{BUCKET}?allow_bucket_creation=true')[0].create_dir('digits')\n"
    )
    wait_for(lambda: head.run("~/venv/bin/python -", stdin=program).returncode == 0, "no store")
    return BUCKET


def write_credentials(machine: Machine, head: Machine) -> None:
    """Give the user of a machine access to the object store."""
    machine.check_run(
        "echo 'export AWS_ACCESS_KEY_ID=me AWS_SECRET_ACCESS_KEY=secret "
        "AWS_DEFAULT_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true "
        f"AWS_ENDPOINT_URL=http://{head.address}:{STORE_PORT}' >> {HOME}/.bashrc"
    )


class OtherRay:
    """A Ray of another user on a host, with its own ports, folder and token."""

    def __init__(self, host: Machine) -> None:
        self._host = host
        self._python = f"{HOME}/venv/bin/python"
        self._settings = f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN={'5' * 64}"
        names = (
            "port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port",
            "metrics-export-port", "runtime-env-agent-port", "node-manager-port",
            "object-manager-port",
        )  # fmt: skip
        ports = " ".join(f"--{name}={OTHER_PORT + number}" for number, name in enumerate(names))
        start = (
            f"{self._python} -m ray.scripts.scripts start --head --block --num-cpus=1 {ports} "
            f"--node-ip-address={host.address} --include-dashboard=false --temp-dir=$HOME/ray "
            "--min-worker-port=30000 --max-worker-port=30100 --object-store-memory=80000000"
        )
        host.start_service("bash", "-c", f"env {self._settings} {start}", user=OTHER_ID)
        self.nodes_before = ""

        def has_started() -> bool:
            self.nodes_before = self.nodes()
            return bool(self.nodes_before)

        wait_for(has_started, "the other user's Ray does not start", 180)

    def nodes(self) -> str:
        """Return the nodes that a driver sees after running a task; empty if Ray does not reply."""
        program = (
            "import ray\n"
            f"ray.init(address='{self._host.address}:{OTHER_PORT}', log_to_driver=False)\n"
            "assert ray.get(ray.remote(lambda: 7).remote()) == 7\n"
            "print([(node['NodeID'], node['Alive']) for node in ray.nodes()])\n"
        )
        run = f"env {self._settings} timeout 90 {self._python} -"
        done = self._host.run(run, user=OTHER_ID, stdin=program)
        return done.stdout.splitlines()[-1] if done.returncode == 0 else ""


def _blocks(section: str) -> list[Any]:
    found = [block for block in blocks() if block.section == section]
    assert found, f"docs/cluster.md has no commands below {section!r}"
    return found
