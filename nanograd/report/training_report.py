"""The report of a training run: one file that opens offline, from what the run directory holds."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanograd.config.settings import from_toml
from nanograd.data.dataset import NUM_CLASSES, Dataset
from nanograd.errors import DataError
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.nn import metrics
from nanograd.report import accuracy, plots
from nanograd.report.accuracy import percent
from nanograd.report.charts import Axis, Line, Mark, around, chart
from nanograd.report.drawing import draw_section
from nanograd.report.html import cards, document, folded, paragraph, table
from nanograd.runtime import json_files, process, storage

NAME = "report.html"

_FILES = ("config.toml", "metrics.jsonl", "events.jsonl")
# How an event is painted; what is not named here is neither a loss nor its end.
_KINDS = {"lost": "lost", "server_lost": "lost", "joined": "joined"}

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Story:
    """What a run directory tells.

    Args:
        place: the run directory.
        config: the settings, resolved.
        epochs: a row of figures an epoch.
        events: what happened to the workers.
        model: the result.
        versions: of what made it.
    """

    place: str
    config: Row
    epochs: Sequence[Row]
    events: Sequence[Row]
    model: Model
    versions: Row


class Answers(NamedTuple):
    """What a model reads in some images.

    Args:
        predictions: (N,) the class of each.
        best: (N,) float32, the score of that.
    """

    predictions: NDArray[np.int64]
    best: NDArray[np.float32]


def ask(model: Model, test: Dataset) -> Answers:
    """What a model reads in some images."""
    with process.one_thread():
        scores = model.scores(test.images)
    return Answers(scores.argmax(axis=1), scores.max(axis=1))


def write(place: str, test: Dataset, *, as_png: bool = False) -> str:
    """Write the report of a finished run into its directory.

    Args:
        place: the run directory, a folder or URI.
        test: the images to read for it.
        as_png: whether its plots are written as PNG files, too.

    Returns:
        Where it is.

    Raises:
        DataError: this is no finished run.
        StorageError: it cannot be read or written.
    """
    report = storage.join(place, NAME)
    story = read(place)
    answers = ask(story.model, test)
    storage.commit(report, page(story, test, answers).encode())
    if as_png:
        matrix = metrics.confusion_matrix(answers.predictions, test.labels, NUM_CLASSES)
        found = metrics.calibration(answers.best, answers.predictions == test.labels)
        plots.write(place, plots.of_training(story.epochs, story.events, matrix, found))
    return report


def read(place: str) -> Story:
    """What a run directory tells.

    Raises:
        DataError: this is no finished run.
        StorageError: it cannot be read.
    """
    folder = storage.join(place, "model")
    if not storage.exists(storage.join(folder, model_io.MANIFEST)):
        raise DataError(
            f"{place} holds neither a finished training run nor a finished prediction; check the "
            "path, or finish it with its own command"
        )
    model = model_io.load(folder)
    config = storage.join(place, "config.toml")
    epochs = json_files.read_lines(storage.join(place, "metrics.jsonl"))
    events = json_files.read_lines(storage.join(place, "events.jsonl"))
    return Story(
        place=place,
        config=from_toml(storage.read(config).decode(), config),
        epochs=_one_after_another(epochs),
        events=_in_their_place(events, epochs),
        model=model,
        versions=json_files.read_manifest(storage.join(folder, model_io.MANIFEST))["versions"],
    )


def page(story: Story, test: Dataset, answers: Answers) -> str:
    """The report as HTML."""
    model, (predictions, best) = story.model, answers
    right = predictions == test.labels
    matrix = metrics.confusion_matrix(predictions, test.labels, NUM_CLASSES)
    sections = [
        ("learning", "Learning", _learning(story)),
        ("draw", "Draw a digit", draw_section(model)),
        ("digits", "Digits", accuracy.confusion(matrix)),
        ("confidence", "Confidence", accuracy.confidence(best, right)),
        (
            "mistakes",
            "Worst mistakes",
            accuracy.mistakes(test.images, test.labels, predictions, best),
        ),
        ("units", "What the hidden units see", accuracy.units(model.nets[0].params)),
        ("speed", "Speed and failures", _speed(story)),
        ("settings", "Settings", _settings(story)),
        ("origin", "Environment and files", _environment(story) + _checksums(story)),
    ]
    return document(f"Training run {story.place}", sections, _lead(story, right))


def _lead(story: Story, right: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    about, nets = story.model.about, story.model.nets
    net = nets[0].architecture
    what = f"A committee of {len(nets)} nets" if len(nets) > 1 else "A net"
    wrong = int((~right).sum())
    words = (
        f"{what} of 784 inputs, {net.hidden} {net.activation} units and 10 outputs, trained on "
        f"{about['data']}, reads {percent(float(right.mean()))} of {len(right):,} test images; "
        f"{wrong:,} it misreads. The test images chose nothing."
    )
    validation = about["val_accuracy"]
    losses = sum(_KINDS.get(event["event"]) == "lost" for event in story.events)
    return paragraph(words, "lead") + cards(
        [
            ("test accuracy", percent(float(right.mean()))),
            ("validation", "-" if validation is None else percent(validation)),
            ("training", f"{about['train_s']:.1f} s"),
            ("images/s", f"{about['images_per_s']:,}"),
            ("epochs", str(about["epochs"])),
            ("workers", str(about["workers"])),
            ("lost on the way", str(losses)),
        ]
    )


def _learning(story: Story) -> str:
    def points(name: str) -> list[tuple[float, float]]:
        return [(row["epoch"], row[name]) for row in story.epochs if row[name] is not None]

    curves = [accuracy.curve("Training loss", "loss", points("loss"), ".3g")]
    if validation := points("val_accuracy"):
        curves.append(accuracy.curve("Validation accuracy", "accuracy", validation, ".2%"))
    curves.append(accuracy.curve("Learning rate", "learning rate", points("learning_rate"), ".3g"))
    head = ["epoch", "loss", "validation accuracy", "learning rate", "images/s", "seconds"]
    rows = [
        [
            str(row["epoch"]),
            f"{row['loss']:.5f}",
            "-" if row["val_accuracy"] is None else percent(row["val_accuracy"]),
            f"{row['learning_rate']:.4g}",
            f"{row['images_per_s']:,}",
            f"{row['train_s']:.1f}",
        ]
        for row in story.epochs
    ]
    return f'<div class="plots">{"".join(curves)}</div>' + folded(
        "Epochs as a table", table("Epochs", head, rows)
    )


def _speed(story: Story) -> str:
    """Images a second over the rounds, and where workers were lost and came back."""
    num_rounds = story.epochs[-1]["round"]
    steps: list[tuple[float, float]] = []
    begin = 0
    for row in story.epochs:
        steps += [(begin, row["images_per_s"]), (row["round"], row["images_per_s"])]
        begin = row["round"]
    marks = [
        Mark(event["round"], event["sentence"], _KINDS.get(event["event"], "other"))
        for event in story.events
        if "round" in event
    ]
    speed = chart(
        "Images a second, and what was lost (red) and came back (green)",
        Axis("round", 0, num_rounds, lambda value: f"{value:,.0f}"),
        around([height for _, height in steps], "images/s", lambda value: f"{value:,.0f}", 0),
        [Line("images/s", steps)],
        marks,
    )
    if not any(_KINDS.get(event["event"]) == "lost" for event in story.events):
        return speed + paragraph("No worker and no server was lost.")
    rows = [[event["time"], event["event"], event["sentence"]] for event in story.events]
    return speed + table("What happened", ["time (UTC)", "event", ""], rows, class_="words")


def _settings(story: Story) -> str:
    rows = [[name, _in_words(value)] for name, value in story.config.items()]
    return table("Settings, resolved", ["setting", "value"], rows, class_="words")


def _in_words(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _environment(story: Story) -> str:
    rows = [
        ["trained with", ", ".join(f"{name} {each}" for name, each in story.versions.items())],
        ["arithmetic here", process.fingerprint()],
        ["Ray here", _installed("ray")],
        ["machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"],
        ["data, SHA-256", story.model.about["identity"]["data_sha256"]],
        ["parameters, SHA-256", story.model.params_sha256()],
    ]
    return table("Environment", ["", ""], rows, class_="words")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _checksums(story: Story) -> str:
    names = [name for name in _FILES if storage.exists(_at(story, name))]
    names += [f"model/{name}" for name in storage.names(_at(story, "model"))]
    rows = [[name, storage.checksum(storage.read(_at(story, name)))] for name in names]
    return table("Files", ["file", "SHA-256"], rows, class_="words")


def _at(story: Story, name: str) -> str:
    return storage.join(story.place, name)


def _one_after_another(epochs: list[Row]) -> list[Row]:
    """Epochs and rounds counted through the nets of a committee, which begin at 0 each.

    >>> _one_after_another([{"net": net, "epoch": 1, "round": 9} for net in (1, 2)])[1]
    {'net': 2, 'epoch': 2, 'round': 18}
    """
    counted: list[Row] = []
    before = {"epoch": 0, "round": 0}
    for last, row in zip([*epochs[:1], *epochs], epochs, strict=False):
        if row.get("net") != last.get("net"):
            before = {name: counted[-1][name] for name in before}
        counted.append(row | {name: row[name] + before[name] for name in before})
    return counted


def _in_their_place(events: list[Row], epochs: list[Row]) -> list[Row]:
    """Events with their rounds counted through the nets of a committee, too.

    >>> epochs = [{"net": net, "epoch": 1, "round": 9} for net in (1, 2)]
    >>> _in_their_place([{"net": 2, "round": 3}, {"net": 2}], epochs)
    [{'net': 2, 'round': 12}, {'net': 2}]
    """
    rounds = {row.get("net", 1): row["round"] for row in epochs}

    def before(net: int) -> int:
        return sum(number for each, number in rounds.items() if each < net)

    return [
        event | {"round": event["round"] + before(event.get("net", 1))}
        if "round" in event
        else event
        for event in events
    ]
