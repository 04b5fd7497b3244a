import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanograd import commands
from nanograd.config.train_config import TrainConfig
from nanograd.errors import UsageError
from nanograd.report.trackers import EXPERIMENT, guarded, trackers
from nanograd.runtime.events import EpochFinished, EpochMetrics, Event, Level, info

# What MLflow and TensorBoard's writer do themselves is not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore:::mlflow"),
    pytest.mark.filterwarnings("ignore:::tensorboardX"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def train(tmp_path: Path, **settings: object) -> list[dict[str, object]]:
    """Train two nets for two epochs; the rows of metrics.jsonl."""
    place = tmp_path / "run"
    config = TrainConfig.resolve(
        {"data": "sample", "workers": 0, "epochs": 2, "hidden": 8, "output": str(place)}, settings
    )
    commands.train(config, [].append)
    return [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]


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


def test_tensorboard_has_the_figures_of_every_epoch(tmp_path: Path) -> None:
    rows = train(tmp_path, tensorboard=True, committee=2)

    found = {(step, name): value for step, name, value in events(tmp_path / "run/tensorboard")}
    expected = {
        (row["round"], f"net{row['net']}/{name}"): row[name]
        for row in rows
        for name in ("loss", "val_accuracy", "learning_rate", "images_per_s", "train_s")
    }
    assert found == pytest.approx(expected, rel=1e-6)


def test_run_with_tensorboard_can_be_trained_again(tmp_path: Path) -> None:
    train(tmp_path, tensorboard=True)
    train(tmp_path, tensorboard=True, overwrite=True, epochs=1)

    assert {step for step, _, _ in events(tmp_path / "run/tensorboard")} == {8}


def test_mlflow_has_settings_figures_and_the_end(tmp_path: Path) -> None:
    uri = (tmp_path / "mlruns").as_uri()

    rows = train(tmp_path, mlflow=uri)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    [run] = client.search_runs([experiment.experiment_id])
    loss = client.get_metric_history(run.info.run_id, "loss")
    assert [(each.step, each.value) for each in loss] == [
        (row["round"], row["loss"]) for row in rows
    ]
    assert run.data.params["hidden"] == "8"
    assert 0 < run.data.metrics["test_accuracy"] <= 1
    assert run.info.status == "FINISHED"


def test_mlflow_knows_a_run_that_failed(tmp_path: Path) -> None:
    uri = (tmp_path / "mlruns").as_uri()
    metrics = EpochMetrics(
        epoch=1,
        round=7,
        loss=0.5,
        val_accuracy=None,
        learning_rate=0.1,
        train_s=1.0,
        images_per_s=193,
    )
    epoch = EpochFinished(metrics=metrics)

    with (
        pytest.raises(KeyboardInterrupt),
        trackers("run", {}, False, uri, [].append) as [tracker],
    ):
        tracker(epoch)
        raise KeyboardInterrupt

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    [run] = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert run.info.status == "FAILED"


def test_tracker_that_fails_is_reported_once_and_dropped() -> None:
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
    ("module", "settings", "extra"),
    [
        ("tensorboardX", {"tensorboard": True}, "tensorboard"),
        ("mlflow", {"mlflow": "file:///tmp"}, "mlflow"),
    ],
)
def test_missing_extra_is_named_before_anything_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    settings: dict[str, object],
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(UsageError, match=rf"pip install 'nanograd\[{extra}\]'"):
        train(tmp_path, **settings)

    assert not (tmp_path / "run").exists()


def test_what_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_PASSWORD"):
        train(tmp_path, mlflow="https://ann:secret@example.org")
    with (
        pytest.raises(UsageError, match="local folders"),
        trackers("s3://bucket/run", {}, True, None, [].append),
    ):
        pass
    with pytest.raises(UsageError, match="--mlflow"):
        train(tmp_path, mlflow="nosuchscheme://x")
