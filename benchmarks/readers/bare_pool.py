"""A bare pool: two processes that only open and read each file of a folder with pyarrow.

`form` is `read_table`, the function that most programs call, or `ParquetFile`, which does less.
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import time

import pyarrow as pa
import pyarrow.parquet as pq

_PROCESSES, _CHUNK = 2, 500


def read(files: list[str], form: str) -> int:
    """Read files; return the number of their rows."""
    pa.set_cpu_count(1)
    if form == "read_table":
        return sum(len(pq.read_table(file)) for file in files)
    return sum(len(pq.ParquetFile(file).read(use_threads=False)) for file in files)


def main(rows: str, _model: str, _output: str, form: str) -> None:
    """Read every file of a folder."""
    with ProcessPoolExecutor(_PROCESSES, get_context("spawn")) as pool:
        list(pool.map(read, [[]] * _PROCESSES, [form] * _PROCESSES))  # starts the processes
        began = time()
        files = sorted(str(file) for file in Path(rows).rglob("*.parquet"))
        chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
        number = sum(pool.map(read, chunks, [form] * len(chunks)))
        print(json.dumps({"rows": number, "began": began, "ended": time()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
