"""The pipeline in an object store, with a kill and more input: the bytes of a local folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from shutil import copyfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.runtime import storage
from simulators.waiting import wait_for
from tests.conftest import Nanograd, environment_without_ray
from tests.helpers.folders import untimed_contents
from tests.helpers.head import Head

TRAIN = ("train", "--data", "sample", "--workers", "2", "--epochs", "40", "--hidden", "33")


def train_through_a_kill(nanograd: Nanograd, head: Head, place: str) -> str:
    """Train, killed after the first checkpoint, then again; return the checksum of the result."""
    words = (*TRAIN, "--output", f"{place}/run")
    with subprocess.Popen(
        [sys.executable, "-m", "nanograd", *words],
        env=environment_without_ray(**head.joining), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as killed:  # fmt: skip
        wait_for(lambda: storage.names(f"{place}/run/checkpoints"), "nothing was saved")
        os.kill(killed.pid, signal.SIGKILL)
    done = nanograd(*words, **head.joining)
    assert done.code == 0, done.stderr
    assert "continuing after" in done.stderr
    return str(done.last["params_sha256"])


def read_pictures(nanograd: Nanograd, head: Head, place: str, folder: Path) -> list[Any]:
    """Ingest and predict pictures with two workers; return the rows and the predictions."""
    ingest = ("ingest", str(folder), "--output", f"{place}/rows", "--part-rows", "7")
    predict = ("predict", f"{place}/rows", "--model", f"{place}/run/model")
    for words in (ingest, (*predict, "--output", f"{place}/read", "--rows-per-file", "9")):
        done = nanograd(*words, "--workers", "2", **head.joining)
        assert done.code == 0, done.stderr
        again = nanograd(*words, "--workers", "2", **head.joining)
        assert "nothing to do" in again.stderr
    return [rows_of(f"{place}/read/predictions", place), untimed_contents(f"{place}/rows")]


def rows_of(folder: str, place: str) -> list[dict[str, Any]]:
    """Return the rows of all files of a folder, the place of their sources left out."""
    data = [storage.read(file) for file, *_ in storage.files_below(folder)]
    rows = [
        {**row, "source_file": row["source_file"].removeprefix(place)}
        for each in data
        for row in pq.read_table(pa.BufferReader(each)).to_pylist()
    ]
    return sorted(rows, key=lambda row: (row["source_file"], row["source_row"]))


@pytest.mark.slow
def test_pipeline_in_the_store_has_the_bytes_of_a_local_folder(
    nanograd_process: Nanograd, head: Head, bucket: str, png_folder: Path, tmp_path: Path
) -> None:
    pictures, results = tmp_path / "pictures", []
    (pictures / "3").mkdir(parents=True)
    more = sorted((png_folder / "3").iterdir())[:40]
    places = (f"{tmp_path}/disk", bucket)
    checksums = [train_through_a_kill(nanograd_process, head, place) for place in places]
    for files in (more[:20], more[20:]):
        for file in files:
            copyfile(file, pictures / "3" / file.name)
        results.append([read_pictures(nanograd_process, head, each, pictures) for each in places])

    assert checksums[0] == checksums[1]
    weights = {storage.read(f"{place}/run/model/model.safetensors") for place in places}
    assert len(weights) == 1
    for number, (disk, store) in zip((20, 40), results, strict=True):
        assert disk == store
        assert len(store[0]) == number
    assert [storage.leases(f"{bucket}/{name}") for name in ("run", "rows", "read")] == [[], [], []]
