"""A training run: start or resume it, train each net, test the model, save it.

A run trains one net, or the nets of an ensemble one after the other. Each net of an ensemble gets
the same bits as if it were trained alone.
"""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event as StopSignal

from nanograd.digits.dataset import Mnist, split
from nanograd.digits.variants import add_variants, num_variants
from nanograd.errors import ClusterError, DataError, Stopped, UsageError
from nanograd.models import model as model_io
from nanograd.models.model import Model, Net
from nanograd.runtime import storage
from nanograd.runtime.events import EpochFinished, Event, GroupEvent, Listener, count, info, warning
from nanograd.runtime.json_files import JsonObject
from nanograd.runtime.lease import exclusive
from nanograd.settings.fields import flag_name
from nanograd.settings.train_spec import TrainSpec
from nanograd.training import loop
from nanograd.training.calibration import fit_reference
from nanograd.training.local import StartGroup
from nanograd.training.loop import Evaluator, accuracy, as_net
from nanograd.training.recipe import make_recipe
from nanograd.training.run_directory import History, RunDirectory


def load_initial(spec: TrainSpec) -> Model | None:
    """Load the model whose weights a run starts from; None for random weights.

    None also if it is missing, but the output has a model, because a complete run needs no weights.

    Raises:
        DataError: `--resume-from` names no model or run, or it is damaged.
        UsageError: the nets of the run differ from the model in number, size or activation, or
            `--overwrite` would remove the model.
    """
    if spec.resume_from is None:
        return None
    if spec.overwrite and spec.output:
        places = (storage.absolute(each) for each in (spec.resume_from, spec.output))
        inner, outer = map(os.path.realpath, places)
        if Path(inner).is_relative_to(outer):
            raise UsageError(
                f"--overwrite removes --output {spec.output}, and with it --resume-from "
                f"{spec.resume_from}; choose another --output"
            )
    try:
        model = model_io.load(spec.resume_from)
    except DataError:
        kept = not spec.overwrite and spec.output
        if kept and storage.exists(storage.join(kept, "model", model_io.MANIFEST)):
            return None
        raise
    net, preparation = model.nets[0].architecture, model.nets[0].preparation
    needed: JsonObject = {
        **{name: getattr(net, name) for name in ("hidden", "activation", "loss")},
        **{"ensemble": len(model.nets), "pixels": preparation.name},
        **{name: getattr(preparation, name) for name in ("width", "height")},
    }
    missing = {name: each for name, each in needed.items() if getattr(spec, name) != each}
    if missing:
        flags = " ".join(f"{flag_name(name)} {value}" for name, value in missing.items())
        raise UsageError(
            f"--resume-from {spec.resume_from} needs the settings of its nets: {flags}"
        )
    return model


