"""A Ray cluster on the hosts of a world, brought up from cluster-onpremise.yaml as a user would."""

import json
from dataclasses import dataclass
from typing import Any

from tests.hosts.world import HOME, RC, Machine, World, wait_for

URL = "http://127.0.0.1:8265"
FILE = "cluster-onpremise.yaml"
STORE_PORT = 9000
_DRIVER_LOG = "/tmp/ray/session_latest/logs/job-driver-{}.log"


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    code: int
    output: str

    @property
    def last(self) -> dict[str, Any]:
        """The JSON line of the job itself."""
        lines = [line for line in self.output.splitlines() if line.startswith('{"event"')]
        assert lines, self.output
        event: dict[str, Any] = json.loads(lines[-1])
        return event


class Cluster:
    """The commands that a user gives at the desk.

    Args:
        world: with three hosts, the head the first of them.
    """

    def __init__(self, world: World) -> None:
        self.world, self.desk = world, world.desk
        self.head = next(iter(world.hosts.values()))

    def edit(self) -> None:
        """Fill in the lines of the file that are marked EDIT."""
        hosts = list(self.world.hosts.values())
        documented = ("192.0.2.11", "192.0.2.12", "192.0.2.13")
        for before, host in zip(documented, hosts, strict=True):
            self.at_desk(f"sed -i 's/{before}/{host.address}/' {FILE}")

    def up(self) -> None:
        """Make the token, bring up the cluster, wait until all hosts have joined."""
        self.at_desk("ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
        self.at_desk(f"ray up -y {FILE}")
        self.desk.serve("bash", "-c", f"{RC}\ncd nanograd; ray dashboard {FILE}")
        wait_for(
            lambda: self.desk.run("exec 3<>/dev/tcp/127.0.0.1/8265").returncode == 0,
            "the dashboard did not answer at the desk",
            60,
        )
        self.wait_for_hosts(len(self.world.hosts))

    def wait_for_hosts(self, number: int) -> None:
        """Wait until this many raylets serve this cluster."""
        wait_for(lambda: self.num_hosts() == number, f"there are never {number} hosts", 240, 2)

    def num_hosts(self) -> int:
        """How many hosts Ray has at present."""
        program = "import json; print(sum(n['state'] == 'ALIVE' for n in json.load(open(0))))"
        done = self.head.run(f'ray list nodes --format json 2>/dev/null | python -c "{program}"')
        return int(done.stdout) if done.returncode == 0 else 0

    def down(self) -> None:
        """End the cluster: `ray down` on the head, and what it leaves on the other hosts."""
        self.at_desk(f"ray down -y {FILE}")
        enter = "ssh -o StrictHostKeyChecking=no -i ~/.ssh/id_ed25519"
        for host in list(self.world.hosts.values())[1:]:
            self.at_desk(f"{enter} {host.address} '~/venv/bin/ray stop'")

    def submit(self, words: str, options: str = "", environment: str = "") -> Ended:
        """Submit a job from the checkout and wait for its end."""
        done = self.desk.run(self._submit(words, options, environment), timeout_s=400)
        return Ended(done.returncode, done.stdout)

    def start(self, name: str, words: str, options: str = "") -> None:
        """Submit a job and do not wait."""
        self.desk.must(self._submit(words, f"--no-wait --submission-id {name} {options}"))

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

        wait_for(lambda: '{"event"' in self.log(name), f"{name} does not end", timeout_s)
        wait_for(is_over, f"{name} does not end", 60)
        return Ended(int(words[1]) if words[1] != "None" else -1, self.log(name))

    def at_desk(self, script: str) -> str:
        """Run a script in the checkout."""
        return self.desk.must(f"cd ~/nanograd && export RAY_AUTH_MODE=token\n{script}")

    def _submit(self, words: str, options: str, environment: str = "") -> str:
        settings = f"RAY_AUTH_MODE=token {environment}"
        return (
            f"cd ~/nanograd && {settings} ray job submit --address {URL} --working-dir . "
            f"{options} -- {words}"
        )


def start_store(head: Machine, users: list[Machine]) -> str:
    """An object store on a host, its credentials with everybody; the name of a bucket in it."""
    head.serve(
        "bash", "-c",
        f"{RC}\n~/venv/bin/python -m moto.server -H {head.address} -p {STORE_PORT}",
    )  # fmt: skip
    lines = (
        "export AWS_ACCESS_KEY_ID=me AWS_SECRET_ACCESS_KEY=secret AWS_DEFAULT_REGION=us-east-1 "
        "AWS_EC2_METADATA_DISABLED=true "
        f"AWS_ENDPOINT_URL=http://{head.address}:{STORE_PORT}"
    )
    for machine in users:
        machine.must(f"echo '{lines}' >> {HOME}/.bashrc")
    program = (
        "from pyarrow.fs import FileSystem\n"
        "FileSystem.from_uri('s3://digits?allow_bucket_creation=true')[0].create_dir('digits')\n"
    )
    wait_for(lambda: head.run("~/venv/bin/python -", stdin=program).returncode == 0, "no store", 60)
    return "s3://digits"
