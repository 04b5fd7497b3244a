"""A model, a picture folder, a Ray cluster and an object store shared by the end-to-end tests."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow.fs import FileSystem

from nanograd import commands
from nanograd.config.train_config import TrainConfig
from nanograd.data.mnist import Mnist
from tests.helpers.head import Head, free_port, running_head, wait_for_port


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model directory, trained on the sample without Ray."""
    place = tmp_path_factory.mktemp("trained") / "run"
    config = TrainConfig(data="sample", output=str(place), workers=0, epochs=2, batch_size=128)
    return str(commands.train(config)["model"])


@pytest.fixture(scope="session")
def png_folder(tmp_path_factory: pytest.TempPathFactory, sample: Mnist) -> Path:
    """The sample's 1,000 test digits as PNG files, a folder a class."""
    place = tmp_path_factory.mktemp("pictures") / "png"
    commands.data_export(["sample"], str(place))
    return place


class Store:
    """A server that speaks S3, in a process of its own; its content ends with that process."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.url,
        }
        self.start()

    def start(self) -> None:
        """Start, empty, on the same port."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for_port(self._port)

    def hang(self) -> None:
        """Stop answering; connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Answer again, as an empty store if the process was killed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
        else:
            self.start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="package")
def shared_store() -> Iterator[Store]:
    store = Store()
    yield store
    store.kill()


@pytest.fixture(scope="package")
def head(shared_store: Store) -> Iterator[Head]:
    """A Ray head in this environment: a command joins it sooner than it starts a private Ray."""
    programs, variables = Path(sys.executable).parent, shared_store.environment
    with (
        tempfile.TemporaryDirectory(prefix="ng-", ignore_cleanup_errors=True) as folder,
        running_head(programs, Path(folder), num_cpus=4, **variables) as running,
    ):
        yield running


@pytest.fixture
def store(shared_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The S3 of this process and its children; a test may hang or kill it."""
    for name, value in shared_store.environment.items():
        monkeypatch.setenv(name, value)
    yield shared_store
    shared_store.resume()


@pytest.fixture
def bucket(store: Store, tmp_path: Path) -> str:
    """The URI of a new bucket."""
    return make_bucket(tmp_path.name)


def make_bucket(name: str) -> str:
    """Create a bucket; returns its URI."""
    place = f"s3://{name.replace('_', '-').lower()}"
    filesystem, path = FileSystem.from_uri(f"{place}?allow_bucket_creation=true")
    filesystem.create_dir(path)
    return place
