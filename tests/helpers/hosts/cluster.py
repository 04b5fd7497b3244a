"""A Ray cluster on the hosts of a world, run as docs/cluster.md says, and what stands beside it."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from tests.helpers.hosts.runbook import Terminal, blocks
from tests.helpers.hosts.world import HOME, OTHER_ID, RC, Machine, World, wait_for

URL = "http://127.0.0.1:8265"
FILE = "cluster-onpremise.yaml"
STORE_PORT, OTHER_PORT = 9000, 7379
BUCKET = "s3://digits"
SHARED = "/mnt/all"
_DRIVER_LOG = "/tmp/ray/session_latest/logs/job-driver-{}.log"
_SECOND_TERMINAL = "in a second terminal"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str

    @property
    def last(self) -> dict[str, Any]:
        """The last JSON line of nanograd itself."""
        return events(self.output)[-1]


def events(output: str) -> list[dict[str, Any]]:
    """The JSON lines of nanograd."""
    lines = [line for line in output.splitlines() if line.startswith('{"event"')]
    assert lines, output
    return list(map(json.loads, lines))


class Cluster:
    """The user at the desk, a terminal open, and what is seen on the head.

    Args:
        world: with the hosts of the runbook, the head the first of them.
    """

    def __init__(self, world: World) -> None:
        self.world, self.desk = world, world.desk
        self.head = next(iter(world.hosts.values()))
        self.terminal = Terminal(self.desk)

    def follow(self, section: str) -> list[str]:
        """Give the commands below a headline of the runbook, block by block; what each says."""
        return [self.give(section, number) for number in range(len(_blocks(section)))]

    def give(self, section: str, number: int) -> str:
        """Give the commands of one block below a headline."""
        block = _blocks(section)[number]
        if block.info == _SECOND_TERMINAL:
            self.desk.serve("bash", "-c", f"{RC}\ncd ~/nanograd\n{block.text}")
            answers = "exec 3<>/dev/tcp/127.0.0.1/8265"
            wait_for(lambda: self.desk.run(answers).returncode == 0, "no dashboard at the desk", 60)
            return ""
        return self.terminal.run(block.text, timeout_s=400)

    def edit(self, script: str) -> None:
        """Change the file that describes the cluster, by sed."""
        self.terminal.run(f"sed -i '{script}' {FILE}")

    def wait_for_hosts(self, number: int) -> None:
        """Wait until this many raylets serve this cluster."""
        wait_for(lambda: self.num_hosts() == number, f"there are never {number} hosts", 240, 1)

    def num_hosts(self) -> int:
        """How many hosts Ray has at present."""
        done = self._ask_control_service(
            "nodes = client.get_all_node_info(timeout=5).values()\n"
            "print(sum(node.state == 0 for node in nodes))\n"
        )
        return int(done.stdout) if done.returncode == 0 else 0

    def num_hosts_of_actors(self, kind: str) -> int:
        """On how many hosts the actors of a class have been, of the newest job that had some."""
        done = self._ask_control_service(
            "async def actors():\n"
            "    return (await client.async_get_all_actor_info(timeout=5)).values()\n"
            "hosts = {}\n"
            "for actor in asyncio.run(actors()):\n"
            f"    if '{kind}' in actor.class_name:\n"
            "        job = int.from_bytes(actor.job_id, 'little')\n"
            "        hosts.setdefault(job, set()).add(actor.address.node_id)\n"
            "print(len(hosts[max(hosts)]))\n"
        )
        assert done.returncode == 0, done.stdout
        return int(done.stdout)

    def _ask_control_service(self, question: str) -> "subprocess.CompletedProcess[str]":
        # Not the dashboard, which may hang while Ray starts anew.
        client = f"GcsClient(address='{self.head.address}:6379')"
        program = (
            f"import asyncio\nfrom ray._raylet import GcsClient\nclient = {client}\n{question}"
        )
        return self.head.run("timeout 30 ~/venv/bin/python - 2>/dev/null", stdin=program)

    def start(self, name: str, words: str) -> None:
        """Submit a job and do not wait."""
        options = f"--no-wait --submission-id {name} --working-dir ."
        self.terminal.run(f"ray job submit {options} -- {words}")

    def log(self, name: str) -> str:
        """What a job has said so far."""
        return self.head.run(f"cat {_DRIVER_LOG.format(name)}").stdout

    def wait_for_line(self, name: str, words: str, timeout_s: float = 120) -> None:
        """Wait until a job has said something."""
        try:
            wait_for(lambda: words in self.log(name), "", timeout_s)
        except AssertionError:
            raise AssertionError(f"{name} never said {words!r}:\n{self.log(name)}") from None

    def ended(self, name: str, timeout_s: float = 240) -> Ended:
        """Wait for the end of a job that was started; the exit code is the driver's own."""
        program = (
            "from ray.job_submission import JobSubmissionClient\n"
            f"info = JobSubmissionClient('{URL}').get_job_info('{name}')\n"
            "print(info.status.is_terminal(), info.driver_exit_code)\n"
        )
        words: list[str] = []

        def is_over() -> bool:
            done = self.desk.run("RAY_AUTH_MODE=token python -", stdin=program)
            words[:] = done.stdout.split()[-2:]
            return words[:1] == ["True"]

        self.wait_for_line(name, '{"event"', timeout_s)
        wait_for(is_over, f"{name} does not end", 60)
        return Ended(int(words[1]) if words[1] != "None" else -1, self.log(name))

    def on_host(self, name: str, words: str, environment: str = "") -> Ended:
        """A command of nanograd on a host, from the shared folder."""
        command = f"cd {SHARED} && env {environment} ~/venv/bin/python -m nanograd {words}"
        done = self.world.hosts[name].run(command, timeout_s=300)
        return Ended(done.returncode, done.stdout)


