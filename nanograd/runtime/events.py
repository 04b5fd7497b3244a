"""Events of a job: frozen dataclasses that a job passes to a listener.

The fields have the names of the JSON records.
"""

import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from logging import getLogger
from math import isnan
from time import perf_counter
from typing import Any, TypeAlias

from nanograd.runtime.json_files import JsonObject


class Level(StrEnum):
    """Severity of an event."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class WorkerState(StrEnum):
    """State of a rank."""

    WORKING = "working"
    STARTING = "starting"


class FailureKind(StrEnum):
    """Kind of failure of a process; the values appear in `events.jsonl`."""

    KILLED = "killed"
    UNRESPONSIVE = "hung"


# Sentences of the changes in a group of workers, by the name of the event.
SENTENCES = {
    "started": "{workers} on {hosts}",
    "lost": "worker {rank} failed at round {round} ({how}); {shards}; 0 rounds lost",
    "joined": "worker {rank} joined at round {round}",
    "refused": "round {round}: {reason}; computed again by new workers",
    "waiting": "round {round} waits for {waits_for} ({seconds} s)",
    "server_lost": "the parameter server failed at round {round} ({reason}); a new one continues "
    "from the copy of round {copy}",
    "host_lost": "host {host} failed at round {round} ({how}); 0 rounds lost",
    "mixed": "worker {rank} computes with {worker}, the run began with {first}: its bits may "
    "differ",
}


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a job."""

    name: str
    level: Level = Level.INFO

    def record(self) -> JsonObject:
        """Return the event as a JSON object."""
        names = (each.name for each in fields(self) if each.name not in ("name", "level"))
        return {"event": self.name, **{name: getattr(self, name) for name in names}}


Listener: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Ignore an event."""


def log_warnings(event: Event) -> None:
    """Pass warnings to Python's `logging`, which prints them to stderr by default."""
    if event.level is not Level.INFO:
        getLogger("nanograd").warning("%s", printable(str(event)))


