"""Metrics of a run for TensorBoard and MLflow, which are optional and imported only on demand."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import Any

from nanograd.errors import UnavailableError, UsageError, needs_package
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import EpochFinished, Event, Listener, TrainingFinished, warning
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.train_spec import TrainSpec

EXPERIMENT = "nanograd"
# Fields of an epoch to track; the other fields are counts.
_SCALARS = ("loss", "val_loss", "val_accuracy", "learning_rate", "images_per_s", "train_s")


@contextmanager
def trackers(folder: str, spec: TrainSpec, listener: Listener) -> Iterator[list[Listener]]:
    """Provide the listeners that report the run in a folder to TensorBoard and MLflow.

    When a tracker fails, `listener` receives a warning, and the run continues.

    Raises:
        UsageError: a package is not installed, or the URI of the MLflow server is invalid.
        UnavailableError: the tracking server does not answer.
    """
    if spec.mlflow == "":
        raise UsageError("--mlflow is empty; name a folder or the URI of a server")
    with ExitStack() as stack:
        found = []
        if spec.tensorboard:
            found.append(stack.enter_context(_tensorboard(folder)))
        if spec.mlflow is not None:
            found.append(stack.enter_context(_mlflow(spec.mlflow, folder, spec)))
        yield [guarded(each, listener) for each in found]


def guarded(tracker: Listener, listener: Listener) -> Listener:
    """Return a tracker that is dropped, with a warning, after its first failure."""
    works = True

    def relay(event: Event) -> None:
        nonlocal works
        if not works:
            return
        try:
            tracker(event)
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the run continues
            works = False
            listener(warning(f"metrics are no longer tracked ({error!r}); the output has them"))

    return relay


class _Epochs:
    """The epochs of a run that a tracker has not received, those of earlier commands included."""

    def __init__(self, folder: str) -> None:
        self._file, self._num_received = storage.join(folder, "metrics.jsonl"), 0

    def receive(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield round and scalars of each epoch; in an ensemble, their names begin with the net."""
        rows: list[JsonObject] = json_files.read_lines(self._file)
        for row in rows[self._num_received :]:
            prefix = f"net{row['net']}/" if "net" in row else ""
            values = {name: row[name] for name in _SCALARS if row[name] is not None}
            yield row["round"], {f"{prefix}{name}": float(each) for name, each in values.items()}
        self._num_received = len(rows)


@contextmanager
def _tensorboard(folder: str) -> Iterator[Listener]:
    """Provide a listener that writes event files into a local folder of a run.

    It replaces those of earlier commands, which may lack an epoch if a command was killed.
    """
    if storage.is_remote(folder):
        raise UsageError(f"--tensorboard writes to local folders; {folder} is not local")
    with needs_package("--tensorboard", "tensorboardX"):
        from tensorboardX import SummaryWriter
    with ExitStack() as stack:
        writer: Any = None
        epochs, place = _Epochs(folder), storage.join(folder, "tensorboard")

        def write(event: Event) -> None:
            nonlocal writer
            if not isinstance(event, EpochFinished | TrainingFinished):
                return
            received = list(epochs.receive())  # before earlier files are removed
            if writer is None:
                storage.remove(place)
                writer = stack.enter_context(SummaryWriter(logdir=place))
            for round_, values in received:
                for name, value in values.items():
                    writer.add_scalar(name, value, round_)
            writer.flush()

        yield write


@contextmanager
def _mlflow(uri: str, folder: str, spec: TrainSpec) -> Iterator[Listener]:
    """Provide a listener that logs a run, with its settings, to an MLflow server or folder."""
    # Otherwise MLflow reports each run to its makers.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # By default MLflow repeats failed requests for minutes. A failure ends only the tracking.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    # mlflow-skinny has no database, so a folder is the only local store.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    with needs_package("--mlflow", "mlflow-skinny"):
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
    try:
        client = MlflowClient(tracking_uri=uri)
        if not client.get_experiment_by_name(EXPERIMENT):
            with suppress(MlflowException):  # another run may create it at the same moment
                client.create_experiment(EXPERIMENT)
        known = client.get_experiment_by_name(EXPERIMENT)
    except (MlflowException, OSError) as error:
        if uri.startswith(("http://", "https://")):
            text = f"--mlflow {uri}: the server does not answer as MLflow"
            raise UnavailableError(text) from error
        raise UsageError(f"--mlflow {uri}: {str(error).splitlines()[0]}") from error
    if known is None:
        raise UsageError(f"--mlflow {uri}: the experiment {EXPERIMENT!r} cannot be created")
    run, epochs = "", _Epochs(folder)

    def log_metrics(step: int, values: dict[str, float]) -> None:
        now = round(1000 * time())
        client.log_batch(run, metrics=[Metric(*each, now, step) for each in values.items()])

    def log(event: Event) -> None:
        nonlocal run
        if isinstance(event, EpochFinished):
            if not run:
                run = client.create_run(known.experiment_id, run_name=folder).info.run_id
                params = [Param(name, str(value)) for name, value in spec.identity().items()]
                client.log_batch(run, params=params)
            for each in epochs.receive():
                log_metrics(*each)
        elif isinstance(event, TrainingFinished) and run:
            result = event.result
            log_metrics(result["rounds"], {"test_accuracy": result["test_accuracy"]})
            with TemporaryDirectory() as copy:  # the model may be in an object store
                for name in storage.names(result["model"]):
                    data = storage.read(storage.join(result["model"], name))
                    Path(copy, name).write_bytes(data)
                client.log_artifacts(run, copy, "model")

    status = "FAILED"
    try:
        yield log
        status = "FINISHED"
    finally:
        if run:
            with suppress(Exception):  # the run is over, so a failure does not matter
                client.set_terminated(run, status)
