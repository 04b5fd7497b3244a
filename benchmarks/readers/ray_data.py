"""Ray Data's documented batch inference: read_parquet, map_batches with a class, write_parquet.

Each of two actors gets half a CPU. With a whole CPU for each, no CPU would be left to read the
rows, and the job would hang. The rows are repartitioned into blocks, because up to 128 MiB would
become one block, and one actor would do all the work.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import ray
from plain_loop import BATCH, decode, decode_raw, predictions
from ray.data import ActorPoolStrategy, DataContext

from nanograd.models import model as model_io
from nanograd.runtime import process

_BLOCK_ROWS = 10_000


class Reader:
    """The net in an actor; it records the time of its first batch."""

    def __init__(self, model: str, form: str, notes: str) -> None:
        process.use_one_thread()
        self._net, self._notes = model_io.load(model), Path(notes)
        self._decode = decode if form == "png" else decode_raw
        self._started = False

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the columns of predictions."""
        if not self._started:
            self._started = True
            (self._notes / str(time())).touch()
        scores = self._net.probabilities(self._decode(batch["image"].tolist()))
        return {**predictions(scores), "label": np.asarray(batch["label"]), "path": batch["path"]}


def main(rows: str, model: str, output: str, form: str) -> None:
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
        images = ray.data.read_parquet(rows, include_paths=True)
        images.repartition(target_num_rows_per_block=_BLOCK_ROWS).map_batches(
            Reader,
            fn_constructor_args=(model, form, notes),
            batch_size=BATCH,
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