def broadcast(listeners: Sequence[Listener]) -> Listener:
    """Return a listener that passes each event to all listeners in turn; more may be added."""

    def relay(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return relay


@dataclass(frozen=True, kw_only=True)
class Message(Event):
    """A sentence for people."""

    name: str = "message"
    text: str  # the sentence

    def __str__(self) -> str:
        return self.text

    def record(self) -> JsonObject:
        """Return the event as a JSON object."""
        return {"event": self.name, "level": str(self.level), "message": self.text.strip()}


def info(text: str) -> Message:
    """Create a message of level INFO."""
    return Message(text=text)


def warning(text: str) -> Message:
    """Create a message of level WARNING."""
    return Message(text=text, level=Level.WARNING)


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """Metrics of a finished epoch: a line of `metrics.jsonl`."""

    epoch: int  # number of the epoch, from 1
    round: int  # the next round to compute
    loss: float  # mean over the images of the epoch
    val_accuracy: float | None  # from 0 to 1; None without validation images
    val_loss: float | None = None  # mean over the validation images; None without any
    learning_rate: float  # in the last round of the epoch
    train_s: float  # seconds of training so far, without pauses
    images_per_s: int  # training images per second


@dataclass(frozen=True, kw_only=True)
class EpochFinished(Event):
    """An epoch is complete."""

    name: str = "epoch"
    metrics: EpochMetrics
    net: int = 1  # number of the net in an ensemble, from 1
    nets: int = 1  # number of nets

    def record(self) -> JsonObject:
        """Return the event as a JSON object."""
        facts = {"event": self.name, "command": "train", "net": self.net, "nets": self.nets}
        return {**facts, **asdict(self.metrics)}


@dataclass(frozen=True, kw_only=True)
class TrainingProgress(Event):
    """Progress of a training run, after each segment of rounds."""

    name: str = "progress"
    command: str = "train"
    net: int = 1  # number of the net in an ensemble, from 1
    nets: int = 1  # number of nets
    epoch: int  # the current epoch, from 1
    epochs: int  # epochs of a net
    round: int  # rounds computed, over all nets
    rounds: int  # rounds of the whole run
    image: int  # images trained on; an image counts once per epoch
    rounds_per_s: float  # during the last 10 seconds
    images_per_s: int  # during the last 10 seconds
    loss: float | None  # mean training loss of the current epoch; None if unknown
    val_accuracy: float | None  # after the last finished epoch; None if unknown
    left_s: float | None  # estimated remaining seconds; None if unknown
    workers: Mapping[str, WorkerState]  # state of each rank
    complete: bool  # whether this is the last round


@dataclass(frozen=True, kw_only=True)
class TrainingFinished(Event):
    """A training run is complete."""

    name: str = "result"
    result: JsonObject  # the result line of `nanograd train`

    def record(self) -> JsonObject:
        """Return the event as a JSON object."""
        return {"event": self.name, **self.result}


@dataclass(frozen=True, kw_only=True)
class JobProgress(Event):
    """Progress of a batch job, after each part."""

    name: str = "progress"
    command: str  # ingest or predict
    part: int  # finished parts
    parts: int  # all parts
    row: int  # finished rows
    rows: int  # all rows
    rows_per_s: float  # since the first part started
    quarantined: int  # rows in quarantine
    time_s: float  # seconds since the first part started
    left_s: float | None  # estimated remaining seconds; None if unknown
    complete: bool  # whether this is the last part


@dataclass(frozen=True, kw_only=True)
class ImageScored(Event):
    """A test image was classified (`nanograd evaluate --verbose`)."""

    name: str = "image"
    label: int  # true class
    scores: tuple[float, ...]  # score of each class
    prediction: int  # class with the largest score

    def __str__(self) -> str:
        scores = " ".join(f"{score:.6f}" for score in self.scores)
        best = self.scores[self.prediction]
        return f"{self.label}  [{scores}]  {best:.6f}  {self.prediction}"


@dataclass(frozen=True, kw_only=True)
class GroupEvent(Event):
    """A change in a group of workers, which is written to `events.jsonl`.

    >>> str(changed("joined", rank=2, round=400))
    'worker 2 joined at round 400'
    """

    facts: JsonObject  # what the sentence of the event names

    def __str__(self) -> str:
        return SENTENCES[self.name].format(**self.facts)

    def record(self) -> JsonObject:
        """Return the event and its sentence as a JSON object."""
        return {"event": self.name, **self.facts, "sentence": str(self)}


def changed(name: str, **facts: Any) -> GroupEvent:
    """Create the event of a change in a group, with the facts that its sentence names."""
    return GroupEvent(name=name, facts=facts)


def name_shards(shards: Sequence[int]) -> str:
    """Format numbers of shards; contiguous numbers become a range.

    >>> name_shards([4, 5, 6]), name_shards([1]), name_shards([1, 4])
    ('shards 4-6', 'shard 1', 'shards 1, 4')
    """
    if len(shards) == 1:
        return f"shard {shards[0]}"
    if list(shards) == list(range(shards[0], shards[-1] + 1)):
        return f"shards {shards[0]}-{shards[-1]}"
    return f"shards {', '.join(map(str, shards))}"


class Rate:
    """Growth rate of a counter over the last `over_s` seconds of a monotonic clock.

    >>> rate = Rate(clock=iter([0.0, 1.0, 30.0]).__next__)
    >>> [rate.at(count) for count in (0, 10, 39)]
    [0.0, 10.0, 1.0]
    """

    def __init__(self, over_s: float = 10.0, clock: Callable[[], float] = perf_counter) -> None:
        self._over_s, self._clock = over_s, clock
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, count: int) -> float:
        """Record the counter's value; return its growth per second, 0 for the first value."""
        now = self._clock()
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[0][0] > self._over_s:
            self._seen.popleft()
        then, before = self._seen[0]
        return (count - before) / max(now - then, 1e-3)


def printable(text: str, keep: str = "") -> str:
    r"""Replace letters that are not visible by escapes, because a name may contain any letter.

    >>> printable("\x1b[31m7\n.png"), printable("\t七\n", keep="\n")
    ('\\x1b[31m7\\n.png', '\\t七\n')
    """
    hidden = {each for each in text if not each.isprintable()}.difference(keep)
    return text.translate({ord(each): each.encode("unicode_escape").decode() for each in hidden})


def as_word(place: str) -> str:
    """Return the word of a shell command that names a place; it must not look like a flag.

    >>> as_word("-my rows"), as_word("rows")
    ("'./-my rows'", 'rows')
    """
    return shlex.quote(f"./{place}" if place.startswith("-") else place)


def count(number: int, noun: str) -> str:
    """Format a number of things.

    >>> count(1, "row"), count(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Format a duration for people.

    >>> [duration(seconds) for seconds in (0.2, 89, 100, 7300)]
    ['1 s', '89 s', '2 min', '2 h 2 min']
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(share: float | None) -> str:
    """Format a share as a percentage with two decimals; an undefined share is a dash.

    >>> percent(0.98254), percent(float("nan")), percent(None)
    ('98.25 %', '-', '-')
    """
    return "-" if share is None or isnan(share) else f"{100 * share:.2f} %"


def shorten(text: str, width: int, dots: str = "...") -> str:
    """Replace the middle of a text that is longer than `width` letters by dots.

    >>> shorten("IMG_2041.jpg", 23), shorten("IMG_2041-copy-of-copy.jpg", 15)
    ('IMG_2041.jpg', 'IMG_20...py.jpg')
    """
    end = (width - len(dots)) // 2
    return text if len(text) <= width else f"{text[: width - len(dots) - end]}{dots}{text[-end:]}"
