"""A training run: start or resume, train each net, test once, save the model.

A run trains one net, or an ensemble of nets one after the other, whose scores are averaged. Each
net is trained as if it were alone.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Event as StopSignal
from typing import Any

from nanograd.data.dataset import Dataset
from nanograd.digits.variants import add_variants
from nanograd.errors import ClusterError, Stopped
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.runtime import events, storage
from nanograd.runtime.events import Event, Listener, info, warning
from nanograd.runtime.lease import exclusive
from nanograd.training import loop
from nanograd.training.calibration import with_reference
from nanograd.training.checkpoint import History
from nanograd.training.evaluation import Evaluator, accuracy, as_model
from nanograd.training.local import StartGroup
from nanograd.training.recipe import Recipe
from nanograd.training.run_directory import RunDirectory

_RESUME = "the same settings with --output {}, without --overwrite, continue"


@dataclass(frozen=True, kw_only=True)
class NetPlan:
    """A net to train."""

    recipe: Recipe  # the computation
    variants: float  # images added from the table of variants, per training image


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A run: its nets, its images and its directory."""

    place: str  # the run directory, a folder or URI
    settings: bytes  # content of config.toml
    identity: dict[str, Any]  # the settings and data that determine the bits of the result
    about: dict[str, Any]  # facts for the model's manifest: data, preset, workers, shards, seed
    nets: Sequence[NetPlan]  # one, or the members of an ensemble
    training: Dataset  # images to train on
    validation: Dataset  # images to evaluate each epoch on; may be empty
    test: Dataset  # images to test the finished model on, once
    overwrite: bool = False  # whether to replace an earlier run
    strict: bool = False  # whether to refuse to go on with other arithmetic


def train_run(
    run: TrainingRun, start_group: StartGroup, listener: Listener, stop: StopSignal
) -> dict[str, Any]:
    """Train a model in a run directory, from the point that an earlier command reached.

    Args:
        run: the nets, images and directory.
        start_group: starts the workers; called only if rounds are left to compute.
        listener: receives progress, epochs, group events and messages.
        stop: set to end early, resumable.

    Returns:
        The metrics of the result line.

    Raises:
        OutputExistsError: the directory holds another run or foreign files, or is a file.
        Stopped: `stop` was set; the same command continues.
        DivergedError: a gradient, loss or parameter is not finite.
        StorageError: the directory cannot be written.
    """
    storage.refuse_file(run.place)
    with exclusive(run.place, listener) as lease:
        directory = RunDirectory(run.place, run.identity, len(run.nets), lease.check)
        directory.prepare(overwrite=run.overwrite)
        if directory.is_complete():
            listener(info(f"{run.place} holds this run, complete; --overwrite trains it again"))
        else:
            try:
                model = _train_ensemble(run, directory, start_group, listener, stop)
            except Stopped as error:
                raise Stopped(f"{error}; {_RESUME.format(run.place)}") from error
            lease.check()
            model_io.save(model, directory.model)
    model = model_io.load(directory.model)
    directory.require_same(model.about["identity"])
    facts = {name: value for name, value in model.about.items() if name != "identity"}
    return {**facts, "params_sha256": model.params_sha256(), "model": directory.model}


def _train_ensemble(
    run: TrainingRun,
    directory: RunDirectory,
    start_group: StartGroup,
    listener: Listener,
    stop: StopSignal,
) -> Model:
    """Train the nets that are not finished, and return all of them as one model."""
    histories: list[History] = []
    models: list[Model] = []
    for number, plan in enumerate(run.nets):
        if len(run.nets) > 1:
            listener(info(f"net {number + 1} of {len(run.nets)}"))
        start = directory.resume(number, plan.recipe, listener)
        directory.write_settings(run.settings)
        histories.append(start.history)
        directory.write_metrics(histories, listener)
        snapshot = start.snapshot
        if snapshot.round < plan.recipe.num_rounds:
            training = add_variants(run.training, plan.variants, plan.recipe.plan.seed)
            relay = _net_listener(run.nets, number, directory, histories, listener)
            with closing(start_group(plan.recipe, training, snapshot, relay, stop)) as group:
                _compare_arithmetic(histories, group.fingerprints()[0], run.strict, listener)
                snapshot = loop.train(
                    plan.recipe,
                    group,
                    start.history,
                    evaluator=Evaluator(plan.recipe, run.validation),
                    saver=directory.saver(number, start, listener),
                    listener=relay,
                    stop=stop,
                )
        models.append(as_model(plan.recipe, snapshot))
    return _combine(run, models, histories)


def _compare_arithmetic(
    histories: Sequence[History], now: str, strict: bool, listener: Listener
) -> None:
    """Warn, or refuse, if the rounds so far, or earlier nets, were computed by other arithmetic."""
    before = [each.fingerprint for each in histories if each.fingerprint]
    if before and before[-1] != now:
        text = (
            f"this run was computed with {before[-1]} so far and continues with {now}: "
            "its bits will be those of neither"
        )
        if strict:
            raise ClusterError(f"{text}; --strict and --kernel portable refuse that")
        listener(warning(text))


def _net_listener(
    nets: Sequence[NetPlan],
    number: int,
    directory: RunDirectory,
    histories: Sequence[History],
    listener: Listener,
) -> Listener:
    """Return a listener that records the events of one net and places them in the ensemble."""
    recipes, net = [each.recipe for each in nets], number + 1
    total = sum(recipe.num_rounds for recipe in recipes)
    rounds = sum(recipe.num_rounds for recipe in recipes[:number])
    images = sum(recipe.epochs * recipe.plan.num_images for recipe in recipes[:number])

    def relay(event: Event) -> None:
        if isinstance(event, events.GroupEvent):
            directory.record(number, event, listener)
        elif isinstance(event, events.EpochFinished):
            directory.write_metrics(histories, listener)
            event = replace(event, net=net, nets=len(nets))
        elif isinstance(event, events.TrainingProgress):
            rate, done = event.rounds_per_s, rounds + event.round
            left_s = round((total - done) / rate, 1) if rate else None
            complete = event.complete and number == len(nets) - 1
            event = replace(event, net=net, nets=len(nets), left_s=left_s, complete=complete)
            event = replace(event, round=done, rounds=total, image=images + event.image)
        listener(event)

    return relay


def _combine(run: TrainingRun, models: Sequence[Model], histories: Sequence[History]) -> Model:
    """Return the nets as one model, tested, with the facts of its manifest."""
    recipes = [net.recipe for net in run.nets]
    model = Model(nets=tuple(net for each in models for net in each.nets), about={})
    model = with_reference(model, run.training, recipes[0].plan.seed)
    train_s = sum(history.train_s for history in histories)
    num_images = sum(recipe.plan.num_images * recipe.epochs for recipe in recipes)
    about = {
        **run.about,
        "epochs": recipes[0].epochs,
        "rounds": sum(recipe.num_rounds for recipe in recipes),
        "train_s": round(train_s, 3),
        "images_per_s": round(num_images / train_s),
        **_accuracies(model, run),
    }
    if len(models) > 1:
        about["nets"] = [
            {"params_sha256": each.params_sha256(), **_accuracies(each, run)} for each in models
        ]
    return replace(model, about={**about, "identity": run.identity})


def _accuracies(model: Model, run: TrainingRun) -> dict[str, Any]:
    return {
        "val_accuracy": accuracy(model, run.validation) if len(run.validation) else None,
        "test_accuracy": accuracy(model, run.test),
    }
