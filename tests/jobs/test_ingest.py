import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, OutputExistsError
from nanograd.images.writers import write_pictures
from nanograd.jobs import ingest as ingest_parts
from nanograd.jobs import predict as predict_parts
from nanograd.jobs.job import run_job
from nanograd.jobs.part import run_local
from nanograd.jobs.receipts import Counts
from nanograd.settings.specs import IngestSpec, PredictSpec
from tests.helpers.folders import untimed_contents
from tests.helpers.ingests import image_of, ingest, read_rows


@pytest.fixture
def png(tmp_path: Path, sample: Mnist) -> Path:
    """19 digits of the sample as PNG files, a folder a class."""
    write_pictures(sample.test.take(slice(0, 19)), str(tmp_path / "png"))
    return tmp_path / "png"


@pytest.mark.parametrize(("part_rows", "lengths"), [(1, [1] * 19), (7, [5, 7, 7]), (19, [19])])
def test_pictures_in_mnists_form_keep_their_bytes_and_labels(out, png, sample, part_rows, lengths):
    figures, rows = ingest(out, png, part_rows=part_rows), read_rows(out)

    assert sorted(len(pq.read_table(part)) for part in out.glob("part-*.parquet")) == lengths
    files = sorted(str(path) for path in png.rglob("*.png"))
    assert [row["image"]["path"] for row in rows] == files
    assert [row["label"] for row in rows] == [int(Path(file).parent.name) for file in files]
    assert [row["image"]["bytes"] for row in rows] == [Path(file).read_bytes() for file in files]
    first = image_of(rows[0]).reshape(784)
    assert np.array_equal(first, sample.test.images[int(Path(files[0]).stem)])
    assert figures["rows"] == figures["ingested"] == figures["labelled"] == 19
    assert (figures["quarantined"], figures["reasons"]) == (0, {})


def test_pictures_that_are_all_lost_are_an_error_as_for_predict(tmp_path, out, png):
    ingest(out, png)
    (png / "7.png").write_bytes(b"")

    for _ in range(2):
        with pytest.raises(DataError, match=r"1 of 1 rows are unusable .*empty.*/_quarantine"):
            ingest(out, png)
        assert ingest(out, png, dry_run=True)["rows_to_do"] == 1
    shutil.copy(next(png.glob("*/*.png")), png / "7.png")

    assert ingest(out, png)["ingested"] == len(read_rows(out)) == 20


@pytest.mark.parametrize("command", [ingest_parts, predict_parts])
@pytest.mark.parametrize("change", [Path.unlink, os.utime, lambda file: file.write_bytes(b"PK")])
def test_archive_that_changes_after_the_job_began_ends_it(out, png, command, change):
    """Without the archive, its pictures would be lost, and others would be left."""
    archive = Path(shutil.make_archive(str(png / "scans"), "zip", png))
    spec = {ingest_parts: IngestSpec, predict_parts: PredictSpec}[command](output=str(out))
    job, work = command.plan([str(png)], spec)
    change(archive)

    with pytest.raises(DataError, match=r"scans\.zip was changed after the job began; start"):
        run_job(job, run_local(work))

    archive.unlink(missing_ok=True)
    job, work = command.plan([str(png)], spec)
    picture = next(png.glob("*/*.png"))
    os.utime(picture)
    with pytest.raises(DataError, match=rf"{picture.name} was changed after the job began"):
        run_job(job, run_local(work))

    job, work = command.plan([str(png)], spec)
    assert Counts.total(run_job(job, run_local(work)).receipts).quarantined == 0


@pytest.mark.parametrize("settings", [{}, {"part_rows": 3}, {"overwrite": True}])
def test_more_pictures_are_added(out, png, settings):
    ingest(out, png, part_rows=7)
    before = untimed_contents(out)
    shutil.copy(next(png.rglob("*.png")), png / "7_more.png")

    figures = ingest(out, png, **settings)

    kept = {name for name, data in untimed_contents(out).items() if before.get(name) == data}
    parts = {name for name in kept if name.startswith("part-")}
    assert figures["ingested"] == len(read_rows(out)) == 20
    assert len(parts) == (0 if "overwrite" in settings else 3)


def test_other_labels_are_named_and_replaced_by_sync(out, png):
    ingest(out, png)

    with pytest.raises(OutputExistsError, match=r"19 input files changed, or got another label"):
        ingest(out, png, label_from="none")
    figures = ingest(out, png, label_from="none", sync=True)

    assert figures["labelled"] == 0
    assert {row["label"] for row in read_rows(out)} == {None}
