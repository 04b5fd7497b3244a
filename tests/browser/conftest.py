"""One browser and one report for all tests of the page."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser

from nanograd import commands
from nanograd.config.command_configs import PredictConfig
from nanograd.data.mnist import Mnist
from nanograd.report import training_report
from scripts import chromium
from tests.helpers.runs import train


# Not for the whole session: while it is open, an event loop runs in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium.find_program()
    if path is None:
        pytest.skip("needs Chromium; `make test-browser` installs it")
    with chromium.launch(path) as launched:
        yield launched


@pytest.fixture(scope="session")
def run(few_digits: Mnist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run with its report."""
    place = tmp_path_factory.mktemp("browser") / "run"
    train(few_digits, place, hidden=32, epochs=4)
    training_report.write(str(place), few_digits.test)
    return place


@pytest.fixture(scope="session")
def address(run: Path) -> str:
    return (run / training_report.NAME).as_uri()


@pytest.fixture(scope="session")
def predictions(
    run: Path, sample: Mnist, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Reports of two small predictions, with labels and without, each with a bad row."""
    place = tmp_path_factory.mktemp("predictions")
    digits = sample.test.take(slice(0, 193))
    pictures = [*(image.tobytes() for image in digits.images), b"no picture"]
    found = {}
    for name, labels in (("labelled", [*digits.labels.tolist(), 7]), ("unlabelled", [None] * 194)):
        table = pa.table({"image": pictures, "label": pa.array(labels, pa.int8())})
        pq.write_table(table, place / f"{name}.parquet")
        config = PredictConfig(model=str(run / "model"), output=str(place / name), workers=0)
        commands.predict(config, [str(place / f"{name}.parquet")], [].append)
        found[name] = (place / name / training_report.NAME).as_uri()
    return found
