"""Metrics of a run for TensorBoard and MLflow, extras that are imported only on demand."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import Any

from nanograd.errors import UnavailableError, UsageError
from nanograd.runtime import storage
from nanograd.runtime.events import EpochFinished, Event, Listener, TrainingFinished, warning
from nanograd.settings.train_spec import TrainSpec

EXPERIMENT = "nanograd"
# The scalars of an epoch; the rest are counts.
_SCALARS = ("loss", "val_accuracy", "learning_rate", "images_per_s", "train_s")


@contextmanager
def trackers(folder: str, spec: TrainSpec, listener: Listener) -> Iterator[list[Listener]]:
    """Provide the listeners that track a run, until it ends.

    Args:
        folder: the run directory; event files of TensorBoard go to its folder `tensorboard`.
        spec: settings of the run.
        listener: receives a warning when a tracker fails; the run continues.

    Raises:
        UsageError: an extra is not installed, or a tracking URI is invalid.
        UnavailableError: the tracking server does not answer.
    """
    with ExitStack() as stack:
        found: list[TensorBoard | MLflow] = []
        if spec.tensorboard:
            found.append(TensorBoard(storage.join(folder, "tensorboard")))
        if spec.mlflow is not None:
            found.append(MLflow(spec.mlflow, folder, spec.identity()))
        for each in found:
            stack.push(each.close)
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


def scalars(event: EpochFinished) -> dict[str, float]:
    """Return the scalars of an epoch by name, with a prefix for each net of an ensemble."""
    prefix = f"net{event.net}/" if event.nets > 1 else ""
    values = {name: getattr(event.metrics, name) for name in _SCALARS}
    return {f"{prefix}{name}": float(each) for name, each in values.items() if each is not None}


class TensorBoard:
    """A listener that writes event files into a local folder, created with the first epoch."""

    def __init__(self, folder: str) -> None:
        if storage.is_remote(folder):
            raise UsageError(f"--tensorboard writes to local folders; {folder} is not local")
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise _missing("--tensorboard", "tensorboardX", error) from error
        self._open: Callable[[], Any] = partial(SummaryWriter, logdir=folder)
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        """Write the scalars of a finished epoch."""
        if not isinstance(event, EpochFinished):
            return
        self._writer = self._writer or self._open()
        for name, value in scalars(event).items():
            self._writer.add_scalar(name, value, event.metrics.round)
        self._writer.flush()

    def close(self, *_: object) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """A listener that logs a run, with its settings, to an MLflow server or folder."""

    def __init__(self, uri: str, name: str, settings: Mapping[str, Any]) -> None:
        # Otherwise it reports each run to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # By default it tries for minutes; later failures end the tracking, not the run.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        # The small client brings no database: a folder is the only local store.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise _missing("--mlflow", "mlflow-skinny", error) from error
        try:
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(EXPERIMENT)
            create = self._client.create_experiment
            self._experiment = found.experiment_id if found else create(EXPERIMENT)
        except (MlflowException, OSError) as error:
            if uri.startswith(("http://", "https://")):
                raise UnavailableError(
                    f"--mlflow {uri}: the server does not answer as MLflow"
                ) from error
            raise UsageError(f"--mlflow {uri}: {str(error).splitlines()[0]}") from error
        self._params = [Param(key, str(value)) for key, value in settings.items()]
        self._metric, self._name, self._run = Metric, name, ""

    def __call__(self, event: Event) -> None:
        """Log a finished epoch, or the end of the run."""
        if isinstance(event, EpochFinished):
            if not self._run:
                run = self._client.create_run(self._experiment, run_name=self._name)
                self._run = run.info.run_id
                self._client.log_batch(self._run, params=self._params)
            self._log(scalars(event), event.metrics.round)
        elif isinstance(event, TrainingFinished) and self._run:
            result = event.result
            self._log({"test_accuracy": result["test_accuracy"]}, result["rounds"])
            with TemporaryDirectory() as folder:  # the model may be in an object store
                for name in storage.names(result["model"]):
                    data = storage.read(storage.join(result["model"], name))
                    Path(folder, name).write_bytes(data)
                self._client.log_artifacts(self._run, folder, "model")

    def close(self, error: object = None, *_: object) -> None:
        """Set the state of the run: finished or failed."""
        if self._run:
            with suppress(Exception):  # the run is over; a server that is gone changes nothing
                self._client.set_terminated(self._run, "FAILED" if error else "FINISHED")

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = round(1000 * time())
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)


def _missing(flag: str, package: str, error: ImportError) -> UsageError:
    return UsageError(f"{flag} needs the package {package}: pip install {package} ({error})")
