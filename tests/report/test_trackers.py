import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from nanograd import commands
from nanograd.errors import UnavailableError, UsageError
from nanograd.models.model import load
from nanograd.report.trackers import EXPERIMENT, guarded, trackers
from nanograd.runtime.events import Event, Level, info
from nanograd.runtime.json_files import encode_lines
from nanograd.settings.train_spec import TrainSpec
from tests.helpers.events import EPOCH

# Warnings of MLflow and of TensorBoard's writer themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:::mlflow"),
    pytest.mark.filterwarnings("ignore:::tensorboardX"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def train(tmp_path: Path, **settings: object) -> list[dict[str, object]]:
    """Train two nets for two epochs; the rows of metrics.jsonl."""
    defaults = {"data": "sample", "epochs": 2, "hidden": 8, "output": tmp_path / "run"}
    return list(commands.train(**{**defaults, **settings}, listener=[].append).metrics)


def events(folder: Path) -> Iterator[tuple[int, str, float]]:
    """Step, name and value of all scalars in TensorBoard's files (records with two checksums)."""
    from tensorboardX.proto.event_pb2 import Event as Record

    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Record.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


def mlflow_run(uri: str) -> tuple[Any, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    [run] = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    return client, run


def test_tensorboard_has_the_figures_of_every_epoch_of_the_last_training(tmp_path):
    rows = train(tmp_path, tensorboard=True, ensemble=2)

    found = {(step, name): value for step, name, value in events(tmp_path / "run/tensorboard")}
    expected = {
        (row["round"], f"net{row['net']}/{name}"): row[name]
        for row in rows
        for name in ("loss", "val_loss", "val_accuracy", "learning_rate", "images_per_s", "train_s")
    }
    assert found == pytest.approx(expected, rel=1e-6)

    train(tmp_path, tensorboard=True, overwrite=True, epochs=1)

    assert {step for step, _, _ in events(tmp_path / "run/tensorboard")} == {8}


def test_trackers_of_a_continued_run_have_settings_all_epochs_and_the_end(tmp_path):
    uri, continued = (tmp_path / "mlruns").as_uri(), {"schedule": "constant", "cool_down": 0}
    train(tmp_path, **continued, epochs=1)

    rows = train(tmp_path, **continued, mlflow=uri, tensorboard=True)

    client, run = mlflow_run(uri)
    loss = client.get_metric_history(run.info.run_id, "loss")
    assert [(each.step, each.value) for each in loss] == [
        (row["round"], row["loss"]) for row in rows
    ]
    assert len(rows) == 2
    written = [step for step, name, _ in events(tmp_path / "run/tensorboard") if name == "loss"]
    assert written == [row["round"] for row in rows]
    assert run.data.params["hidden"] == "8"
    assert not {"output", "workers", "quiet"} & set(run.data.params)
    copy = client.download_artifacts(run.info.run_id, "model", str(tmp_path))
    assert load(copy).sha256() == load(str(tmp_path / "run/model")).sha256()
    assert 0 < run.data.metrics["test_accuracy"] <= 1
    assert run.info.status == "FINISHED"


def test_runs_that_start_together_share_a_new_store(tmp_path):
    spec = TrainSpec(mlflow=(tmp_path / "mlruns").as_uri())

    def start(number: int) -> int:
        with trackers(str(tmp_path / f"{number}"), spec, [].append):
            return number

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(start, range(16))) == list(range(16))


def test_mlflow_marks_a_run_that_failed(tmp_path):
    spec = TrainSpec(mlflow=(tmp_path / "mlruns").as_uri())
    row = asdict(replace(EPOCH.metrics, val_accuracy=None))
    (tmp_path / "metrics.jsonl").write_bytes(encode_lines([row]))

    with pytest.raises(KeyboardInterrupt), trackers(str(tmp_path), spec, [].append) as [tracker]:
        tracker(EPOCH)
        raise KeyboardInterrupt

    _, run = mlflow_run(str(spec.mlflow))
    assert run.info.status == "FAILED"


def test_tracker_that_fails_is_reported_once_and_dropped():
    warnings: list[Event] = []
    received: list[object] = []

    def fails(event: Event) -> None:
        received.append(event)
        raise ConnectionError("gone")

    tracker = guarded(fails, warnings.append)
    tracker(info("first"))
    tracker(info("second"))

    [warning], [_] = warnings, received
    assert warning.level is Level.WARNING
    assert "metrics are no longer tracked" in str(warning)


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"mlflow": "https://ann:secret@example.org"}, UsageError, "MLFLOW_TRACKING_PASSWORD"),
        ({"mlflow": "nosuchscheme://x"}, UsageError, "mlflow nosuchscheme://x: "),
        ({"mlflow": ""}, UsageError, "mlflow is empty"),
        ({"mlflow": "http://127.0.0.1:9"}, UnavailableError, "mlflow http"),
        ({"tensorboard": True, "output": "s3://bucket/run"}, UsageError, "local folders"),
        ({"tensorboard": True, "missing": "tensorboardX"}, UsageError, "install tensorboardX "),
        ({"mlflow": "file:///tmp", "missing": "mlflow"}, UsageError, "install mlflow-skinny "),
    ],
)
def test_trackers_that_cannot_work_are_refused_before_anything_is_trained(
    tmp_path, monkeypatch, settings, error, named
):
    monkeypatch.setitem(sys.modules, settings.pop("missing", ""), None)

    with pytest.raises(error, match=named):
        train(tmp_path, **settings)

    assert not (tmp_path / "run").exists()
