from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from nanograd.digits.dataset import Mnist
from nanograd.report import training_report
from nanograd.report.html import REPORT
from scripts import chromium
from tests.helpers.reports import predict_digits
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
    place = tmp_path_factory.mktemp("browser") / "run"
    train(few_digits, place, hidden=32, epochs=4)
    finished = training_report.read_run(str(place))
    training_report.build(finished, few_digits.test).write(str(place), as_png=False)
    return place


@pytest.fixture(scope="session")
def address(run: Path) -> str:
    return (run / REPORT).as_uri()


@pytest.fixture(scope="session")
def predictions(
    run: Path, sample: Mnist, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    place = tmp_path_factory.mktemp("predictions")
    digits = sample.test.take(slice(0, 193))
    for name, num_labelled in (("labelled", 193), ("unlabelled", 0)):
        predict_digits(run, digits, place / "rows", num_labelled, place / name)
    return {name: (place / name / REPORT).as_uri() for name in ("labelled", "unlabelled")}
