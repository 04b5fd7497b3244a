"""A run directory: settings, metrics, events, checkpoints and model of a run.

Checkpoints and model contain the identity of the run: the settings and the checksums of the data
and initial weights that determine its bits. A command with the same identity continues an
unfinished run, and leaves a complete run as it is. A command with more epochs continues both, if
the first epochs do not depend on their number. A command with another identity is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from time import gmtime, strftime

from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.models import model as model_io
from nanograd.nn.optimizers import Vector
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import GroupEvent, Listener, ignore, info, warning
from nanograd.runtime.json_files import JsonObject
from nanograd.training import checkpoint
from nanograd.training.checkpoint import Checkpoint, CheckpointSaver, History
from nanograd.training.recipe import Recipe
from nanograd.training.server import first_snapshot

_CONTENTS = (
    "report.html", "plots", "tensorboard", "config.toml", "metrics.jsonl", "events.jsonl",
    "checkpoints", "model",
)  # fmt: skip


class RunDirectory:
    """The files of a run.

    Args:
        folder: folder or URI.
        identity: settings and data that determine the bits of the run.
        num_nets: number of nets; if it is above 1, each record contains the index of its net.
        listener: receives messages.
        check: called before each write; raises if another process has taken over the run.
    """

    def __init__(
        self,
        folder: str,
        identity: JsonObject,
        num_nets: int,
        listener: Listener = ignore,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.identity, self._num_nets = folder, identity, num_nets
        self._listener, self._check = listener, check
        self.model = storage.join(folder, "model")
        # Lines of events.jsonl from earlier commands (None until they are read), and from this one.
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
            # Remove the model's manifest first, because the run counts as unfinished without it.
            storage.remove(storage.join(self.model, model_io.MANIFEST))
            for name in reversed(_CONTENTS):
                storage.remove(storage.join(self.folder, name))
        storage.remove_leftovers(self.folder)

    def is_complete(self) -> bool:
        """Return whether the model exists; OutputExistsError: it belongs to another run."""
        if not storage.exists(storage.join(self.model, model_io.MANIFEST)):
            return False
        identity = model_io.load(self.model).about["identity"]
        self.require_same(identity)
        return bool(identity.get("epochs") == self.identity.get("epochs"))

    def require_same(self, identity: JsonObject) -> None:
        """Raise OutputExistsError unless `identity`, found in the directory, is this run's.

        The directory may also hold a run that differs only by having fewer epochs, which this run
        continues, if the rounds of both are equal up to there: the learning rate is constant, and
        distortions do not decrease.
        """
        ours = self.identity
        differing = [name for name in ours if identity.get(name) != ours[name]]
        if not differing:
            return
        name, remedy = differing[0], "choose another --output or replace the run with --overwrite"
        if differing == ["epochs"] and ours["epochs"] > identity.get("epochs", ours["epochs"]):
            if ours["schedule"] == "constant" and not ours["cool_down"]:
                return
            remedy = (
                "it cannot go on, because its learning rate or its distortions change until the "
                f"last epoch; train on its weights with --resume-from {self.folder} and another "
                "--output"
            )
        raise OutputExistsError(
            f"{self.folder} contains a run with {name} {identity.get(name)!r}, not {ours[name]!r}; "
            f"{remedy}"
        )

    def remove_report(self) -> None:
        """Remove the report of a model that will be replaced."""
        for name in ("report.html", "plots"):
            storage.remove(storage.join(self.folder, name))

    def resume(
        self, net: int, recipe: Recipe, initial: Vector | None
    ) -> tuple[Checkpoint, CheckpointSaver]:
        """Return the newest checkpoint of a net, or its first state, and a saver for later ones.

        Args:
            net: index of the net.
            recipe: recipe of the net.
            initial: (P,) parameters of its first state; None for random parameters.
        """
        folder = storage.join(self.folder, "checkpoints")
        folder = storage.join(folder, str(net)) if self._num_nets > 1 else folder
        start = checkpoint.newest(folder, self._listener)
        if start is None:
            first = first_snapshot(recipe, initial)
            start = Checkpoint(identity=self.identity, snapshot=first, history=History())
        else:
            self.require_same(start.identity)
            done = f"{start.snapshot.round:,} of {recipe.num_rounds:,} rounds"
            self._listener(info(f"continuing after {done}"))
            start = replace(start, identity=self.identity)
        return start, CheckpointSaver(folder, start, self._listener, self._check)

    def write_metrics(self, histories: Sequence[History]) -> None:
        """Write metrics.jsonl with a line for each epoch; if that fails, emit a warning."""
        rows = [
            self._of_net(net, asdict(epoch))
            for net, history in enumerate(histories)
            for epoch in history.epochs
        ]
        self._write_lines("metrics.jsonl", rows)

    def record(self, net: int, event: GroupEvent) -> None:
        """Append an event with the time (UTC) to events.jsonl; if that fails, emit a warning."""
        time = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())
        self._events.append({"time": time, **self._of_net(net, event.record())})
        if self._earlier is None:
            try:
                self._earlier = json_files.read_lines(storage.join(self.folder, "events.jsonl"))
            except DataError as error:
                self._earlier = []
                self._listener(warning(f"{error}; its lines are replaced"))
            except StorageError as error:
                self._warn(error)
                return
        self._write_lines("events.jsonl", [*self._earlier, *self._events])

    def _write_lines(self, name: str, rows: list[JsonObject]) -> None:
        try:
            self._check()
            storage.commit(storage.join(self.folder, name), json_files.encode_lines(rows))
        except StorageError as error:
            self._warn(error)

    def _warn(self, error: StorageError) -> None:
        self._listener(warning(f"{error}; this line is written with the next one"))

    def _of_net(self, net: int, row: JsonObject) -> JsonObject:
        return {"net": net + 1, **row} if self._num_nets > 1 else row