def start_store(head: Machine) -> str:
    """An object store on a host; the name of a bucket in it."""
    head.serve(
        "bash", "-c",
        f"{RC}\n~/venv/bin/python -m moto.server -H {head.address} -p {STORE_PORT}",
    )  # fmt: skip
    program = (
        "from pyarrow.fs import FileSystem\n"
        f"FileSystem.from_uri('{BUCKET}?allow_bucket_creation=true')[0].create_dir('digits')\n"
    )
    wait_for(lambda: head.run("~/venv/bin/python -", stdin=program).returncode == 0, "no store", 60)
    return BUCKET


def give_credentials(machine: Machine, head: Machine) -> None:
    """Let the user of a machine into the store."""
    machine.must(
        "echo 'export AWS_ACCESS_KEY_ID=me AWS_SECRET_ACCESS_KEY=secret "
        "AWS_DEFAULT_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true "
        f"AWS_ENDPOINT_URL=http://{head.address}:{STORE_PORT}' >> {HOME}/.bashrc"
    )


class OtherRay:
    """The Ray of another user on a host: its own ports, folder and token.

    Args:
        host: where it runs.
    """

    def __init__(self, host: Machine) -> None:
        self._host = host
        self._python = f"{HOME}/venv/bin/python"
        self._settings = f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN={'5' * 64}"
        ports = "".join(
            f" --{name}={OTHER_PORT + number}"
            for number, name in enumerate(
                ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port",
                 "metrics-export-port", "runtime-env-agent-port", "node-manager-port",
                 "object-manager-port")
            )
        )  # fmt: skip
        start = (
            f"{self._python} -m ray.scripts.scripts start --head --block --num-cpus=1 {ports} "
            f"--node-ip-address={host.address} --include-dashboard=false --temp-dir=$HOME/ray "
            "--min-worker-port=30000 --max-worker-port=30100 --object-store-memory=80000000"
        )
        host.serve("bash", "-c", f"env {self._settings} {start}", user=OTHER_ID)
        wait_for(self.nodes, "the other user's Ray does not start", 180)

    def nodes(self) -> str:
        """Its nodes, as a driver that runs a task sees them; empty if it does not answer."""
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
