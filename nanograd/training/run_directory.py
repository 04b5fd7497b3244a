"""A run directory: settings, metrics, events, checkpoints and model of a run.

Checkpoints and model contain the identity of the run: the settings, and the checksums of the data
and of the initial weights, which together determine the bits of the model. A command with the same
identity continues an unfinished run, and leaves a complete run as it is. A command that only asks
for more epochs continues either, unless the number of epochs influences the earlier epochs, as a
schedule of the learning rate does. A command with another identity is refused.

A checkpoint is a safetensors file `round-<next round>-<16 hex digits of its SHA-256>.safetensors`.
If its content does not match its name, it is damaged, and the previous checkpoint is used.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from time import gmtime, monotonic, sleep, strftime
from typing import TypeAlias

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.models import model as model_io
from nanograd.nn.optimizers import Vector
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import EpochMetrics, GroupEvent, Listener, count, info, warning
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe
from nanograd.training.server import LossSum, Snapshot, first_snapshot

NUM_KEPT = 3
# Seconds of training between two checkpoints; a killed run loses at most this work. If saving is
# slow, the interval grows so that saving takes at most this share of the time.
INTERVAL_S, _SAVE_SHARE = 2.0, 0.1
_MAX_FAILED_SAVES = 3
# Seconds for which a stopped run tries to save. Kubernetes kills a process 30 s after SIGTERM.
GRACE_S = 20.0
RETRY_S = 0.5

_NAME = re.compile(r"round-\d{9}-[0-9a-f]{16}\.safetensors")
_REPORT = ("report.html", "plots")
_CONTENTS = (
    *_REPORT, "tensorboard", "config.toml", "metrics.jsonl", "events.jsonl", "checkpoints", "model",
)  # fmt: skip


Check: TypeAlias = Callable[[], None]


@dataclass(kw_only=True)
class History:
    """The finished part of the training of a net."""

    epochs: list[EpochMetrics] = field(default_factory=list)  # finished epochs
    train_s: float = 0.0  # seconds, including evaluation and checkpoints, without pauses
    fingerprints: list[str] = field(default_factory=list)  # distinct fingerprints of workers


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that another process needs to continue the training of a net."""

    identity: JsonObject  # of the run
    snapshot: Snapshot
    history: History


class CheckpointSaver:
    """Writer of the checkpoints of a net. It warns of a failure, and raises the third in a row.

    `start` is the newest checkpoint, or the first state. `check` is called before each save, and
    raises if another process has taken over the run.
    """

    def __init__(
        self, folder: str, start: Checkpoint, listener: Listener, check: Check = lambda: None
    ) -> None:
        self._folder, self._identity, self._listener = folder, start.identity, listener
        self._check = check
        self._saved_round, self._tried_s = start.snapshot.round, start.history.train_s
        self._interval_s, self._num_failures = INTERVAL_S, 0

    @property
    def is_slow(self) -> bool:
        """Whether saving is too slow for a checkpoint after each epoch."""
        return self._interval_s > INTERVAL_S

    def is_due(self, history: History) -> bool:
        """Return whether it is time for the next checkpoint."""
        return history.train_s - self._tried_s > self._interval_s

    def save(self, snapshot: Snapshot, history: History) -> None:
        """Save a checkpoint; warn of a failure, or raise StorageError at the third in a row."""
        self._tried_s = history.train_s
        try:
            self._save(snapshot, history)
            self._num_failures = 0
        except StorageError as error:
            self._num_failures += 1
            if self._num_failures >= _MAX_FAILED_SAVES:
                raise self._final(error) from error
            text = f"{error}; training continues and the next checkpoint tries again"
            self._listener(warning(text))

    def save_last(self, snapshot: Snapshot, history: History) -> None:
        """Save the last round of a stopped run; raise StorageError if that fails for 20 seconds."""
        deadline, warned = monotonic() + GRACE_S, False
        while snapshot.round != self._saved_round:
            try:
                self._save(snapshot, history)
            except StorageError as error:
                if monotonic() >= deadline:
                    raise self._final(error) from error
                if not warned:
                    self._listener(warning(f"{error}; trying again for {GRACE_S:.0f} s"))
                warned = True
                sleep(RETRY_S)  # no event reports that the disk or the store works again

    def _save(self, snapshot: Snapshot, history: History) -> None:
        self._check()
        began = monotonic()
        now = Checkpoint(identity=self._identity, snapshot=snapshot, history=history)
        name = save(self._folder, now)
        self._saved_round, save_s = snapshot.round, monotonic() - began
        if save_s > INTERVAL_S >= self._interval_s:
            text = f"a checkpoint took {save_s:.1f} s to write to {self._folder}; the next ones are"
            self._listener(warning(f"{text} {save_s / _SAVE_SHARE:.0f} s apart"))
        self._interval_s = max(INTERVAL_S, save_s / _SAVE_SHARE)
        # Keep the newest NUM_KEPT. Checkpoints of later rounds are damaged, because otherwise the
        # run would have continued from them.
        try:
            names = _names(self._folder)
            older = [each for each in names if each < name.rpartition("-")[0]]
            for each in {*names} - {name, *older[: NUM_KEPT - 1]}:
                storage.remove(storage.join(self._folder, each))
        except StorageError as error:
            self._listener(warning(f"{error}; some old checkpoints are not removed"))

    def _final(self, error: StorageError) -> StorageError:
        newest = "no checkpoint exists"
        if self._saved_round:
            newest = f"the newest checkpoint has {count(self._saved_round, 'round')}"
        return StorageError(f"{error}; {newest}; repair the storage and repeat the command")


