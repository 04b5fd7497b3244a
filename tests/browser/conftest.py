"""One browser and one report for all tests of the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from nanograd.data.mnist import Mnist
from nanograd.report import training
from scripts import chromium
from tests.unit.runs import some_digits, train


# Not for the whole session: while it is open, an event loop runs in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium.program()
    if path is None:
        pytest.skip("needs Chromium; `make test-browser` installs it")
    with chromium.browser(path) as found:
        yield found


@pytest.fixture(scope="session")
def run(sample: Mnist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run with its report."""
    place = tmp_path_factory.mktemp("browser") / "run"
    digits = some_digits(sample)
    train(digits, place, hidden=32, epochs=4)
    training.write(str(place), digits.test)
    return place


@pytest.fixture(scope="session")
def address(run: Path) -> str:
    return (run / training.NAME).as_uri()
