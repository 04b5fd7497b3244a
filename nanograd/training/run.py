"""One training run in its run directory: begin or go on, train, test once, save the model.

    RUN/  config.toml  metrics.jsonl  events.jsonl  checkpoints/  model/  report.html

Checkpoints and model carry the run's identity, the settings and data that determine its bits: the
same command again goes on or finds the work done, another one is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from time import gmtime, strftime
from typing import Any

from nanograd import json_files, storage
from nanograd import model as model_io
from nanograd.config import TrainConfig
from nanograd.data.dataset import Dataset, split
from nanograd.data.mnist import Mnist
from nanograd.data.styles import add_styles
from nanograd.errors import DataError, OutputExistsError, Stopped, StorageError
from nanograd.model import Model
from nanograd.progress import Show, ignore
from nanograd.training import checkpoint, loop
from nanograd.training.checkpoint import Checkpoint, History
from nanograd.training.group import WorkerGroup
from nanograd.training.loop import Watch
from nanograd.training.progress import Progress
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import Snapshot, first_snapshot

Event = dict[str, Any]
Tell = Callable[[Event], None]
MakeGroup = Callable[[Recipe, Dataset, Snapshot, Tell], WorkerGroup]

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


def train_run(
    run: Run,
    make_group: MakeGroup,
    stop: Callable[[], bool],
    say: Callable[[str], None],
    show: Show = ignore,
) -> dict[str, Any]:
    """Train a model in a run directory, from wherever an earlier command left it.

    Args:
        run: what and where.
        make_group: starts the workers; called only if there is something to compute.
        stop: whether to end early, resumable.
        say: told in sentences what happens.
        show: shown how far it is.

    Returns:
        The figures of the result line.

    Raises:
        OutputExistsError: the directory holds another run or something else.
        Stopped: `stop` said so; the same command goes on.
        DivergedError: parameters or loss left the finite numbers.
        DataError: too few images for the settings.
        StorageError: the directory cannot be written.
    """
    with storage.exclusive(run.place):
        _make_room(run)
        if storage.exists(storage.join(run.at("model"), model_io.MANIFEST)):
            _require_same(run, model_io.load(run.at("model")).about["identity"])
            say(f"{run.place} holds this run already, complete; --overwrite trains it again")
        else:
            model_io.save(_train(run, make_group, stop, say, show), run.at("model"))
    model = model_io.load(run.at("model"))
    _require_same(run, model.about["identity"])
    figures = {name: value for name, value in model.about.items() if name != "identity"}
    return {**figures, "params_sha256": model.params_sha256(), "model": run.at("model")}


def _train(
    run: Run,
    make_group: MakeGroup,
    stop: Callable[[], bool],
    say: Callable[[str], None],
    show: Show,
) -> Model:
    config = run.config
    training, validation = split(run.data.train, config.validation_split, config.seed)
    recipes = [make_recipe(each, len(training)) for each in config.nets()]
    if len(training) < config.shards:
        raise DataError(
            f"{len(training)} training images cannot fill {config.shards} shards; lower --shards"
        )
    if recipes[0].num_warm_up >= recipes[0].num_rounds:
        say(
            f"the warm-up of {recipes[0].num_warm_up} rounds is longer than the run of "
            f"{recipes[0].num_rounds}: lower --warmup or raise --epochs"
        )
    histories: list[History] = []
    models: list[Model] = []
    progress = Progress(recipes, show)
    try:
        for number, recipe in enumerate(recipes):
            if len(recipes) > 1:
                say(f"net {number + 1} of {len(recipes)}")
            start = _start(run, number, recipe, say)
            storage.commit(run.at("config.toml"), config.to_toml().encode())
            histories.append(start.history)
            shown = partial(progress.saved, number)
            watch = Watch(stop=stop, save=_saver(run, histories, shown, say))
            snapshot = _train_net(
                run,
                recipe,
                start,
                training=add_styles(
                    training, config.flagged_ones, config.short_fours, recipe.plan.seed
                ),
                validation=validation,
                make_group=make_group,
                watch=watch,
                reached=partial(progress.reached, number),
                tell=_teller(run, say, show),
            )
            models.append(loop.as_model(recipe, snapshot, {}))
    except Stopped as error:
        raise Stopped(
            f"{error}; the same settings with --output {run.place}, without --overwrite, go on"
        ) from error
    model = Model(nets=tuple(net for each in models for net in each.nets), about={})
    about = _about(run, recipes, histories) | _accuracies(model, run, validation)
    if len(models) > 1:
        about["nets"] = [
            {"params_sha256": each.params_sha256(), **_accuracies(each, run, validation)}
            for each in models
        ]
    return replace(model, about={**about, "identity": run.identity()})


def _train_net(
    run: Run,
    recipe: Recipe,
    start: Checkpoint,
    *,
    training: Dataset,
    validation: Dataset,
    make_group: MakeGroup,
    watch: Watch,
    reached: Callable[[int, dict[int, str]], None],
    tell: Tell,
) -> Snapshot:
    """One net from a checkpoint to its end; no workers are started if it stands there already."""
    if start.snapshot.round == recipe.num_rounds:
        return start.snapshot
    group = make_group(recipe, training, start.snapshot, tell)
    try:
        watch = replace(watch, reached=lambda round_: reached(round_, group.workers()))
        watch.reached(start.snapshot.round)
        for _ in loop.train(recipe, validation, group, start.history, watch):
            pass  # each epoch's row is in the history, which is saved and shown
        return group.snapshot()
    finally:
        group.close()


def _saver(
    run: Run,
    histories: list[History],
    shown: Callable[[Snapshot, History], None],
    say: Callable[[str], None],
) -> Callable[[Snapshot, History], None]:
    """How to save the last of some nets; a few failures in a row are said and survived."""
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


def _write_metrics(run: Run, histories: list[History]) -> None:
    """A line an epoch; those of a committee say which net they are of."""
    rows = [
        {"net": number + 1, **row} if run.config.committee > 1 else row
        for number, history in enumerate(histories)
        for row in history.epochs
    ]
    storage.commit(run.at("metrics.jsonl"), json_files.lines(rows))


def _teller(run: Run, say: Callable[[str], None], show: Show) -> Tell:
    """What happens to the workers: said, shown, and kept in events.jsonl with the time (UTC)."""
    events = json_files.read_lines(run.at("events.jsonl"))

    def tell(event: Event) -> None:
        say(event["sentence"])
        show(event)
        events.append({"time": strftime("%Y-%m-%dT%H:%M:%SZ", gmtime()), **event})
        try:
            storage.commit(run.at("events.jsonl"), json_files.lines(events))
        except StorageError as error:
            say(f"{error}; the next event is written with this one")

    return tell


def _make_room(run: Run) -> None:
    """Refuse a directory with anything else in it; empty it of an earlier run if told to."""
    if strangers := sorted(set(storage.names(run.place)) - set(_CONTENTS)):
        raise OutputExistsError(
            f"{run.place} holds {strangers[0]!r}, which is no part of a run; "
            "choose another --output"
        )
    if run.config.overwrite:
        # The model goes first: without it, what is left is an unfinished run at any moment.
        for name in reversed(_CONTENTS):
            storage.remove(run.at(name))


def _start(run: Run, number: int, recipe: Recipe, say: Callable[[str], None]) -> Checkpoint:
    """Where a net begins: at the newest checkpoint, or at the beginning."""
    found = checkpoint.newest(run.checkpoints(number), say)
    if found is None:
        return Checkpoint(
            identity=run.identity(), snapshot=first_snapshot(recipe), history=History()
        )
    _require_same(run, found.identity)
    say(f"going on from round {found.snapshot.round} of {recipe.num_rounds}")
    return found


def _require_same(run: Run, theirs: dict[str, Any]) -> None:
    for name, ours in run.identity().items():
        if theirs.get(name) != ours:
            raise OutputExistsError(
                f"{run.place} holds a run with {name} {theirs.get(name)!r}, not {ours!r}; "
                "choose another --output or replace it with --overwrite"
            )


def _about(run: Run, recipes: list[Recipe], histories: list[History]) -> dict[str, Any]:
    config = run.config
    train_s = sum(history.train_s for history in histories)
    num_images = sum(recipe.plan.num_images * recipe.epochs for recipe in recipes)
    return {
        "data": run.data.name,
        "preset": config.preset,
        "workers": config.workers,
        "shards": config.shards,
        "seed": config.seed,
        "epochs": recipes[0].epochs,
        "rounds": sum(recipe.num_rounds for recipe in recipes),
        "train_s": round(train_s, 3),
        "images_per_s": round(num_images / train_s),
    }


def _accuracies(model: Model, run: Run, validation: Dataset) -> dict[str, Any]:
    return {
        "val_accuracy": loop.accuracy(model, validation) if len(validation) else None,
        "test_accuracy": loop.accuracy(model, run.data.test),
    }
