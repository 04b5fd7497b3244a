"""The plain loop: one process with pyarrow, Pillow and numpy.

It is what a user would write: rows in batches, `Image.open` for each row, one pass of the net per
batch, a file of predictions for each file of rows. It has no manifest, no resumption and no
quarantine; a bad row ends it.
"""

import json
import sys
from io import BytesIO
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from nanograd.models import model as model_io

BATCH = 1024


def decode(files: list[bytes]) -> NDArray[np.uint8]:
    """Decode n PNG files to (n, 784) uint8."""
    images = [np.asarray(Image.open(BytesIO(data)).convert("L")) for data in files]
    return np.stack(images).reshape(len(files), -1)


def decode_raw(files: list[bytes]) -> NDArray[np.uint8]:
    """Convert n images of 784 raw bytes to (n, 784) uint8."""
    return np.frombuffer(b"".join(files), np.uint8).reshape(len(files), -1)


def predictions(scores: NDArray[np.float32]) -> dict[str, Any]:
    """Return the columns of predictions."""
    best = scores.argmax(axis=1)
    return {
        "prediction": best.astype(np.int8),
        "confidence": scores.max(axis=1),
        "probabilities": scores,
    }


def main(rows: str, model: str, output: str, form: str) -> None:
    """Classify every file of a folder."""
    net, decode_rows = model_io.load(model), decode if form == "png" else decode_raw
    began, number = time(), 0
    Path(output).mkdir()
    for file in sorted(Path(rows).glob("*.parquet")):
        tables, first = [], 0
        for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=["image", "label"]):
            columns = predictions(net.probabilities(decode_rows(batch.column("image").to_pylist())))
            flat = columns.pop("probabilities").ravel()
            columns["probabilities"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), 10)
            where = {
                "source_file": [str(file)] * len(batch),
                "source_row": np.arange(first, first + len(batch)),
            }
            tables.append(pa.table({**where, **columns, "label": batch.column("label")}))
            first += len(batch)
        pq.write_table(pa.concat_tables(tables), Path(output) / file.name)
        number += first
    print(json.dumps({"rows": number, "began": began, "ended": time()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
