"""Ray's own metrics, scraped as Prometheus does it."""

import os
import re
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.request import urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from nanograd import commands
from nanograd.backends import ray_metrics
from nanograd.digits.dataset import Mnist
from nanograd.distributed.prometheus import RayMetrics
from nanograd.runtime.events import Event, FailureKind, JobProgress, WorkerFailed
from nanograd.settings.specs import PredictSpec
from nanograd.settings.train_spec import TrainSpec

Labels = dict[str, str]


def scrape() -> list[tuple[str, Labels, float]]:
    """Name, labels and value of all our metrics at the node's endpoint."""
    [node] = [each for each in ray.nodes() if each["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    lines = re.findall(r"^(ray_nanograd_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE)
    return [
        (name, dict(re.findall(r'(\w+)="(.*?)"', labels)), float(v)) for name, labels, v in lines
    ]


def wait_for(output: str, **expected: float) -> dict[str, float]:
    """All metrics of a job by name, once they have these values; Ray sends them every 10 s."""
    found: dict[str, float] = {}
    deadline = monotonic() + 60
    while monotonic() < deadline:
        found = {name: value for name, labels, value in scrape() if labels["output"] == output}
        if all(found.get(f"ray_nanograd_{name}") == value for name, value in expected.items()):
            return found
        sleep(0.5)
    pytest.fail(f"no {expected} within a minute but {found}")


def test_training_counts_rounds_images_and_workers(ray_cpus: int, tmp_path: Path) -> None:
    place = str(tmp_path / "läufe 1" / "run")
    config = TrainSpec(data="sample", workers=2, epochs=3, hidden=8, variants=0.0, output=place)

    figures = commands.train(spec=config, listener=[].append).to_json()

    found = wait_for(place.replace("ä", "%C3%A4"), rounds_total=figures["rounds"])
    assert found["ray_nanograd_images_total"] == 3 * 3600
    assert found["ray_nanograd_workers"] == 2
    assert found["ray_nanograd_validation_accuracy"] == pytest.approx(figures["val_accuracy"])
    assert found["ray_nanograd_loss"] > 0
    assert found["ray_nanograd_round_seconds_sum"] > 0
    assert found["ray_nanograd_round_seconds_count"] >= 3


def test_failed_worker_is_counted(ray_cpus: int) -> None:
    RayMetrics("train", "place")(WorkerFailed(rank=1, round=7, how=FailureKind.KILLED, heirs={}))

    wait_for("place", lost_workers_total=1)


def test_prediction_counts_rows_and_quarantine(
    ray_cpus: int, tmp_path: Path, sample: Mnist
) -> None:
    place = str(tmp_path / "run")
    config = TrainSpec(data="sample", workers=0, epochs=1, hidden=8, output=place)
    model = commands.train(spec=config, listener=[].append).to_json()["model"]
    digits: list[Any] = [image.tobytes() for image in sample.test.images[:193]]
    pq.write_table(pa.table({"image": [*digits, b"no picture"]}), tmp_path / "rows.parquet")
    out = str(tmp_path / os.fsdecode(b"l\xe4ufe"))

    commands.predict(
        [str(tmp_path / "rows.parquet")],
        spec=PredictSpec(model=model, output=out, workers=1),
        listener=[].append,
    )

    found = wait_for(str(tmp_path / "l%E4ufe"), rows_total=194)
    assert found["ray_nanograd_quarantined_total"] == 1


def test_metric_that_fails_is_a_warning_and_ends_no_job(ray_cpus: int) -> None:
    events: list[Event] = []
    [update] = ray_metrics(PredictSpec(model="m", output="o"), "predict", "o", events.append)
    progress = JobProgress(
        command="predict", part=1, parts=2, row=7, rows=9, rows_per_s=1.0, quarantined=0,
        time_s=1.0, left_s=None, complete=False,
    )  # fmt: skip

    update(progress)
    update(replace(progress, row="no number"))
    update(replace(progress, row=9))

    assert ["metrics are no longer tracked" in str(event) for event in events] == [True]
