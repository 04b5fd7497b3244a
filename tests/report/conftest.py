"""A small training run and predictions by its model."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd import commands
from nanograd.config.command_configs import PredictConfig
from nanograd.data.mnist import Mnist
from tests.helpers.runs import train

Predict = Callable[[int], Path]


@pytest.fixture(scope="package")
def run(few_digits: Mnist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report") / "run"
    train(few_digits, place)
    return place


@pytest.fixture
def predict(run: Path, sample: Mnist, tmp_path: Path) -> Predict:
    """Predict 193 digits, the first of them labelled, and a bad row; returns the output folder."""

    def run_predict(num_labelled: int) -> Path:
        digits = sample.test.take(slice(0, 193))
        labels = [*digits.labels[:num_labelled].tolist(), *[None] * (194 - num_labelled)]
        pictures = [*(image.tobytes() for image in digits.images), b"no picture"]
        (tmp_path / "rows").mkdir(exist_ok=True)
        table = pa.table({"image": pictures, "label": pa.array(labels, pa.int8())})
        pq.write_table(table, tmp_path / "rows" / "<s>.parquet")
        output = tmp_path / f"out{num_labelled}"
        config = PredictConfig(model=str(run / "model"), output=str(output), workers=0)
        commands.predict(config, [str(tmp_path / "rows")], [].append)
        return output

    return run_predict
