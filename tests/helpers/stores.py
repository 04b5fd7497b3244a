"""Object stores on this machine that speak S3: moto, and OpenStack Swift as Debian packages it."""

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from math import inf
from pathlib import Path

import boto3

from tests.helpers.head import free_port, wait_for_port


class Store:
    """A server that speaks S3, in processes of its own.

    Args:
        keys: of its only user.
    """

    is_durable = False  # whether its content outlives its processes

    def __init__(self, *keys: str) -> None:
        self._port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = f"http://127.0.0.1:{self._port}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": keys[0],
            "AWS_SECRET_ACCESS_KEY": keys[1],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.url,
        }
        self.start()

    def start(self) -> None:
        raise NotImplementedError

    def hang(self) -> None:
        """Stop answering; connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Answer again, as an empty store if it was killed and is not durable."""
        if self._processes:
            self._signal(signal.SIGCONT)
        else:
            self.start()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        for each in self._processes:
            each.wait()
        self._processes.clear()

    def close(self) -> None:
        self.kill()

    def _start(self, *words: str) -> None:
        self._processes.append(
            subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

    def _signal(self, number: signal.Signals) -> None:
        for each in self._processes:
            each.send_signal(number)


class Moto(Store):
    """A simulation of Amazon's S3, in memory."""

    def __init__(self) -> None:
        super().__init__("me", "secret")

    def start(self) -> None:
        """Start, empty, on the same port."""
        self._start(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port))
        wait_for_port(self._port)

    @contextmanager
    def reader(self) -> Iterator[dict[str, str]]:
        """Provide the environment of a user who may read objects and not list them."""
        made = boto3.client("iam")
        made.create_user(UserName="reader")
        allowed = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        made.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
        key = made.create_access_key(UserName="reader")["AccessKey"]
        self._check_rights_after(0)
        names = {"AWS_ACCESS_KEY_ID": "AccessKeyId", "AWS_SECRET_ACCESS_KEY": "SecretAccessKey"}
        yield {variable: key[name] for variable, name in names.items()}
        self._check_rights_after(inf)

    def _check_rights_after(self, number: float) -> None:
        server, kind = HTTPConnection("127.0.0.1", self._port), {"Content-Type": "text/plain"}
        server.request("POST", "/moto-api/reset-auth", str(number), kind)
        assert server.getresponse().status == HTTPStatus.OK


_KINDS = ("account", "container", "object")
_SWIFT_CONF = """
[swift-hash]
swift_hash_path_prefix = a
swift_hash_path_suffix = b
[storage-policy:0]
name = one
default = yes
"""
# No workers: each server is one process, which ends with its own id.
_DEFAULT = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}
mount_check = false
disable_fallocate = true
"""
_SERVER = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
_PROXY = """
[pipeline:main]
pipeline = catch_errors cache s3api tempauth bulk slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
"""
_FILTERS = "".join(
    f"[filter:{name}]\nuse = egg:swift#{name}\n"
    for name in ("catch_errors", "bulk", "slo", "dlo", "s3api")
)


class Swift(Store):
    """A whole Swift with one disk: a proxy, servers of accounts, containers, objects, memcached."""

    is_durable = True

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="nanograd-swift-"))
        self._ports = {kind: free_port() for kind in (*_KINDS, "memcached")}
        super().__init__("test:tester", "testing")

    def start(self) -> None:
        """Start on the same ports, with what was stored before."""
        if not (self._folder / "swift.conf").exists():
            self._configure()
        address = ("-l", "127.0.0.1", "-p", str(self._ports["memcached"]))
        self._start("memcached", "-u", getpass.getuser(), *address)
        for kind in (*_KINDS, "proxy"):
            self._start(f"swift-{kind}-server", str(self._folder / f"{kind}.conf"))
        for port in (self._port, *self._ports.values()):
            wait_for_port(port)

    @contextmanager
    def without_lists(self) -> Iterator[None]:
        """Lose what is stored inside a with block from the lists, which Swift allows."""
        command = ("swift-container-server", str(self._folder / "container.conf"))
        server = next(each for each in self._processes if each.args == command)
        server.kill()
        server.wait()
        self._processes.remove(server)
        yield
        self._start(*command)
        wait_for_port(self._ports["container"])

    def close(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self._folder)

    def _configure(self) -> None:
        (self._folder / "d1").mkdir()
        (self._folder / "swift.conf").write_text(_SWIFT_CONF)
        facts = {"folder": self._folder, "user": getpass.getuser(), **self._ports}
        for kind in _KINDS:
            builder = self._folder / f"{kind}.builder"
            device = f"r1z1-127.0.0.1:{self._ports[kind]}/d1"
            for words in (("create", "4", "1", "1"), ("add", device, "1"), ("rebalance",)):
                command = ["swift-ring-builder", builder, *words]
                subprocess.run(command, capture_output=True, check=True)
            text = (_DEFAULT + _SERVER).format(kind=kind, port=self._ports[kind], **facts)
            (self._folder / f"{kind}.conf").write_text(text)
        text = (_DEFAULT + _PROXY).format(port=self._port, **facts) + _FILTERS
        # Of the last filter; a reply lists so many files.
        text += "location = us-east-1\nmax_bucket_listing = 20\n"
        (self._folder / "proxy.conf").write_text(text)


def swift_is_unavailable() -> str:
    """Return why Swift cannot run here; empty if it can."""
    programs = ["memcached", "swift-ring-builder", *(f"swift-{each}-server" for each in _KINDS)]
    if missing := [each for each in [*programs, "swift-proxy-server"] if not shutil.which(each)]:
        return f"needs {', '.join(missing)}; `make test-cluster` installs them on Debian"
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.setxattr(folder, "user.swift", b"")
        except OSError:
            return f"Swift needs extended attributes, which the file system of {folder} lacks"
    return ""
