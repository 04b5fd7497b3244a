"""A model, a picture folder and an object store that several end-to-end tests share."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest
from pyarrow.fs import FileSystem

from nanograd import commands
from nanograd.config.train_config import TrainConfig
from nanograd.data.mnist import Mnist


def quiet(sentence: str) -> None:
    """Progress is not what these tests look at."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model directory, trained on the sample without Ray."""
    place = tmp_path_factory.mktemp("trained") / "run"
    config = TrainConfig(data="sample", output=str(place), workers=0, epochs=2, batch_size=128)
    return str(commands.train(config, quiet)["model"])


@pytest.fixture(scope="session")
def png_folder(tmp_path_factory: pytest.TempPathFactory, sample: Mnist) -> Path:
    """The sample's 1,000 test digits as PNG files, a folder a class."""
    place = tmp_path_factory.mktemp("pictures") / "png"
    commands.data_export("sample", str(place), quiet)
    return place


class Store:
    """A server that speaks S3, in a process of its own; it forgets everything when it ends."""

    def __init__(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self._port = listener.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which S3 is this server."""
        return {
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.url,
        }

    def start(self) -> None:
        """Begin, empty, on the same port."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait_for(self._port)

    def hang(self) -> None:
        """Answer nobody any more; connections stay."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Answer again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End at once."""
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def endpoint() -> Iterator[dict[str, str]]:
    """The environment in which S3 is a server of these tests."""
    store = Store()
    try:
        yield store.environment
    finally:
        store.kill()


def _wait_for(port: int) -> None:
    deadline = monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert monotonic() < deadline, "the server did not start"
            sleep(0.1)
        else:
            return


def make_bucket(name: str) -> str:
    """A new bucket in the store that the environment names; its URI."""
    place = f"s3://{name.replace('_', '-').lower()}"
    filesystem, path = FileSystem.from_uri(f"{place}?allow_bucket_creation=true")
    filesystem.create_dir(path)
    return place
