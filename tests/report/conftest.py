"""A small training run and predictions by its model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nanograd.digits.dataset import Mnist
from tests.helpers.reports import predict_digits
from tests.helpers.runs import train

Predict = Callable[[int], Path]


@pytest.fixture(scope="package")
def run(few_digits: Mnist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report") / "run"
    train(few_digits, place)
    return place


@pytest.fixture
def predict(run: Path, sample: Mnist, tmp_path: Path) -> Predict:
    """Predict 193 digits, some labelled, and a bad row; returns the output folder."""

    def run_predict(num_labelled: int) -> Path:
        output = tmp_path / f"out{num_labelled}"
        digits = sample.test.take(slice(0, 193))
        predict_digits(run, digits, tmp_path / "rows", num_labelled, output)
        return output

    return run_predict
