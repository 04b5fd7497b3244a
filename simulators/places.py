"""Restricted environments ("places"), made with Linux namespaces and limits.

A place lacks something that most machines have. It runs a command in /mnt/place, which may be the
only writable folder.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = "/mnt/place"
# A user ID without an account.
_USER_ID = 54321
_AS_USER = ("setpriv", f"--reuid={_USER_ID}", f"--regid={_USER_ID}", "--clear-groups")
_GROUP = Path("/sys/fs/cgroup/cpu") / f"nanograd-place-{os.getpid()}"

# Programs keep their paths, although their parent folders belong to another user.
_SETUP = """
set -eu
mount -t tmpfs -o mode=755 place /mnt
mkdir /mnt/place /mnt/keep; mount --bind "$HERE" /mnt/place
number=0
for folder in $KEEP; do
  mkdir /mnt/keep/$number; mount --bind "$folder" /mnt/keep/$number; number=$((number + 1))
done
mount -t tmpfs -o mode=755 place /root
number=0
for folder in $KEEP; do
  mkdir -p "$folder"; mount --bind /mnt/keep/$number "$folder"; number=$((number + 1))
done
chown -R $USER_ID:$USER_ID /mnt/place
cd /mnt/place
"""
# A program that blocks a system call for itself and its children, as a sandbox does.
_WITHOUT_CALL = """
import ctypes, os, sys
libc, number = ctypes.CDLL(None), int(sys.argv[1])
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | 38), (6, 0, 0, 0x7FFF0000)]
packed = b"".join(
    c.to_bytes(2, "little") + bytes((t, f)) + k.to_bytes(4, "little") for c, t, f, k in code
)
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))
program = Program(len(code), packed)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(program)) == 0
os.execvp(sys.argv[2], sys.argv[2:])
"""
_MEMFD_CREATE = "319"  # on x86-64
# A program that makes its process unreadable for other processes of the same user.
_HIDDEN = "import ctypes; ctypes.CDLL(None).prctl(4, 0)\n"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A restricted environment.

    Args:
        setup: shell commands that restrict the environment, as root.
        namespaces: flags of `unshare` besides -m.
        by: a command that runs the actual command, such as `setpriv`.
        variables: additional environment variables.
        folder: name of the output folder; it is bytes, because a name need not be UTF-8.
        needs: required programs and folders.
    """

    setup: str = ""
    namespaces: str = ""
    by: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    folder: bytes = b"out"
    needs: Sequence[str] = ()

    def unavailable(self) -> str:
        """Return why this machine cannot provide the place; empty if it can."""
        if sys.platform != "linux" or os.geteuid() != 0:
            return "needs root on Linux"
        if missing := [
            each for each in self.needs if not (shutil.which(each) or Path(each).exists())
        ]:
            return f"needs {', '.join(missing)}"
        words = ["unshare", f"-m{self.namespaces}", "mount", "-t", "tmpfs", "trial", "/mnt"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return f"cannot make namespaces: {done.stderr.strip()}" if done.returncode else ""

    def run(
        self, here: Path, *words: str | bytes, timeout_s: float = 240
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a command in the place.

        Args:
            here: the folder to mount as FOLDER.
            words: words of the command.
            timeout_s: seconds until the command is killed.
        """
        keep = dict.fromkeys(each for each in (sys.base_prefix, sys.prefix, str(ROOT)))
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HERE": str(here),
            "KEEP": " ".join(each for each in keep if each.startswith("/root/")),
            "USER_ID": str(_USER_ID),
            "HOME": FOLDER,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.variables,
        }
        script = f'{_SETUP}{self.setup}\nexec "$@"'
        start = ["unshare", f"-m{self.namespaces}", "--fork", "--kill-child"]
        try:
            return subprocess.run(
                [*start, "bash", "-c", script, "place", *self.by, *words],
                env=environment, capture_output=True, timeout=timeout_s, check=False,
            )  # fmt: skip
        finally:
            with suppress(OSError):  # the group does not exist, or a process is still running
                _GROUP.rmdir()


def _without(call: str) -> tuple[str, ...]:
    return (sys.executable, "-c", _WITHOUT_CALL, call)


PLACES = {
    "an ordinary place": Place(),
    "a user without a name and a home": Place(by=_AS_USER, variables={"HOME": "/nonexistent"}),
    "a root that is read only": Place(
        setup="mkdir /mnt/tmp; mount -o remount,bind,ro /", variables={"TMPDIR": "/mnt/tmp"}
    ),
    "a root that is read only, and no folder for temporary files": Place(
        setup="mount -o remount,bind,ro /; cd /"
    ),
    "folders with spaces, umlauts and Latin-1": Place(folder="grüße aus".encode() + b" K\xf6ln"),
    "64 MB of shared memory": Place(setup="mount -t tmpfs -o size=64m place /dev/shm"),
    "256 open files": Place(by=("prlimit", "--nofile=256:256"), needs=("prlimit",)),
    "a quota of one CPU": Place(
        setup=f"mkdir -p {_GROUP}; echo 100000 > {_GROUP}/cpu.cfs_quota_us\n"
        f"echo $$ > {_GROUP}/cgroup.procs",
        needs=("/sys/fs/cgroup/cpu/cpu.cfs_quota_us",),
    ),
    "no network": Place(namespaces="n", setup="ip link set lo up", needs=("ip",)),
    "no network, not even with itself": Place(namespaces="n"),
    "processes hidden from each other": Place(
        by=_AS_USER,
        setup=f"mkdir /mnt/hidden; echo '{_HIDDEN}' > /mnt/hidden/sitecustomize.py",
        variables={"PYTHONPATH": f"/mnt/hidden:{ROOT}"},
    ),
    "no anonymous files": Place(by=_without(_MEMFD_CREATE)),
    "a TMPDIR that does not exist": Place(variables={"TMPDIR": "/no/such/folder"}),
    "a TMPDIR with a long name": Place(
        setup=f"mkdir -p /mnt/{'l' * 100}", variables={"TMPDIR": f"/mnt/{'l' * 100}"}
    ),
}
