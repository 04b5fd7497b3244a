"""Simulated machines: Linux namespaces with their own address, files, processes and users.

A shell keeps the namespaces of a machine alive until its input closes, so all machines end when
this process ends. The client is the user's machine. It has the checkout, and the bridge that
connects the hosts. A host has no checkout, only Python and the packages that the documented
commands would install. All machines share the folder /mnt/all, as from a file server.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from simulators.waiting import wait_for

ROOT = Path(__file__).parents[1]
SUBNET = "10.77.0"
USER, HOME = "nanograd", "/home/nanograd"
USER_ID, OTHER_ID = 1000, 1001
_KEY = f"{HOME}/.ssh/id_ed25519"
# Files that a login shell reads; Ray runs its commands in login shells.
RC = "for file in ~/.profile ~/.bashrc; do [ ! -f $file ] || . $file; done"
_OBJECT_STORE_BYTES = 200_000_000
_PREFIXES = dict.fromkeys(map(str, (Path(sys.base_prefix), Path(sys.prefix))))

# Turns a copy of our environment into one without this checkout, in ~/venv.
_OWN_ENVIRONMENT = f"""
cd {HOME}/venv
rm -f lib/python3*/site-packages/*nanograd* bin/ruff bin/uv*
rm -rf lib/python3*/site-packages/nanograd*
grep -IlZ '^#!{sys.prefix}/' bin/* | xargs -0 sed -i '1s#{sys.prefix}#{HOME}/venv#'
find . -path './lib/python3*/site-packages/*' -prune -o -exec chown -h {USER}: {{}} +
"""


def unavailable() -> str:
    """Return why this machine cannot simulate others; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    programs = ("sshd", "ssh", "rsync", "ip", "tc", "nft")
    if missing := [name for name in programs if not shutil.which(name, path=path)]:
        return f"needs {', '.join(missing)}; `make test-cluster` installs them on Debian"
    trial = ["unshare", "-nmpui", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "trial", "/run"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    return f"cannot make namespaces: {done.stderr.strip()}" if done.returncode else ""


@dataclass
class Machine:
    """A running machine.

    Args:
        name: host name.
        address: IP address.
        holder: process that created the machine; the machine ends with it.
        pid: ID of the machine's first process, in our namespace.
    """

    name: str
    address: str
    holder: "subprocess.Popen[str]"
    pid: int
    _services: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def command(self, *words: str, user: int = USER_ID) -> list[str]:
        """Return the command that runs `words` on the machine, as in a login shell."""
        home = {0: "/root", USER_ID: HOME}.get(user, "/home/other")
        ids = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        variables = [f"HOME={home}", f"USER={USER}", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin"]
        enter = ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", "-u", "-i", f"--wdns={home}"]
        # A background job of a shell ignores SIGINT, and its children inherit that: undo it.
        clean = ("env", "--default-signal=INT", "-i")
        return [*enter, "setpriv", *ids, *clean, *variables, "TERM=dumb", *words]

    def run(
        self, script: str, user: int = USER_ID, timeout_s: float = 240, stdin: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a bash script as in a login shell; stdout contains both output streams."""
        return subprocess.run(
            self.command("bash", "-c", f"{RC}\n{script}", user=user), input=stdin or "",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip

    def check_run(self, script: str, user: int = USER_ID, stdin: str | None = None) -> str:
        """Run a script that must succeed; return its output."""
        done = self.run(script, user, stdin=stdin)
        assert done.returncode == 0, f"{self.name}: {script}\n{done.stdout}"
        return done.stdout

    def start_service(self, *words: str, user: int = USER_ID) -> None:
        """Start a program that runs until the machine ends."""
        service = subprocess.Popen(
            self.command(*words, user=user),
            stdin=subprocess.PIPE,  # `ssh -tt` ends when its input ends
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._services.append(service)

    def processes(self, word: str) -> list[str]:
        """Return the command lines that contain a word, of all processes except `ps`."""
        lines = self.run("ps -ww -eo user:16,args", user=0).stdout.splitlines()[1:]
        return [line for line in lines if word in line and "ps -ww -eo" not in line]

    def kill(self) -> None:
        """Kill the machine, like a power failure."""
        for process in (self.holder, *self._services):
            process.kill()
            process.wait()


class Network:
    """A client and hosts on one network."""

    def __init__(self) -> None:
        self._ports: dict[str, str] = {}
        self._numbers = count(1)  # numbers of the bridge's ports
        self.shared = tempfile.mkdtemp(prefix="shared-")
        os.chown(self.shared, USER_ID, USER_ID)
        over = f"{HOME}/nanograd"
        self.client = _start("client", f"{SUBNET}.1", over, str(ROOT), self.shared, client=True)
        self._configure("ip link add bridge type bridge", "ip link set bridge up")
        self._configure(f"ip address add {self.client.address}/24 dev bridge")
        key = f"mkdir -pm 700 ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f {_KEY}"
        self.client.check_run(key)
        self.hosts: dict[str, Machine] = {}

    def add(self, name: str, number: int) -> None:
        """Add a host with sshd, to which the user of the client can log in.

        A host with the same name and number as a killed host replaces that host.
        """
        over = f"{HOME}/venv"
        machine = _start(name, f"{SUBNET}.{number}", over, sys.prefix, self.shared, client=False)
        port = f"port{next(self._numbers)}"
        self._configure(
            f"ip link add {port} type veth peer name eth0 netns {machine.pid}",
            f"ip link set {port} master bridge up",
        )
        address = f"ip address add {machine.address}/24 dev eth0; ip link set eth0 up"
        machine.check_run(address, user=0)
        self._ports[name], self.hosts[name] = port, machine
        machine.check_run(_OWN_ENVIRONMENT, user=0)
        self._start_sshd(machine)

    def disconnect(self, name: str) -> None:
        """Disconnect a host from the network."""
        self._configure(f"ip link set {self._ports[name]} down")

    def reconnect(self, name: str) -> None:
        """Reconnect a host to the network."""
        self._configure(f"ip link set {self._ports[name]} up")

    def limit(self, name: str, mbit_s: int | None) -> None:
        """Limit the rate from and to a host, in each direction; None for no limit."""
        port, machine = self._ports[name], self.hosts[name]
        shape = f"root tbf rate {mbit_s}mbit burst 64kb latency 200ms"
        for at, device in ((self.client, port), (machine, "eth0")):
            at.run(f"tc qdisc del dev {device} root 2>/dev/null", user=0)
            if mbit_s is not None:
                at.check_run(f"tc qdisc add dev {device} {shape}", user=0)

    def slow_down(self, name: str, mbit_s: float, delay_s: float) -> None:
        """Limit and delay what a host sends, until the machines end; receiving is not limited."""
        port, tap, machine = self._ports[name], f"tap{self._ports[name]}", self.hosts[name]
        program = str(Path(__file__).with_name("slow_link.py"))
        enter = ["nsenter", "-t", str(machine.pid), "-n", sys.executable, program, "eth0"]
        subprocess.run(enter, check=True)
        self._configure(
            f"ip link set {port} nomaster arp off",
            f"ip tuntap add {tap} mode tap",
            f"ip link set {tap} master bridge up",
        )
        service = (program.replace(str(ROOT), f"{HOME}/nanograd"), port, tap, mbit_s, delay_s)
        self.client.start_service(sys.executable, *map(str, service), user=0)
        reach = f"exec 3<>/dev/tcp/{machine.address}/22"
        wait_for(lambda: self.client.run(reach).returncode == 0, f"{name} is out of reach")

    def num_bytes(self, name: str) -> tuple[int, int]:
        """Return the bytes that a host has received and sent since it was added."""
        # /sys would show the devices of the network namespace in which it was mounted.
        [device] = json.loads(self.hosts[name].check_run("ip -s -j link show dev eth0", user=0))
        traffic = device["stats64"]
        return traffic["rx"]["bytes"], traffic["tx"]["bytes"]

    def close(self) -> None:
        """End all machines."""
        for machine in [*self.hosts.values(), self.client]:
            machine.kill()
        shutil.rmtree(self.shared)

    def _configure(self, *commands: str) -> None:
        # Use the network namespace of the client, but our process IDs.
        enter = ["nsenter", "-t", str(self.client.pid), "-n"]
        for command in commands:
            done = subprocess.run([*enter, *command.split()], capture_output=True, check=False)
            assert done.returncode == 0, f"{command}: {done.stderr!r}"

    def _start_sshd(self, machine: Machine) -> None:
        keys = "umask 077; mkdir -p ~/.ssh; cat > ~/.ssh/authorized_keys"
        machine.check_run(keys, stdin=self.client.check_run(f"cat {_KEY}.pub"))
        machine.check_run("ssh-keygen -q -t ed25519 -N '' -f /run/host_key", user=0)
        options = [
            "HostKey=/run/host_key", "PidFile=none", "PasswordAuthentication=no", "UsePAM=no",
            f"AllowUsers={USER}", "MaxStartups=100", "MaxSessions=100",
        ]  # fmt: skip
        flags = [word for option in options for word in ("-o", option)]
        machine.start_service("/usr/sbin/sshd", "-D", "-f", os.devnull, *flags, user=0)
        enter = f"ssh -o StrictHostKeyChecking=no -o BatchMode=yes -o ConnectTimeout=2 -i {_KEY}"
        wait_for(
            lambda: self.client.run(f"{enter} {machine.address} true").returncode == 0,
            f"sshd of {machine.name} did not start",
        )


def _start(name: str, address: str, over: str, lower: str, shared: str, client: bool) -> Machine:
    before = [f"{sys.prefix}/bin"] if client else []
    keep = [each for each in _PREFIXES if client or each != sys.prefix]
    # Hosts use the same BLAS kernel as this process, because tests compare their bits.
    variables = {key: each for key, each in os.environ.items() if key.startswith("OPENBLAS_")}
    variables["RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"] = str(_OBJECT_STORE_BYTES)
    environment = {
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        "NAME": name, "OVER": over, "LOWER": lower, "SHARED": shared, "SHM": "300m",
        "VARIABLES": " ".join(f"{key}={each}" for key, each in variables.items()),
        "HIDE": "/nowhere" if client else str(ROOT),
        "KEEP": " ".join(each for each in keep if not each.startswith("/usr")),
        "BEFORE": ":".join([*before, f"{sys.base_prefix}/bin"]),
    }  # fmt: skip
    script = str(Path(__file__).with_name("machine.sh"))
    make = ["unshare", "-nmpui", "--fork", "--kill-child", "--mount-proc"]
    holder = subprocess.Popen(
        [*make, "bash", script],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n", f"{name} did not start"
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text()
    return Machine(name, address, holder, int(children))
