"""Figures of a run for TensorBoard and MLflow, extras that are imported only if asked for."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from time import time
from typing import Any

from nanograd.errors import UsageError
from nanograd.runtime import storage
from nanograd.runtime.events import Figures, Show

EXPERIMENT = "nanograd"
# Of an epoch's row, what is a figure and no number of something.
_SCALARS = ("loss", "val_accuracy", "learning_rate", "images_per_s", "train_s")

Say = Callable[[str], None]


@contextmanager
def trackers(
    place: str, settings: Mapping[str, Any], tensorboard: bool, mlflow: str | None, say: Say
) -> Iterator[list[Show]]:
    """Who else is shown the figures of a run, until it ends.

    Args:
        place: the run directory.
        settings: of the run, resolved.
        tensorboard: whether to write RUN/tensorboard.
        mlflow: an MLflow tracking URI, or None.
        say: told when one of them fails; that ends no run.

    Raises:
        UsageError: an extra is not installed, or what was asked for cannot be reached.
    """
    with ExitStack() as stack:
        found: list[TensorBoard | MLflow] = []
        if tensorboard:
            found.append(TensorBoard(storage.join(place, "tensorboard")))
        if mlflow is not None:
            found.append(MLflow(mlflow, place, settings))
        for each in found:
            stack.push(each.close)
        yield [guarded(each.show, say) for each in found]


def guarded(show: Show, say: Say) -> Show:
    """Somebody who is shown figures until that fails once, which is said."""
    works = True

    def try_(figures: Figures) -> None:
        nonlocal works
        if not works:
            return
        try:
            show(figures)
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the run goes on
            works = False
            say(f"WARNING: figures are not tracked any more ({error!r}); metrics.jsonl has them")

    return try_


def scalars(figures: Figures) -> dict[str, float]:
    """The figures of an epoch by name, those of a committee's nets apart.

    >>> scalars({"event": "epoch", "net": 2, "nets": 2, "loss": 0.5, "val_accuracy": None})
    {'net2/loss': 0.5}
    """
    prefix = f"net{figures['net']}/" if figures["nets"] > 1 else ""
    return {
        f"{prefix}{name}": float(figures[name])
        for name in _SCALARS
        if figures.get(name) is not None
    }


class TensorBoard:
    """Writes event files.

    Args:
        folder: where; made with the first figures.

    Raises:
        UsageError: the extra is not installed, or the folder is in an object store.
    """

    def __init__(self, folder: str) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise _missing("--tensorboard", "tensorboard", error) from error
        if "://" in folder:
            raise UsageError(f"--tensorboard writes to local folders; {folder} is none")
        self._open: Callable[[], Any] = partial(SummaryWriter, logdir=folder)
        self._writer: Any = None

    def show(self, figures: Figures) -> None:
        """Write the figures of an epoch."""
        if figures["event"] != "epoch":
            return
        self._writer = self._writer or self._open()
        for name, value in scalars(figures).items():
            self._writer.add_scalar(name, value, figures["round"])
        self._writer.flush()

    def close(self, *_: object) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """Logs a run to an MLflow server or folder.

    Args:
        uri: its tracking URI.
        name: of the run.
        settings: logged as its parameters.

    Raises:
        UsageError: the extra is not installed, the URI holds a password, or nobody answers there.
    """

    def __init__(self, uri: str, name: str, settings: Mapping[str, Any]) -> None:
        if "@" in uri:
            raise UsageError(
                "--mlflow is kept in files: put user and password into MLFLOW_TRACKING_USERNAME "
                "and MLFLOW_TRACKING_PASSWORD"
            )
        # It would tell its makers of each run.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # Without a database, which the small client does not bring, a folder is what there is.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise _missing("--mlflow", "mlflow", error) from error
        try:
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(EXPERIMENT)
            self._experiment = (
                found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
            )
        except (MlflowException, OSError) as error:
            raise UsageError(f"--mlflow {uri}: {str(error).splitlines()[0]}") from error
        self._name, self._settings, self._run = name, settings, ""

    def show(self, figures: Figures) -> None:
        """Log the figures of an epoch, or the last one."""
        if figures["event"] == "epoch":
            self._log(scalars(figures), figures["round"])
        elif figures["event"] == "result" and self._run:
            self._log({"test_accuracy": figures["test_accuracy"]}, figures["rounds"])

    def close(self, error: object = None, *_: object) -> None:
        """Say how the run ended."""
        if self._run:
            end = partial(self._client.set_terminated, self._run)
            guarded(lambda _: end("FAILED" if error else "FINISHED"), lambda _: None)({})

    def _log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run or self._begin(), metrics=metrics)

    def _begin(self) -> str:
        from mlflow.entities import Param

        self._run = self._client.create_run(self._experiment, run_name=self._name).info.run_id
        params = [Param(name, str(value)) for name, value in self._settings.items()]
        self._client.log_batch(self._run, params=params)
        return self._run


def _missing(flag: str, extra: str, error: ImportError) -> UsageError:
    return UsageError(f"{flag} needs an extra: pip install 'nanograd[{extra}]' ({error})")
