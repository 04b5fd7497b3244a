"""A run directory: settings, metrics, events, checkpoints and model of a run.

    RUN/  config.toml  metrics.jsonl  events.jsonl  checkpoints/  model/  report.html

Checkpoints and model contain the identity of the run: the settings and data that determine its
bits. The same command continues the run, or finds it complete. A command with another identity is
refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from time import gmtime, strftime

from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.models import model as model_io
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import GroupEvent, Listener, info, warning
from nanograd.runtime.json_files import JsonObject
from nanograd.training import checkpoint
from nanograd.training.checkpoint import Checkpoint, CheckpointSaver, History
from nanograd.training.recipe import Recipe
from nanograd.training.server import first_snapshot

_CONTENTS = (
    "report.html", "plots", "tensorboard", "config.toml", "metrics.jsonl", "events.jsonl",
    "checkpoints", "model",
)  # fmt: skip
_LATER = "this line is written with the next one"


class RunDirectory:
    """The files of a run.

    Args:
        folder: folder or URI.
        identity: settings and data that determine the bits of the run.
        num_nets: number of nets; records of an ensemble contain the number of the net.
        check: called before each write; raises if another process has taken over the run.
    """

    def __init__(
        self,
        folder: str,
        identity: JsonObject,
        num_nets: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.identity, self._num_nets, self._check = folder, identity, num_nets, check
        self.model = self._join("model")
        # Lines of events.jsonl: from earlier commands, None before they are read; from this one.
        self._earlier: list[JsonObject] | None = None
        self._events: list[JsonObject] = []

    def prepare(self, *, overwrite: bool) -> None:
        """Refuse a directory with foreign files; with `overwrite`, remove an existing run.

        Raises:
            OutputExistsError: the directory contains a file that is not part of a run.
            StorageError: a file cannot be removed.
        """
        if foreign := sorted(set(storage.names(self.folder)) - set(_CONTENTS)):
            raise OutputExistsError(
                f"{self.folder} contains {foreign[0]!r}, which is not part of a run; "
                "choose another --output"
            )
        if overwrite:
            # Remove the manifest of the model first. Without it, the rest is an unfinished run.
            storage.remove(storage.join(self.model, model_io.MANIFEST))
            for name in reversed(_CONTENTS):
                storage.remove(self._join(name))
        storage.remove_leftovers(self.folder)

    def is_complete(self) -> bool:
        """Return whether the model exists; raise OutputExistsError if it is of another run."""
        if not storage.exists(storage.join(self.model, model_io.MANIFEST)):
            return False
        self.require_same(model_io.load(self.model).about["identity"])
        return True

    def require_same(self, identity: JsonObject) -> None:
        """Raise OutputExistsError if an identity differs from that of this run."""
        for name, ours in self.identity.items():
            if identity.get(name) != ours:
                raise OutputExistsError(
                    f"{self.folder} contains a run with {name} {identity.get(name)!r}, not "
                    f"{ours!r}; choose another --output or replace the run with --overwrite"
                )

    def resume(self, net: int, recipe: Recipe, listener: Listener) -> Checkpoint:
        """Return the newest checkpoint of a net, or the state before the first round."""
        found = checkpoint.newest(self._checkpoints(net), listener)
        if found is None:
            start = first_snapshot(recipe)
            return Checkpoint(identity=self.identity, snapshot=start, history=History())
        self.require_same(found.identity)
        listener(info(f"continuing after {found.snapshot.round:,} of {recipe.num_rounds:,} rounds"))
        return found

    def saver(self, net: int, start: Checkpoint, listener: Listener) -> CheckpointSaver:
        """Return a writer of checkpoints for a net that continues from `start`."""
        return CheckpointSaver(
            self._checkpoints(net),
            self.identity,
            listener,
            round_=start.snapshot.round,
            train_s=start.history.train_s,
            check=self._check,
        )

    def write_settings(self, toml: bytes) -> None:
        """Write config.toml."""
        storage.commit(self._join("config.toml"), toml)

    def write_metrics(self, histories: Sequence[History], listener: Listener) -> None:
        """Write metrics.jsonl with a line for each epoch; if that fails, emit a warning."""
        rows = [
            self._of_net(net, asdict(epoch))
            for net, history in enumerate(histories)
            for epoch in history.epochs
        ]
        self._write_lines("metrics.jsonl", rows, listener)

    def record(self, net: int, event: GroupEvent, listener: Listener) -> None:
        """Append an event with the time (UTC) to events.jsonl; if that fails, emit a warning."""
        time = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())
        self._events.append({"time": time, **self._of_net(net, event.record())})
        if self._earlier is None:
            try:
                self._earlier = json_files.read_lines(self._join("events.jsonl"))
            except DataError as error:
                self._earlier = []
                listener(warning(f"{error}; its lines are replaced"))
            except StorageError as error:
                listener(warning(f"{error}; {_LATER}"))
                return
        self._write_lines("events.jsonl", [*self._earlier, *self._events], listener)

    def _write_lines(self, name: str, rows: list[JsonObject], listener: Listener) -> None:
        try:
            self._check()
            storage.commit(self._join(name), json_files.encode_lines(rows))
        except StorageError as error:
            listener(warning(f"{error}; {_LATER}"))

    def _of_net(self, net: int, row: JsonObject) -> JsonObject:
        return {"net": net + 1, **row} if self._num_nets > 1 else row

    def _checkpoints(self, net: int) -> str:
        folder = self._join("checkpoints")
        return storage.join(folder, str(net)) if self._num_nets > 1 else folder

    def _join(self, name: str) -> str:
        return storage.join(self.folder, name)
