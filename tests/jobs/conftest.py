"""An input that may grow, and the command that reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.jobs.job import Job
from nanograd.jobs.predict import PredictWork, plan
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.runtime.events import Event, Message
from nanograd.settings.specs import PredictSpec
from tests.helpers.growth import FILE_ROWS, Run
from tests.helpers.models import some_net, some_reference


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def model(tmp_path: Path) -> str:
    nets = (some_net(seed=3, loss="mse"),)
    model = Model(nets=nets, about={}, reference=some_reference())
    model_io.save(model, str(tmp_path / "model"))
    return str(tmp_path / "model")


@pytest.fixture
def add(folder: Path, sample: Mnist) -> Callable[..., Path]:
    """Write a file of digits from this number on; its last row is no picture."""

    def write(number: int, name: str = "", rows: int = FILE_ROWS) -> Path:
        part = sample.test.take(slice(number, number + rows))
        images = [*(image.tobytes() for image in part.images[:-1]), b"no picture"]
        file = folder / (name or f"{number:05d}.parquet")
        pq.write_table(pa.table({"image": images, "label": part.labels}), file)
        return file

    return write


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def planned(folder: Path, model: str, out: Path) -> Callable[[], tuple[Job, PredictWork]]:
    """Plan the command."""
    return lambda: plan([str(folder)], PredictSpec(model=model, output=str(out)))


@pytest.fixture
def run(folder: Path, model: str, out: Path, messages: list[str]) -> Run:
    def predict(**settings: Any) -> dict[str, Any]:
        def listen(event: Event) -> None:
            if isinstance(event, Message):
                messages.append(str(event))

        config = PredictSpec(**{"model": model, "output": str(out), "workers": 0, **settings})
        return commands.predict([str(folder)], spec=config, listener=listen).to_json()

    return predict
