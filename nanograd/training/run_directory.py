"""A run directory: its owner, its files, and the records written while nets are trained.

    RUN/  config.toml  metrics.jsonl  events.jsonl  checkpoints/  model/  report.html

Checkpoints and model carry the identity of the run, the settings and data that determine its bits.
The same command again continues the run or finds it complete; another run is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from time import gmtime, strftime
from typing import Any

from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.models import model as model_io
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import GroupEvent, Listener, info, warning
from nanograd.training import checkpoint
from nanograd.training.checkpoint import Checkpoint, CheckpointSaver, History
from nanograd.training.recipe import Recipe
from nanograd.training.server import first_snapshot

_CONTENTS = (
    "report.html", "plots", "tensorboard", "config.toml", "metrics.jsonl", "events.jsonl",
    "checkpoints", "model",
)  # fmt: skip
_LATER = "this line will be written with the next one"


class RunDirectory:
    """The files of a run.

    Args:
        place: folder or URI.
        identity: the settings and data that determine the bits of the result.
        num_nets: nets of the ensemble; records of several nets carry the number of theirs.
        check: raises if the directory no longer belongs to this process.
    """

    def __init__(
        self,
        place: str,
        identity: dict[str, Any],
        num_nets: int,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.place, self.identity, self._num_nets, self._check = place, identity, num_nets, check
        self.model = self._join("model")
        # Lines of events.jsonl: those of earlier commands, unless it was not read yet, and ours.
        self._earlier: list[dict[str, Any]] | None = None
        self._events: list[dict[str, Any]] = []

    def prepare(self, *, overwrite: bool) -> None:
        """Refuse a directory with foreign files; with `overwrite`, remove an earlier run.

        Raises:
            OutputExistsError: it holds a file that no run writes.
            StorageError: it cannot be emptied.
        """
        if foreign := sorted(set(storage.names(self.place)) - set(_CONTENTS)):
            raise OutputExistsError(
                f"{self.place} holds {foreign[0]!r}, which is not part of a run; "
                "choose another --output"
            )
        if overwrite:
            # The model's manifest goes first: without it, the rest is an unfinished run.
            storage.remove(storage.join(self.model, model_io.MANIFEST))
            for name in reversed(_CONTENTS):
                storage.remove(self._join(name))
        storage.remove_leftovers(self.place)

    def is_complete(self) -> bool:
        """Return whether this run's model exists; refuse that of another run."""
        if not storage.exists(storage.join(self.model, model_io.MANIFEST)):
            return False
        self.require_same(model_io.load(self.model).about["identity"])
        return True

    def require_same(self, identity: dict[str, Any]) -> None:
        """Raise OutputExistsError for the identity of another run."""
        for name, ours in self.identity.items():
            if identity.get(name) != ours:
                raise OutputExistsError(
                    f"{self.place} holds a run with {name} {identity.get(name)!r}, not {ours!r}; "
                    "choose another --output or replace it with --overwrite"
                )

    def resume(self, net: int, recipe: Recipe, listener: Listener) -> Checkpoint:
        """Return the newest checkpoint of a net, or the state before its first round."""
        found = checkpoint.newest(self._checkpoints(net), listener)
        if found is None:
            start = first_snapshot(recipe)
            return Checkpoint(identity=self.identity, snapshot=start, history=History())
        self.require_same(found.identity)
        listener(info(f"continuing after {found.snapshot.round:,} of {recipe.num_rounds:,} rounds"))
        return found

    def saver(self, net: int, start: Checkpoint, listener: Listener) -> CheckpointSaver:
        """Return the writer of the checkpoints of a net that continues from `start`."""
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
        """Write metrics.jsonl, a line for each epoch of each net; a failure is a warning."""
        rows = [
            self._of_net(net, asdict(epoch))
            for net, history in enumerate(histories)
            for epoch in history.epochs
        ]
        self._write_lines("metrics.jsonl", rows, listener)

    def record(self, net: int, event: GroupEvent, listener: Listener) -> None:
        """Append an event with its time (UTC) to events.jsonl; a failure is a warning."""
        time = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())
        self._events.append({"time": time, **self._of_net(net, event.record())})
        try:
            rows = [*self._read_events(listener), *self._events]
        except StorageError as error:
            listener(warning(f"{error}; {_LATER}"))
        else:
            self._write_lines("events.jsonl", rows, listener)

    def _read_events(self, listener: Listener) -> list[dict[str, Any]]:
        if self._earlier is None:
            try:
                self._earlier = json_files.read_lines(self._join("events.jsonl"))
            except DataError as error:
                self._earlier = []
                listener(warning(f"{error}; its lines are replaced"))
        return self._earlier

    def _write_lines(self, name: str, rows: list[dict[str, Any]], listener: Listener) -> None:
        try:
            if self._check is not None:
                self._check()
            storage.commit(self._join(name), json_files.encode_lines(rows))
        except StorageError as error:
            listener(warning(f"{error}; {_LATER}"))

    def _of_net(self, net: int, row: dict[str, Any]) -> dict[str, Any]:
        return {"net": net + 1, **row} if self._num_nets > 1 else row

    def _checkpoints(self, net: int) -> str:
        folder = self._join("checkpoints")
        return storage.join(folder, str(net)) if self._num_nets > 1 else folder

    def _join(self, name: str) -> str:
        return storage.join(self.place, name)
