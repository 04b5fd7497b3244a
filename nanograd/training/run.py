"""One training run: begin or go on, train, test once, save the model."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from nanograd.config.train_config import TrainConfig
from nanograd.data.dataset import Dataset, split
from nanograd.digits.variants import add_variants, num_variants
from nanograd.errors import DataError, Stopped
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.runtime import storage
from nanograd.runtime.events import Show, ignore
from nanograd.training import loop, run_directory
from nanograd.training.checkpoint import Checkpoint, History
from nanograd.training.local import WorkerGroup
from nanograd.training.loop import Watch
from nanograd.training.progress import Progress
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.run_directory import Run, Tell
from nanograd.training.server import Snapshot

MakeGroup = Callable[[Recipe, Dataset, Snapshot, Tell, Callable[[], bool]], WorkerGroup]


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
        run_directory.make_room(run)
        storage.remove_leftovers(run.place)
        if storage.exists(storage.join(run.at("model"), model_io.MANIFEST)):
            run_directory.require_same(run, model_io.load(run.at("model")).about["identity"])
            say(f"{run.place} holds this run already, complete; --overwrite trains it again")
        else:
            model_io.save(_train(run, make_group, stop, say, show), run.at("model"))
    model = model_io.load(run.at("model"))
    run_directory.require_same(run, model.about["identity"])
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
    nets = config.nets()
    recipes = _recipes(nets, training, say)
    histories: list[History] = []
    models: list[Model] = []
    progress = Progress(recipes, show)
    try:
        for number, (net, recipe) in enumerate(zip(nets, recipes, strict=True)):
            if len(recipes) > 1:
                say(f"net {number + 1} of {len(recipes)}")
            start = run_directory.start(run, number, recipe, say)
            storage.commit(run.at("config.toml"), config.to_toml().encode())
            histories.append(start.history)
            shown = partial(progress.saved, number)
            watch = Watch(stop=stop, save=run_directory.saver(run, histories, shown, say))
            snapshot = _train_net(
                recipe,
                start,
                training=add_variants(training, net.styles, net.seed),
                validation=validation,
                make_group=make_group,
                watch=watch,
                reached=partial(progress.reached, number),
                tell=run_directory.teller(run, number, say, show),
            )
            models.append(loop.as_model(recipe, snapshot, {}))
    except Stopped as error:
        raise Stopped(
            f"{error}; the same settings with --output {run.place}, without --overwrite, go on"
        ) from error
    return _committee(models, run, recipes, histories, validation)


def _recipes(
    nets: list[TrainConfig], training: Dataset, say: Callable[[str], None]
) -> list[Recipe]:
    """What each net computes, if there are images enough for it."""
    numbers = [len(training) + num_variants(training, net.styles) for net in nets]
    if min(numbers) < nets[0].shards:
        raise DataError(
            f"{min(numbers)} training images cannot fill {nets[0].shards} shards; lower --shards"
        )
    recipes = list(map(make_recipe, nets, numbers))
    if recipes[0].num_warm_up >= recipes[0].num_rounds:
        say(
            f"the warm-up of {recipes[0].num_warm_up} rounds is longer than the run of "
            f"{recipes[0].num_rounds}: lower --warmup or raise --epochs"
        )
    return recipes


def _train_net(
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
    group = make_group(recipe, training, start.snapshot, tell, watch.stop)
    try:
        watch = replace(watch, reached=lambda round_: reached(round_, group.workers()))
        watch.reached(start.snapshot.round)
        for _ in loop.train(recipe, validation, group, start.history, watch):
            pass  # each epoch's row is in the history, which is saved and shown
        return group.snapshot()
    finally:
        group.close()


def _committee(
    models: list[Model],
    run: Run,
    recipes: list[Recipe],
    histories: list[History],
    validation: Dataset,
) -> Model:
    """The nets as one model, and what is to be known of it."""
    model = Model(nets=tuple(net for each in models for net in each.nets), about={})
    about = _about(run, recipes, histories) | _accuracies(model, run, validation)
    if len(models) > 1:
        about["nets"] = [
            {"params_sha256": each.params_sha256(), **_accuracies(each, run, validation)}
            for each in models
        ]
    return replace(model, about={**about, "identity": run.identity()})


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