def save(folder: str, checkpoint: Checkpoint) -> str:
    """Commit a checkpoint to a folder or URI; return its name."""
    snapshot, history = checkpoint.snapshot, checkpoint.history
    facts = {
        "identity": checkpoint.identity,
        "round": snapshot.round,
        **asdict(snapshot.progress),
        **asdict(history),
    }
    data = bytes(save_tensors(dict(snapshot.arrays), metadata={"nanograd": json.dumps(facts)}))
    name = f"round-{snapshot.round:09d}-{storage.checksum(data)[:16]}.safetensors"
    storage.commit(storage.join(folder, name), data)
    return name


def newest(folder: str, listener: Listener) -> Checkpoint | None:
    """Return the newest undamaged checkpoint, or None; warn of each damaged one."""
    for name in _names(folder):
        file = storage.join(folder, name)
        try:
            data = storage.read(file)
            if name.split("-")[2][:16] != storage.checksum(data)[:16]:
                raise DataError(f"{file} is damaged: its SHA-256 is not the one in its name")
            # A safetensors file begins with the length of its JSON header, 8 bytes little-endian.
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            facts = json.loads(header["__metadata__"]["nanograd"])
            snapshot = Snapshot(
                round=facts["round"],
                arrays=load_tensors(data),
                progress=LossSum(facts["loss"], facts["num_images"]),
            )
            history = History(
                epochs=[EpochMetrics(**each) for each in facts["epochs"]],
                train_s=facts["train_s"],
                fingerprints=facts["fingerprints"],
            )
            return Checkpoint(identity=facts["identity"], snapshot=snapshot, history=history)
        except DataError as error:
            trouble = str(error)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            trouble = f"{file} is not a checkpoint of nanograd: {error}"
        listener(warning(f"{trouble}; using the previous checkpoint"))
    return None


def _names(folder: str) -> list[str]:
    """Return the names of the checkpoints, the newest first."""
    return [name for name in reversed(storage.names(folder)) if _NAME.fullmatch(name)]


