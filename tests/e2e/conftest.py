"""A model, a picture folder, a Ray cluster and object stores shared by the end-to-end tests."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSystem

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.settings.specs import DataExportSpec
from nanograd.settings.train_spec import TrainSpec
from tests.helpers.head import Head, running_head
from tests.helpers.stores import Moto, Store, Swift, swift_is_unavailable
from tests.runtime.test_storage import CHECKSUMS

PART_ROWS = 21
SWIFT = pytest.param("swift", marks=pytest.mark.hosts)
# Other tests use moto alone.
every_server = pytest.mark.parametrize("store", ["moto", SWIFT], indirect=True)
only_swift = pytest.mark.parametrize("store", [SWIFT], indirect=True)


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
    commands.export_data(DataExportSpec(data="sample", output=str(place)))
    return place


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory, sample: Mnist) -> Path:
    """A folder of 30 files with 21 rows each, the last of which is no picture."""
    folder = tmp_path_factory.mktemp("rows")
    for number in range(30):
        part = sample.train.take(slice(PART_ROWS * number, PART_ROWS * (number + 1)))
        images = [*(image.tobytes() for image in part.images[:-1]), b"no picture"]
        table = pa.table({"image": images, "label": part.labels})
        pq.write_table(table, folder / f"{number:02d}.parquet")
    return folder


@pytest.fixture(scope="package")
def moto() -> Iterator[Store]:
    made = Moto()
    yield made
    made.close()


@pytest.fixture(scope="package")
def swift() -> Iterator[Store]:
    if reason := swift_is_unavailable():
        pytest.skip(reason)
    made = Swift()
    yield made
    made.close()


@pytest.fixture(scope="package")
def head(moto: Store) -> Iterator[Head]:
    """A Ray head in this environment: a command joins it sooner than it starts a private Ray."""
    programs, variables = Path(sys.executable).parent, moto.environment
    with (
        tempfile.TemporaryDirectory(prefix="ng-", ignore_cleanup_errors=True) as folder,
        running_head(programs, Path(folder), num_cpus=4, **variables) as running,
    ):
        yield running


@pytest.fixture
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The S3 of this process and its children; a test may hang or kill it."""
    shared: Store = request.getfixturevalue(getattr(request, "param", "moto"))
    for name, value in {**shared.environment, CHECKSUMS: ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(CHECKSUMS)  # a user sets none
    yield shared
    shared.resume()


@pytest.fixture
def bucket(store: Store, tmp_path: Path) -> str:
    return make_bucket(tmp_path.name)


def make_bucket(name: str) -> str:
    place = f"s3://{name.replace('_', '-').lower()}"
    filesystem, path = FileSystem.from_uri(f"{place}?allow_bucket_creation=true")
    filesystem.create_dir(path)
    return place
