import os
import re
from dataclasses import replace
from typing import Any
from urllib.request import urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from nanograd import batch, commands
from nanograd.distributed.prometheus import RayMetrics
from nanograd.models import model as model_io
from nanograd.report.trackers import guarded
from nanograd.runtime.events import Event, changed
from nanograd.settings.specs import PredictSpec
from nanograd.settings.train_spec import TrainSpec
from simulators.waiting import wait_for
from tests.helpers.events import ROWS
from tests.helpers.models import some_model


def metrics_of(output: str, *others: str, **expected: object) -> dict[str, float]:
    """All metrics of a job by name, once some have the expected values and there are others.

    Ray sends its metrics every 10 s, and a message may lack some metrics of an event.
    """
    [node] = [each for each in ray.nodes() if each["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: dict[str, float] = {}

    def has_arrived() -> bool:
        with urlopen(url, timeout=10) as answer:
            lines = re.findall(r"(?m)^ray_nanograd_(\w+)\{(.*)\} (\S+)$", answer.read().decode())
        for name, labels, value in lines:
            if f'output="{output}"' in labels:
                found[name] = float(value)
        return found.keys() >= set(others) and found.items() >= expected.items()

    try:
        wait_for(has_arrived, f"no {expected} and {others}", every_s=0.5)
    except AssertionError as error:
        raise AssertionError(f"{error}, but {found}") from None
    return found


def test_training_counts_rounds_images_and_workers(ray_cpus, tmp_path):
    place = str(tmp_path / "läufe 1" / "run")
    config = TrainSpec(data="sample", workers=1, epochs=3, hidden=8, variants=0.0, output=place)

    figures = commands.train(spec=config, listener=[].append).to_json()

    found = metrics_of(
        place.replace("ä", "%C3%A4"),
        "loss",
        "round_seconds_count",
        "round_seconds_sum",
        rounds_total=figures["rounds"],
        images_total=3 * 3600,
        workers=1,
        validation_accuracy=pytest.approx(figures["val_accuracy"]),
    )
    assert found["loss"] > 0
    assert found["round_seconds_sum"] > 0
    assert found["round_seconds_count"] >= 3


def test_failed_worker_is_counted(ray_cpus):
    RayMetrics("train", "place")(changed("lost"))

    metrics_of("place", lost_workers_total=1)


def test_prediction_counts_rows_and_quarantine(ray_cpus, tmp_path, sample):
    model_io.save(some_model(), str(tmp_path / "model"))
    digits: list[Any] = [image.tobytes() for image in sample.test.images[:193]]
    rows, out = str(tmp_path / "rows.parquet"), str(tmp_path / os.fsdecode(b"l\xe4ufe"))
    pq.write_table(pa.table({"image": [*digits, b"no picture"]}), rows)

    spec = PredictSpec(model=str(tmp_path / "model"), output=out, workers=1)
    batch.predict([rows], spec=spec, listener=[].append)

    metrics_of(str(tmp_path / "l%E4ufe"), rows_total=194, quarantined_total=1)


def test_metric_that_fails_is_a_warning_and_ends_no_job(ray_cpus):
    events: list[Event] = []
    update = guarded(RayMetrics("predict", "o"), events.append)

    for row in (7, "no number", 9):
        update(replace(ROWS, row=row))

    assert ["no longer tracked" in str(event) for event in events] == [True]
