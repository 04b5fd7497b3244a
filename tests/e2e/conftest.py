"""A model, a picture folder, a Ray cluster and an object store shared by the end-to-end tests."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow.fs import FileSystem

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.settings.train_spec import TrainSpec
from tests.helpers.head import Head, running_head
from tests.helpers.stores import Moto, Store, Swift, swift_is_unavailable
from tests.runtime.test_storage import CHECKSUMS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run what needs a head but no store once, beside the first kind of store."""
    again = [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and getattr(item, "callspec", None)
        and item.callspec.params.get("shared_store") is Swift
        and "store" not in item.fixturenames
    ]
    if again:
        config.hook.pytest_deselected(items=again)
        items[:] = [item for item in items if item not in again]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model directory, trained on the sample without Ray."""
    place = tmp_path_factory.mktemp("trained") / "run"
    config = TrainSpec(data="sample", output=str(place), workers=0, epochs=2, batch_size=128)
    return str(commands.train(spec=config).to_json()["model"])


@pytest.fixture(scope="session")
def png_folder(tmp_path_factory: pytest.TempPathFactory, sample: Mnist) -> Path:
    """The sample's 1,000 test digits as PNG files, a folder a class."""
    place = tmp_path_factory.mktemp("pictures") / "png"
    commands.export_data(["sample"], str(place))
    return place


@pytest.fixture(
    scope="package",
    params=[Moto, pytest.param(Swift, marks=pytest.mark.hosts)],
    ids=["moto", "swift"],
)
def shared_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param is Swift and (reason := swift_is_unavailable()):
        pytest.skip(reason)
    store = request.param()
    yield store
    store.close()


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
    for name, value in {**shared_store.environment, CHECKSUMS: ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(CHECKSUMS)  # a user sets none
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
