"""A folder of tables that may grow, a model, an output, and the command that predicts them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd import batch
from nanograd.digits.dataset import Mnist
from nanograd.images.writers import read
from nanograd.jobs.job import Job
from nanograd.jobs.predict import PredictWork, plan
from nanograd.models import model as model_io
from nanograd.runtime.events import Event, Message
from nanograd.settings.specs import PredictSpec
from tests.helpers.folders import untimed_contents
from tests.helpers.growth import FILE_ROWS
from tests.helpers.image_columns import Pixels, raw
from tests.helpers.models import some_model

ROWS = 29


class Case:
    """Tables, a model, an output, and the command."""

    def __init__(self, place: Path, out: Path, sample: Mnist) -> None:
        self.folder, self.out, self.model = place / "in", out, str(place / "model")
        self.digits, self.messages = sample.test, list[str]()
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

    def add(self, number: int, name: str = "", rows: int = FILE_ROWS) -> Path:
        """Write a file of digits from this number on; its last row is no picture."""
        part = self.digits.take(slice(number, number + rows))
        images = [*(image.tobytes() for image in part.images[:-1]), b"no picture"]
        name = name or f"{number:05d}.parquet"
        return self.write(name, {"image": images, "label": part.labels})

    def some(self, number: int) -> Iterator[tuple[int, Pixels]]:
        """Yield the first digits, with their numbers."""
        return enumerate(self.digits.images[:number])

    def fill(self, num_files: int, step: int = 1, **settings: Any) -> list[Path]:
        return [self.add(step * number, **settings) for number in range(num_files)]

    def add_scan(self, number: int) -> Path:
        """Write a file whose pictures are in another column than expected."""
        part = self.digits.take(slice(number, number + FILE_ROWS))
        columns = {"scan": raw(part.images), "image": [b"x"] * FILE_ROWS}
        return self.write(f"{number:05d}.parquet", columns)

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
        return batch.predict(places, spec=spec, listener=listen).to_json()

    def plan(self, **settings: Any) -> tuple[Job, PredictWork]:
        return plan([str(self.folder)], self.spec(**settings))

    def table(self, name: str = "predictions") -> pa.Table:
        """Return all rows of predictions or quarantine in the order of their sources."""
        order = [("source_file", "ascending"), ("source_row", "ascending")]
        return pq.read_table(self.out / name, partitioning=None).sort_by(order)

    def read(self, name: str, columns: Any) -> pa.Table:
        """Return columns of predictions, quarantine or numbers in any format."""
        files = sorted((self.out / name).iterdir())
        return pa.concat_tables([read(str(file), pa.schema(columns)) for file in files])

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
def case(tmp_path: Path, out: Path, sample: Mnist) -> Case:
    return Case(tmp_path, out, sample)


@pytest.fixture(scope="session")
def images(sample: Mnist) -> Pixels:
    return sample.test.images[:ROWS]