class TrainingRun:
    """A run in a folder or URI; `initial` is the result of `load_initial`.

    Raises:
        DataError: there are too few images for the shards.
    """

    def __init__(
        self, spec: TrainSpec, folder: str, data: Mnist, initial: Model | None = None
    ) -> None:
        root = spec.image_root and storage.absolute(spec.image_root)
        self._spec = replace(spec, output=folder, test_split=data.test_split, image_root=root)
        self._folder, self._data, self._initial = folder, data, initial
        self._training, self._validation = split(data.train, spec.validation_split, spec.seed)
        # Settings and data that determine the bits of the run.
        self._identity = {**spec.identity(), "data_sha256": data.sha256}
        if initial or not spec.resume_from:
            self._identity["resume_from_sha256"] = initial.params_sha256() if initial else None
        self.recipes = []
        for net in spec.nets():
            num_images = len(self._training) + num_variants(len(self._training), net.variants)
            if num_images < net.shards:
                flag = "shards" if len(data.train) < net.shards else "validation-split"
                images, shards = count(num_images, "training image"), count(net.shards, "shard")
                raise DataError(f"{images} cannot fill {shards}; lower --{flag}")
            self.recipes.append(make_recipe(net, num_images))

    def train(self, start_group: StartGroup, listener: Listener, stop: StopSignal) -> Model:
        """Train a model in the run directory, or continue an unfinished run.

        `start_group` is called only if rounds are left to compute. When `stop` is set, the run
        saves a checkpoint and stops.

        Raises:
            OutputExistsError: the directory has a run with other settings, or files but no run, or
                a file is in the place of a folder.
            DataError: the model of `--resume-from` is missing, and the run is not complete.
            Stopped: `stop` was set; repeating the command continues the run.
            DivergedError: a gradient, loss or parameter is not finite.
            StorageError: the directory cannot be written.
        """
        folder = self._folder
        directory = RunDirectory(folder, self._identity, len(self.recipes), listener)
        directory.require_own_files()
        if not self._spec.overwrite and directory.is_complete():  # the folder may be read-only
            listener(info(f"the run in {folder} is complete; --overwrite trains it again"))
            self._restore(directory, listener)
            return model_io.load(directory.model)
        if self._spec.resume_from and not self._initial:
            raise DataError(
                f"--resume-from {self._spec.resume_from} is missing or damaged; restore it to "
                f"continue the run in {folder}"
            )
        with exclusive(folder, listener) as lease:
            directory.check = lease.check
            directory.prepare(overwrite=self._spec.overwrite)
            try:
                model = self._train_nets(directory, start_group, listener, stop)
            except Stopped as error:
                hint = f"repeat the command with --output {folder}, without --overwrite"
                raise Stopped(f"{error}; to continue, {hint}") from error
            lease.check()
            model_io.save(model, directory.model)
            return model_io.load(directory.model)

    def _restore(self, directory: RunDirectory, listener: Listener) -> None:
        """Write lost files of a complete run again, or warn that no checkpoint has its metrics."""
        found, histories = storage.names(self._folder), list[History]()
        has_card = model_io.CARD in storage.names(directory.model)
        if not directory.has_metrics(sum(recipe.epochs for recipe in self.recipes)):
            starts = (directory.resume(*each, None)[0] for each in enumerate(self.recipes))
            histories = [start.history for start in starts]
            if any(len(h.epochs) < r.epochs for h, r in zip(histories, self.recipes, strict=True)):
                text = f"{self._folder} has lost lines of metrics.jsonl, and no checkpoint has them"
                listener(warning(f"{text}: the report has no curves; --overwrite trains again"))
                histories = []
        if histories or not has_card or "config.toml" not in found:
            with exclusive(self._folder, listener) as lease:
                directory.check = lease.check
                directory.write_config(self._spec)
                if histories:
                    directory.write_metrics(histories)
                if not has_card:
                    card = model_io.model_card(model_io.load(directory.model))
                    storage.commit(storage.join(directory.model, model_io.CARD), card)

    def _train_nets(
        self, directory: RunDirectory, start_group: StartGroup, listener: Listener, stop: StopSignal
    ) -> Model:
        """Train the nets that are not finished; return all nets as a model."""
        histories: list[History] = []
        nets: list[Net] = []
        for number, recipe in enumerate(self.recipes):
            if len(self.recipes) > 1:
                listener(info(f"net {number + 1} of {len(self.recipes)}"))
            initial = self._initial.nets[number].params.vector if self._initial else None
            start, saver = directory.resume(number, recipe, initial)
            directory.write_config(self._spec)
            histories.append(start.history)
            directory.write_metrics(histories)

            def record(event: Event, net: int = number) -> None:
                if isinstance(event, GroupEvent):
                    directory.record(net, event)
                elif isinstance(event, EpochFinished):
                    directory.write_metrics(histories)
                listener(event)

            snapshot = start.snapshot
            if snapshot.round < recipe.num_rounds:
                training = add_variants(self._training, recipe.spec.variants, recipe.plan.seed)
                with closing(start_group(recipe, training, snapshot, record, stop)) as group:
                    before = [each.fingerprints for each in histories if each.fingerprints]
                    if before and before[-1] != [now := group.fingerprints()[0]]:
                        text = (
                            f"the rounds so far were computed with {' and '.join(before[-1])}, the "
                            f"others will be with {now}: the bits of the result match neither"
                        )
                        if self._spec.is_strict:
                            refusal = "--strict and --kernel portable refuse that"
                            raise ClusterError(f"{text}; {refusal}")
                        listener(warning(text))
                    snapshot = loop.train(
                        recipe,
                        group,
                        start.history,
                        evaluator=Evaluator(self.recipes, number, self._validation),
                        saver=saver,
                        listener=record,
                        stop=stop,
                    )
            nets.append(as_net(recipe, snapshot))
        return self._test(nets, histories)

    def _test(self, nets: Sequence[Net], histories: Sequence[History]) -> Model:
        """Calibrate and test the nets; return a model whose `about` has the results."""
        spec, data, recipes = self._spec, self._data, self.recipes
        train_s = sum(history.train_s for history in histories)
        num_images = sum(recipe.plan.num_images * recipe.epochs for recipe in recipes)

        def accuracies(nets: Sequence[Net]) -> dict[str, float | None]:
            validation = accuracy(nets, self._validation) if len(self._validation) else None
            return {"val_accuracy": validation, "test_accuracy": accuracy(nets, data.test)}

        about: JsonObject = {
            "data": data.name if len(data.sources) < 2 else list(data.sources),
            **({} if data.test_split is None else {"test_split": data.test_split}),
            "preset": spec.preset,
            "workers": spec.workers,
            "shards": spec.shards,
            "seed": spec.seed,
            "epochs": recipes[0].epochs,
            "rounds": sum(recipe.num_rounds for recipe in recipes),
            "train_s": round(train_s, 3),
            "images_per_s": round(num_images / train_s),
            **accuracies(nets),
        }
        if len(nets) > 1:
            sums = [storage.checksum(net.params.vector.tobytes()) for net in nets]
            about["nets"] = [
                {"params_sha256": sha256, **accuracies([net])}
                for net, sha256 in zip(nets, sums, strict=True)
            ]
        return Model(
            nets=tuple(nets),
            about={**about, "identity": self._identity},
            reference=fit_reference(nets, self._training, recipes[0].plan.seed),
        )
