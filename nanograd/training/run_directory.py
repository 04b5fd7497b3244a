"""A run directory: whose it is, where its nets go on, and what is written while they are trained.

    RUN/  config.toml  metrics.jsonl  events.jsonl  checkpoints/  model/  report.html

Checkpoints and model carry the run's identity, the settings and data that determine its bits: the
same command again goes on or finds the work done, another one is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import gmtime, strftime
from typing import Any

from nanograd.config.train_config import TrainConfig
from nanograd.data.mnist import Mnist
from nanograd.errors import OutputExistsError, StorageError
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import Show
from nanograd.training import checkpoint
from nanograd.training.checkpoint import Checkpoint, History
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot, first_snapshot

Event = dict[str, Any]
Tell = Callable[[Event], None]

_MOST_FAILED_SAVES = 3
_CONTENTS = (
    "report.html", "plots", "tensorboard", "config.toml", "metrics.jsonl", "events.jsonl",
    "checkpoints", "model",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is to be trained, and where it is kept.

    Args:
        config: the settings.
        place: the run directory, a folder or URI.
        data: training and test images.
    """

    config: TrainConfig
    place: str
    data: Mnist

    def identity(self) -> dict[str, Any]:
        """The settings and data that determine the bits of the result."""
        return {**self.config.recipe(), "data_sha256": self.data.sha256}

    def at(self, name: str) -> str:
        """A place in the run directory."""
        return storage.join(self.place, name)

    def checkpoints(self, number: int) -> str:
        """The place of a net's checkpoints; each net of a committee has a folder of its own."""
        folder = self.at("checkpoints")
        return storage.join(folder, str(number)) if self.config.committee > 1 else folder


def make_room(run: Run) -> None:
    """Refuse a directory with anything else in it; empty it of an earlier run if told to.

    Raises:
        OutputExistsError: something is in it that no run writes.
        StorageError: it cannot be emptied.
    """
    if strangers := sorted(set(storage.names(run.place)) - set(_CONTENTS)):
        raise OutputExistsError(
            f"{run.place} holds {strangers[0]!r}, which is no part of a run; "
            "choose another --output"
        )
    if run.config.overwrite:
        # The model goes first: without it, what is left is an unfinished run at any moment.
        for name in reversed(_CONTENTS):
            storage.remove(run.at(name))


def require_same(run: Run, theirs: dict[str, Any]) -> None:
    """Refuse what another run left.

    Raises:
        OutputExistsError: an identity that differs from this run's.
    """
    for name, ours in run.identity().items():
        if theirs.get(name) != ours:
            raise OutputExistsError(
                f"{run.place} holds a run with {name} {theirs.get(name)!r}, not {ours!r}; "
                "choose another --output or replace it with --overwrite"
            )


def start(run: Run, number: int, recipe: Recipe, say: Callable[[str], None]) -> Checkpoint:
    """Where a net begins: at the newest checkpoint, or at the beginning.

    Raises:
        OutputExistsError: the checkpoint is another run's.
    """
    found = checkpoint.newest(run.checkpoints(number), say)
    if found is None:
        return Checkpoint(
            identity=run.identity(), snapshot=first_snapshot(recipe), history=History()
        )
    require_same(run, found.identity)
    say(f"going on from round {found.snapshot.round} of {recipe.num_rounds}")
    return found


def saver(
    run: Run,
    histories: list[History],
    shown: Callable[[Snapshot, History], None],
    say: Callable[[str], None],
) -> Callable[[Snapshot, History], None]:
    """How to save the last of some nets; a few failures in a row are said and survived.

    Args:
        run: whose they are.
        histories: of the nets so far; the last is the one that is saved.
        shown: told of each state before it is saved.
        say: told in a sentence what cannot be written.

    Raises:
        StorageError: by what is returned: one failure too many.
    """
    failures, folder = 0, run.checkpoints(len(histories) - 1)
    _write_metrics(run, histories)

    def save(snapshot: Snapshot, history: History) -> None:
        nonlocal failures
        shown(snapshot, history)
        now = Checkpoint(identity=run.identity(), snapshot=snapshot, history=history)
        try:
            checkpoint.save(folder, now)
            _write_metrics(run, histories)
            failures = 0
        except StorageError as error:
            failures += 1
            if failures > _MOST_FAILED_SAVES:
                raise
            say(f"{error}; training goes on, the next checkpoint tries again")

    return save


def teller(run: Run, number: int, say: Callable[[str], None], show: Show) -> Tell:
    """What happens to the workers: said, shown, and kept in events.jsonl with the time (UTC).

    Args:
        run: whose workers.
        number: of the net that they train, from 0; kept, too, in a committee.
        say: told the sentence of what happened.
        show: shown all of it.
    """
    events = json_files.read_lines(run.at("events.jsonl"))
    net = {"net": number + 1} if run.config.committee > 1 else {}

    def tell(event: Event) -> None:
        say(event["sentence"])
        show(event)
        events.append({"time": strftime("%Y-%m-%dT%H:%M:%SZ", gmtime()), **net, **event})
        try:
            storage.commit(run.at("events.jsonl"), json_files.lines(events))
        except StorageError as error:
            say(f"{error}; the next event is written with this one")

    return tell


def _write_metrics(run: Run, histories: list[History]) -> None:
    """A line an epoch; those of a committee say which net they are of."""
    rows = [
        {"net": number + 1, **row} if run.config.committee > 1 else row
        for number, history in enumerate(histories)
        for row in history.epochs
    ]
    storage.commit(run.at("metrics.jsonl"), json_files.lines(rows))
