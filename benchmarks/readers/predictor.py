"""`nanograd.Predictor` in Ray Data: read_parquet, map_batches, write_parquet, as documented.

As in `ray_data.py`, each of two actors gets half a CPU. Blocks are as large as Ray Data makes them.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path
from time import time
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

import nanograd
from nanograd.runtime import process


class Noting(nanograd.Predictor):
    """The predictor, which records the time of its first batch."""

    def __init__(self, model: str, notes: str) -> None:
        process.use_one_thread()
        super().__init__(model)
        self._notes, self._started = Path(notes), False

    def __call__(self, batch: Any) -> Any:
        """Classify the rows of a batch."""
        if not self._started:
            self._started = True
            (self._notes / str(time())).touch()
        return super().__call__(batch)


def main(rows: str, model: str, output: str, _: str) -> None:
    """Classify every file of a folder."""
    with tempfile.TemporaryDirectory() as notes:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        DataContext.get_current().enable_progress_bars = False
        images = ray.data.read_parquet(rows)
        images.map_batches(
            Noting,
            fn_constructor_args=(model, notes),
            batch_format="pyarrow",
            batch_size=4096,
            compute=ActorPoolStrategy(size=2),
            num_cpus=0.5,
        ).write_parquet(output)
        ended = time()
        began = min(float(note.name) for note in Path(notes).iterdir())
        number = ray.data.read_parquet(output).count()
        print(json.dumps({"rows": number, "began": began, "ended": ended}))
        ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