class RunDirectory:
    """The files of a run.

    If there are several nets, each record contains the number of its net. `check` is called before
    each write, and raises if another process has taken over the run.
    """

    def __init__(
        self, folder: str, identity: JsonObject, num_nets: int, listener: Listener
    ) -> None:
        self.folder, self.identity, self._num_nets = folder, identity, num_nets
        self._listener = listener
        self.check: Check = lambda: None
        self.model = storage.join(folder, "model")
        # Lines of events.jsonl from earlier commands (None until they are read), and from this one.
        self._earlier: list[JsonObject] | None = None
        self._events: list[JsonObject] = []

    def require_own_files(self) -> None:
        """Raise OutputExistsError if the directory has other files, or a file for a folder."""
        for name in ("model", "checkpoints"):
            storage.refuse_file(storage.join(self.folder, name))
        if foreign := sorted(set(storage.names(self.folder)) - set(_CONTENTS)):
            raise OutputExistsError(
                f"{self.folder} contains {foreign[0]!r}, which is not part of a run; "
                "choose another --output"
            )

    def prepare(self, *, overwrite: bool) -> None:
        """Remove the report, or all files to `overwrite`; StorageError if that is impossible."""
        if overwrite:
            # Remove the model's manifest first, because the run counts as unfinished without it.
            storage.remove(storage.join(self.model, model_io.MANIFEST))
        for name in reversed(_CONTENTS if overwrite else _REPORT):
            storage.remove(storage.join(self.folder, name))
        storage.remove_leftovers(self.folder)

    def is_complete(self) -> bool:
        """Return whether the model exists; raise OutputExistsError if it belongs to another run.

        A model that has lost a file, or is damaged, can be made again from the checkpoints, so it
        counts as missing. If it is damaged and has no checkpoints, DataError is raised.
        """
        manifest = storage.join(self.model, model_io.MANIFEST)
        if not storage.exists(manifest):
            return False
        identity = json_files.read_manifest(manifest)["identity"]
        self.require_same(identity)
        try:
            model_io.load(self.model)
        except DataError:
            if not storage.names(storage.join(self.folder, "checkpoints")):
                raise
            text = "has lost a file or is damaged, and is made again from the checkpoints"
            self._listener(info(f"{self.model} {text}"))
            return False
        return bool(identity.get("epochs") == self.identity.get("epochs"))

    def has_metrics(self, num_epochs: int) -> bool:
        """Return whether metrics.jsonl has a line for each of the epochs of all nets."""
        with suppress(DataError):
            rows = json_files.read_lines(storage.join(self.folder, "metrics.jsonl"))
            return len(rows) == num_epochs
        return False

    def require_same(self, identity: JsonObject) -> None:
        """Raise OutputExistsError unless the `identity` found in the directory is that of this run.

        The directory may also hold a run that differs only by having fewer epochs. This run
        continues it if the rounds of both are equal as far as the shorter run goes, so if the
        learning rate is constant and distortions do not decrease.
        """
        ours = self.identity
        differing = [name for name in ours if identity.get(name) != ours[name]]
        if not differing:
            return
        name, remedy = differing[0], "choose another --output or replace the run with --overwrite"
        if name == "data_sha256":
            what = "the images or labels of --data, or --test-split,"
            remedy = f"{what} are others now; restore them, {remedy}"
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

    def resume(
        self, net: int, recipe: Recipe, initial: Vector | None
    ) -> tuple[Checkpoint, CheckpointSaver]:
        """Return the newest checkpoint of a net, or its first state, and a saver for later ones.

        `initial` has the parameters of the first state, (P,); None for random parameters.
        """
        folder = storage.join(self.folder, "checkpoints")
        folder = storage.join(folder, str(net)) if self._num_nets > 1 else folder
        start = newest(folder, self._listener)
        if start is None:
            first = first_snapshot(recipe, initial)
            start = Checkpoint(identity=self.identity, snapshot=first, history=History())
        else:
            self.require_same(start.identity)
            done = f"{start.snapshot.round:,} of {recipe.num_rounds:,} rounds"
            self._listener(info(f"continuing after {done}"))
            start = replace(start, identity=self.identity)
        return start, CheckpointSaver(folder, start, self._listener, self.check)

    def write_config(self, spec: TrainSpec) -> None:
        """Write config.toml, the settings of the run."""
        self.check()
        toml = spec.to_toml().encode(errors="surrogateescape")
        storage.commit(storage.join(self.folder, "config.toml"), toml)

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
            self.check()
            storage.commit(storage.join(self.folder, name), json_files.encode_lines(rows))
        except StorageError as error:
            self._warn(error)

    def _warn(self, error: StorageError) -> None:
        self._listener(warning(f"{error}; this line is written with the next one"))

    def _of_net(self, net: int, row: JsonObject) -> JsonObject:
        return {"net": net + 1, **row} if self._num_nets > 1 else row
