"""A folder of tables that may grow, a model, an output, and the command that predicts them."""

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
from nanograd.runtime.events import Event, Message
from nanograd.settings.specs import PredictSpec
from tests.helpers.folders import untimed_contents
from tests.helpers.growth import FILE_ROWS, Run
from tests.helpers.image_columns import Pixels
from tests.helpers.models import some_model

ROWS = 29


class Case:
    """Tables, a model, an output, and the command."""

    def __init__(self, place: Path, out: Path) -> None:
        self.folder, self.out, self.model = place / "in", out, str(place / "model")
        self.messages: list[str] = []
        self.folder.mkdir()
        model_io.save(some_model(loss="mse"), self.model)

    def write(self, name: str, columns: Any, **options: Any) -> Path:
        """Write a Parquet file, or the bytes of another one."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(columns, bytes):
            file.write_bytes(columns)
        else:
            table = columns if isinstance(columns, pa.Table) else pa.table(columns)
            pq.write_table(table, file, **options)
        return file

    def spec(self, **settings: Any) -> PredictSpec:
        return PredictSpec(**{"model": self.model, "output": str(self.out), **settings})

    def run(self, *inputs: Path, **settings: Any) -> dict[str, Any]:
        """Return the result line."""

        def listen(event: Event) -> None:
            # The reference of the model is made up.
            if isinstance(event, Message) and "unlike the digits" not in str(event):
                self.messages.append(str(event))

        spec = self.spec(**{"workers": 0, **settings})
        places = list(map(str, inputs or [self.folder]))
        return commands.predict(places, spec=spec, listener=listen).to_json()

    def plan(self) -> tuple[Job, PredictWork]:
        return plan([str(self.folder)], self.spec())

    def table(self, name: str = "predictions") -> pa.Table:
        """Return all rows of predictions or quarantine in the order of their sources."""
        order = [("source_file", "ascending"), ("source_row", "ascending")]
        return pq.read_table(self.out / name, partitioning=None).sort_by(order)

    def quarantine(self) -> list[tuple[str, int | None, str]]:
        """Return file, row and reason of each line of quarantine."""
        rows = self.table("quarantine").to_pylist()
        assert all(row["detail"] for row in rows)
        return [(Path(row["source_file"]).name, row["source_row"], row["reason"]) for row in rows]

    def refuse(self, error: type[Exception], words: str, **settings: Any) -> None:
        """Check that a command is refused and leaves the output as it is."""
        before = untimed_contents(self.out)
        with pytest.raises(error, match=words):
            self.run(**settings)
        assert untimed_contents(self.out) == before


@pytest.fixture
def case(tmp_path: Path, out: Path) -> Case:
    return Case(tmp_path, out)


@pytest.fixture(scope="session")
def images(sample: Mnist) -> Pixels:
    """Digits of the sample."""
    return sample.test.images[:ROWS]


@pytest.fixture
def folder(case: Case) -> Path:
    return case.folder


@pytest.fixture
def model(case: Case) -> str:
    return case.model


@pytest.fixture
def messages(case: Case) -> list[str]:
    return case.messages


@pytest.fixture
def planned(case: Case) -> Callable[[], tuple[Job, PredictWork]]:
    return case.plan


@pytest.fixture
def run(case: Case) -> Run:
    return case.run


@pytest.fixture
def add(case: Case, sample: Mnist) -> Callable[..., Path]:
    """Write a file of digits from this number on; its last row is no picture."""

    def write(number: int, name: str = "", rows: int = FILE_ROWS) -> Path:
        part = sample.test.take(slice(number, number + rows))
        images = [*(image.tobytes() for image in part.images[:-1]), b"no picture"]
        name = name or f"{number:05d}.parquet"
        return case.write(name, {"image": images, "label": part.labels})

    return write


@pytest.fixture
def add_scans(case: Case, images: Pixels) -> Callable[[int], Path]:
    """Write a file whose pictures are in another column than expected."""

    def write(number: int) -> Path:
        scans = [image.tobytes() for image in images[number : number + FILE_ROWS]]
        columns = {"scan": scans, "image": [b"x"] * FILE_ROWS}
        return case.write(f"{number:05d}.parquet", columns)

    return write
