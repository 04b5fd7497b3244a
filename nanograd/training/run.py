"""A training run: start or resume it, train each net, test the model, save it.

A run trains one net, or the nets of an ensemble one after the other. Each net gets the same bits as
if it were trained alone.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Event as StopSignal

from nanograd.digits.dataset import Dataset, Mnist, split
from nanograd.digits.variants import add_variants, num_variants
from nanograd.errors import ClusterError, DataError, Stopped
from nanograd.models import model as model_io
from nanograd.models.model import Model, Net
from nanograd.runtime import events, storage
from nanograd.runtime.events import Event, Listener, info, warning
from nanograd.runtime.json_files import JsonObject
from nanograd.runtime.lease import exclusive
from nanograd.settings.train_spec import TrainSpec
from nanograd.training import loop
from nanograd.training.calibration import fit_reference
from nanograd.training.checkpoint import History
from nanograd.training.evaluation import Evaluator, accuracy, as_net
from nanograd.training.local import StartGroup
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class NetPlan:
    """A net to train."""

    recipe: Recipe
    variants: float  # synthetic digits in rare shapes, per training image


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Everything that a run needs."""

    folder: str  # the run directory, a folder or URI
    spec: TrainSpec  # stored in config.toml
    identity: JsonObject  # settings and data that determine the bits of the run
    about: JsonObject  # facts for the manifest of the model: data, preset, workers, shards, seed
    nets: Sequence[NetPlan]  # several for an ensemble
    training: Dataset  # training images
    validation: Dataset  # validation images, for each epoch; may be empty
    test: Dataset  # test images, for the finished model

    @classmethod
    def of(cls, spec: TrainSpec, folder: str, data: Mnist) -> "TrainingRun":
        """Return the run of a spec; DataError if the images cannot fill the shards."""
        training, validation = split(data.train, spec.validation_split, spec.seed)
        nets = []
        for net in spec.nets():
            num_images = len(training) + num_variants(len(training), net.variants)
            if num_images < net.shards:
                flag = "shards" if len(data.train) < net.shards else "validation-split"
                text = f"{num_images} training images cannot fill {net.shards} shards"
                raise DataError(f"{text}; lower --{flag}")
            nets.append(NetPlan(recipe=make_recipe(net, num_images), variants=net.variants))
        return cls(
            folder=folder,
            spec=replace(spec, output=folder, test_split=data.test_split),
            identity={**spec.identity(), "data_sha256": data.sha256},
            about={
                "data": data.name if len(data.sources) < 2 else list(data.sources),
                **({} if data.test_split is None else {"test_split": data.test_split}),
                "preset": spec.preset,
                "workers": spec.workers,
                "shards": spec.shards,
                "seed": spec.seed,
            },
            nets=nets,
            training=training,
            validation=validation,
            test=data.test,
        )


def train_run(
    run: TrainingRun, start_group: StartGroup, listener: Listener, stop: StopSignal
) -> Model:
    """Train a model in a run directory, or continue an unfinished run.

    Args:
        run: the run.
        start_group: starts the workers; called only if rounds are left to compute.
        listener: receives progress, epochs, group events and messages.
        stop: when set, the run saves a checkpoint and stops.

    Raises:
        OutputExistsError: the directory contains another run or foreign files, or is a file.
        Stopped: `stop` was set; the same command continues the run.
        DivergedError: a gradient, loss or parameter is not finite.
        StorageError: the directory cannot be written.
    """
    storage.refuse_file(run.folder)
    with exclusive(run.folder, listener) as lease:
        directory = RunDirectory(run.folder, run.identity, len(run.nets), lease.check)
        directory.prepare(overwrite=run.spec.overwrite)
        if directory.is_complete():
            listener(info(f"the run in {run.folder} is complete; --overwrite trains it again"))
        else:
            try:
                model = _train_nets(run, directory, start_group, listener, stop)
            except Stopped as error:
                hint = f"repeat the command with --output {run.folder}, without --overwrite"
                raise Stopped(f"{error}; to continue, {hint}") from error
            lease.check()
            model_io.save(model, directory.model)
    model = model_io.load(directory.model)
    directory.require_same(model.about["identity"])
    return model


def _train_nets(
    run: TrainingRun,
    directory: RunDirectory,
    start_group: StartGroup,
    listener: Listener,
    stop: StopSignal,
) -> Model:
    """Train the nets that are not finished; return all nets as a model."""
    histories: list[History] = []
    nets: list[Net] = []
    for number, plan in enumerate(run.nets):
        if len(run.nets) > 1:
            listener(info(f"net {number + 1} of {len(run.nets)}"))
        start = directory.resume(number, plan.recipe, listener)
        directory.write_settings(run.spec.to_toml().encode(errors="surrogateescape"))
        histories.append(start.history)
        directory.write_metrics(histories, listener)
        snapshot = start.snapshot
        if snapshot.round < plan.recipe.num_rounds:
            training = add_variants(run.training, plan.variants, plan.recipe.plan.seed)
            relay = _net_listener(run.nets, number, directory, histories, listener)
            with closing(start_group(plan.recipe, training, snapshot, relay, stop)) as group:
                before = [each.fingerprints for each in histories if each.fingerprints]
                if before and before[-1] != [now := group.fingerprints()[0]]:
                    text = (
                        f"the rounds so far were computed with {' and '.join(before[-1])}, the "
                        f"others will be with {now}: the bits of the result will match neither"
                    )
                    if run.spec.is_strict:
                        raise ClusterError(f"{text}; --strict and --kernel portable refuse that")
                    listener(warning(text))
                snapshot = loop.train(
                    plan.recipe,
                    group,
                    start.history,
                    evaluator=Evaluator(plan.recipe, run.validation),
                    saver=directory.saver(number, start, listener),
                    listener=relay,
                    stop=stop,
                )
        nets.append(as_net(plan.recipe, snapshot))
    return _test(run, nets, histories)


def _net_listener(
    nets: Sequence[NetPlan],
    number: int,
    directory: RunDirectory,
    histories: Sequence[History],
    listener: Listener,
) -> Listener:
    """Return a listener that records the events of a net and converts them to events of the run."""
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


def _test(run: TrainingRun, nets: Sequence[Net], histories: Sequence[History]) -> Model:
    """Calibrate and test the nets; return them as a model with the facts of its manifest."""
    recipes = [net.recipe for net in run.nets]
    train_s = sum(history.train_s for history in histories)
    num_images = sum(recipe.plan.num_images * recipe.epochs for recipe in recipes)

    def accuracies(nets: Sequence[Net]) -> dict[str, float | None]:
        validation = accuracy(nets, run.validation) if len(run.validation) else None
        return {"val_accuracy": validation, "test_accuracy": accuracy(nets, run.test)}

    about = {
        **run.about,
        "epochs": recipes[0].epochs,
        "rounds": sum(recipe.num_rounds for recipe in recipes),
        "train_s": round(train_s, 3),
        "images_per_s": round(num_images / train_s),
        **accuracies(nets),
    }
    if len(nets) > 1:
        about["nets"] = [
            {"params_sha256": storage.checksum(net.params.vector.tobytes()), **accuracies([net])}
            for net in nets
        ]
    return Model(
        nets=tuple(nets),
        about={**about, "identity": run.identity},
        reference=fit_reference(nets, run.training, recipes[0].plan.seed),
    )
