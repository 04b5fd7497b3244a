"""Several machines on one: namespaces with an address, files, processes and users of their own.

A machine is a set of Linux namespaces (network, mounts, processes, host name) kept by a shell that
waits for the end of its input, so whatever ends this process ends all machines with all that runs
on them. One of them, the desk, is where the user sits: it has the checkout, and the bridge that
joins the others. A host has no checkout, only Python and what the set-up commands would install.
All see one folder at /mnt/all, as if a file server were there.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from tests.conftest import ROOT

NETWORK = "10.77.0"
USER, HOME = "nanograd", "/home/nanograd"
USER_ID, OTHER_ID = 1000, 1001
# What a login shell reads, as Ray's own commands do.
RC = "for file in ~/.profile ~/.bashrc; do [ ! -f $file ] || . $file; done"
# What Ray may keep in memory on a host.
_STORE_BYTES = 200_000_000
_PREFIXES = dict.fromkeys(map(str, (Path(sys.base_prefix), Path(sys.prefix))))

# The environment that the set-up commands find: ours, but without this checkout, at home in ~/venv.
_OWN_ENVIRONMENT = f"""
cd {HOME}/venv
rm -f lib/python3*/site-packages/*nanograd* bin/ruff bin/uv*
rm -rf lib/python3*/site-packages/nanograd*
grep -IlZ '^#!{sys.prefix}/' bin/* | xargs -0 sed -i '1s#{sys.prefix}#{HOME}/venv#'
find . -path './lib/python3*/site-packages/*' -prune -o -exec chown -h {USER}: {{}} +
"""


def unavailable() -> str:
    """Why there can be no machines here; empty if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    missing = [name for name in ("sshd", "ssh", "rsync", "ip", "tc", "nft") if not _which(name)]
    if missing:
        return f"needs {', '.join(missing)}; `make test-cluster` installs them on Debian"
    trial = ["unshare", "-nmpui", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "trial", "/run"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    return f"cannot make namespaces: {done.stderr.strip()}" if done.returncode else ""


@dataclass
class Machine:
    """A running machine.

    Args:
        name: its host name.
        address: its IP address.
        holder: the process that made it; its machine ends with it.
        pid: of its first process, as seen from here.
    """

    name: str
    address: str
    holder: "subprocess.Popen[str]"
    pid: int
    _services: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def inside(self, *words: str, user: int = USER_ID) -> list[str]:
        """The command that runs a command on this machine, in a login shell's environment."""
        home = {0: "/root", USER_ID: HOME}.get(user, "/home/other")
        who = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        basics = [f"HOME={home}", f"USER={USER}", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin"]
        enter = ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", "-u", "-i", f"--wdns={home}"]
        return [*enter, "setpriv", *who, "env", "-i", *basics, "TERM=dumb", *words]

    def run(
        self, script: str, user: int = USER_ID, timeout_s: float = 240, stdin: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a script by bash, as a login shell; its exit code and all it said."""
        return subprocess.run(
            self.inside("bash", "-c", f"{RC}\n{script}", user=user),
            input=stdin or "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def must(self, script: str, user: int = USER_ID, timeout_s: float = 240) -> str:
        """As `run`; what it said, which is shown if it fails."""
        done = self.run(script, user, timeout_s)
        assert done.returncode == 0, f"{self.name}: {script}\n{done.stdout}"
        return done.stdout

    def serve(self, *words: str, user: int = USER_ID) -> None:
        """Start a program that runs as long as the machine does."""
        with Path(os.devnull).open("wb") as nowhere:
            self._services.append(
                subprocess.Popen(
                    self.inside(*words, user=user),
                    stdin=subprocess.PIPE,  # `ssh -tt` ends with its input
                    stdout=nowhere,
                    stderr=nowhere,
                )
            )

    def processes(self, word: str = "") -> list[str]:
        """Command lines of what runs there and contains a word, this look itself left out."""
        lines = self.run("ps -ww -eo user:16,args", user=0).stdout.splitlines()[1:]
        return [line for line in lines if word in line and "ps -ww -eo" not in line]

    def write(self, path: str, text: str, user: int = USER_ID, mode: str = "600") -> None:
        """Write a file there."""
        script = f"umask 077; mkdir -p $(dirname {path}); cat > {path}; chmod {mode} {path}"
        done = self.run(script, user, stdin=text)
        assert done.returncode == 0, done.stdout

    def kill(self) -> None:
        """End the machine as a power cut would."""
        self.holder.kill()
        self.holder.wait()
        for service in self._services:
            service.kill()
            service.wait()


class World:
    """A desk and hosts on one network."""

    def __init__(self) -> None:
        self._ports: dict[str, str] = {}
        self.shared = tempfile.mkdtemp(prefix="shared-")
        os.chown(self.shared, USER_ID, USER_ID)
        over = f"{HOME}/nanograd"
        self.desk = _start("desk", f"{NETWORK}.1", over, str(ROOT), self.shared, desk=True)
        self._network("ip link add bridge type bridge", "ip link set bridge up")
        self._network(f"ip address add {self.desk.address}/24 dev bridge")
        self.hosts: dict[str, Machine] = {}

    def add(self, name: str, number: int) -> Machine:
        """A new host, its sshd running, that the user of the desk may enter."""
        over = f"{HOME}/venv"
        machine = _start(name, f"{NETWORK}.{number}", over, sys.prefix, self.shared, desk=False)
        port = f"port{len(self._ports)}"
        self._network(
            f"ip link add {port} type veth peer name eth0 netns {machine.pid}",
            f"ip link set {port} master bridge up",
        )
        machine.must(f"ip address add {machine.address}/24 dev eth0; ip link set eth0 up", user=0)
        self._ports[name], self.hosts[name] = port, machine
        machine.must(_OWN_ENVIRONMENT, user=0)
        self._start_sshd(machine)
        return machine

    def cut(self, name: str) -> None:
        """Pull the network cable of a host."""
        self._network(f"ip link set {self._ports[name]} down")

    def mend(self, name: str) -> None:
        """Put it in again."""
        self._network(f"ip link set {self._ports[name]} up")

    def limit(self, name: str, mbit_s: int | None) -> None:
        """Let so much through from and to a host, in each direction; None for no limit."""
        port, machine = self._ports[name], self.hosts[name]
        shape = f"root tbf rate {mbit_s}mbit burst 64kb latency 200ms"
        for inside, device in ((self.desk, port), (machine, "eth0")):
            inside.run(f"tc qdisc del dev {device} root 2>/dev/null", user=0)
            if mbit_s is not None:
                inside.must(f"tc qdisc add dev {device} {shape}", user=0)

    def num_bytes(self, name: str) -> tuple[int, int]:
        """Bytes that a host has received and sent since it was added."""
        # Not from /sys, which shows the devices of the network where it was mounted.
        [device] = json.loads(self.hosts[name].must("ip -s -j link show dev eth0", user=0))
        traffic = device["stats64"]
        return traffic["rx"]["bytes"], traffic["tx"]["bytes"]

    def close(self) -> None:
        """End everything."""
        for machine in [*self.hosts.values(), self.desk]:
            machine.kill()
        shutil.rmtree(self.shared)

    def _network(self, *commands: str) -> None:
        # With the desk's network, but the process numbers of this machine.
        enter = ["nsenter", "-t", str(self.desk.pid), "-n"]
        for command in commands:
            done = subprocess.run([*enter, *command.split()], capture_output=True, check=False)
            assert done.returncode == 0, f"{command}: {done.stderr!r}"

    def _start_sshd(self, machine: Machine) -> None:
        key = f"{HOME}/.ssh/id_ed25519"
        self.desk.must(
            f"[ -f {key} ] || {{ mkdir -pm 700 ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f {key}; }}"
        )
        machine.write("~/.ssh/authorized_keys", self.desk.must(f"cat {key}.pub"))
        machine.must("ssh-keygen -q -t ed25519 -N '' -f /run/host_key", user=0)
        options = [
            "HostKey=/run/host_key", "PidFile=none", "PasswordAuthentication=no", "UsePAM=no",
            f"AllowUsers={USER}", "MaxStartups=100", "MaxSessions=100",
        ]  # fmt: skip
        flags = [word for option in options for word in ("-o", option)]
        machine.serve("/usr/sbin/sshd", "-D", "-f", os.devnull, *flags, user=0)
        enter = f"ssh -o StrictHostKeyChecking=no -o BatchMode=yes -o ConnectTimeout=2 -i {key}"
        wait_for(
            lambda: self.desk.run(f"{enter} {machine.address} true").returncode == 0,
            f"sshd of {machine.name} did not start",
            30,
        )


def wait_for(
    condition: Callable[[], object], sentence: str, timeout_s: float, every_s: float = 0.2
) -> None:
    """Wait until something is so."""
    deadline = monotonic() + timeout_s
    while not condition():
        assert monotonic() < deadline, sentence
        sleep(every_s)


def _start(name: str, address: str, over: str, lower: str, shared: str, desk: bool) -> Machine:
    before = [f"{sys.prefix}/bin"] if desk else []
    keep = [each for each in _PREFIXES if desk or each != sys.prefix]
    environment = {
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        "NAME": name, "OVER": over, "LOWER": lower, "SHARED": shared, "SHM": "300m",
        "VARIABLES": f"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES={_STORE_BYTES}",
        "HIDE": "/nowhere" if desk else str(ROOT),
        "KEEP": " ".join(each for each in keep if not each.startswith("/usr")),
        "BEFORE": ":".join([*before, f"{sys.base_prefix}/bin"]),
    }  # fmt: skip
    script = str(Path(__file__).with_name("machine.sh"))
    make = ["unshare", "-nmpui", "--fork", "--kill-child", "--mount-proc"]
    holder = subprocess.Popen(
        [*make, "bash", script],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n", f"{name} did not start"
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text()
    return Machine(name, address, holder, int(children))


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
