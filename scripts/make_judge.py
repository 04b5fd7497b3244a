"""Train the judge of `nanograd.numbers` on lines of MNIST's training digits.

    python -m scripts.make_judge --data FOLDER_OF_MNIST --lines-in FOLDER

The folder keeps the lines, so a stopped run continues, and training can be repeated.

A line of digits is drawn or photographed (`simulators`), found and cut into pieces by the package
itself. Only its text is known, not which pieces are digits. The score of a digit is the sum of the
net's score and the log of the built-in model's probability. The net maximises the probability of
the text: the sum over all paths that spell it, divided by the sum over all paths. The data and the
seed determine the lines; the weights also depend on the processor.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", VI.B.
    Loshchilov & Hutter (2019), "Decoupled weight decay regularization" (AdamW).
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from io import BytesIO
from multiprocessing import Pool
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from nanograd.api import load_model
from nanograd.digits.dataset import SIDE, Dataset
from nanograd.digits.variants import draw_variants
from nanograd.errors import UnreadableError
from nanograd.images import sources
from nanograd.models.model import Model
from nanograd.numbers import judge, locate, recognise
from nanograd.numbers.lattice import NO_DIGIT
from nanograd.numbers.pieces import CONTEXT
from nanograd.runtime.arrays import Bytes, Doubles, Floats, Ints, Mask
from nanograd.runtime.json_files import JsonObject
from scripts.make_model import DATA_SHA256, PARAMS_SHA256
from simulators.photos import photograph, write_with
from simulators.scenes import KINDS
from simulators.strings import (
    HEIGHT,
    Style,
    cut_boxes,
    put_beside,
    underline,
    write,
    write_in_boxes,
)

OUTPUT = Path(judge.__file__).with_name("judge.safetensors")
Stage = tuple[int, int, float]  # number of lines, epochs, share of hidden units that are dropped
# How the judge in the package was made: the seed of the weights and the stages of each net whose
# scores are averaged; and the checksum of the file.
NETS: tuple[tuple[int, Stage, Stage], ...] = (
    (0, (15_500, 14, 0.2), (31_800, 6, 0.1)),
    (1, (25_600, 7, 0.2), (31_800, 6, 0.1)),
)
SHA256 = "fc167c492f6395056af01b2b2c10135faeb24fa1df5bb1e35c503b36d08fa565"
Halves = NDArray[np.float16]
# Lines in a file. The last images of the training set are left for validation.
_TASK, _VALIDATION = 100, 10_000
# Shares of lines: photos, forms, other pens on white, and MNIST's pen on white. Shares of those on
# white with a part of another digit, and of the rest with an underline.
_PHOTOS, _FORMS, _PENS, _BESIDE, _UNDERLINED = 0.12, 0.1, 0.25, 0.05, 0.04
# Shares of lines whose digits are all drawn from `nanograd.digits.variants`, or some of them.
_DRAWN, _MIXED, _NUM_DRAWN = 0.15, 0.1, 20_000
_HIDDEN, _BATCH, _RATE, _DECAY = 500, 128, 1e-3, 0.01
# Pieces with smaller gradients are left out. They have less than 1 % of the gradient.
_LEAST_SLOPE = 1e-3
_NEVER = -1e30


@dataclass(frozen=True)
class Lines:
    """Pieces of L lines, one line after the other; see `nanograd.numbers.pieces.Pieces`."""

    texts: NDArray[np.str_]  # (L,)
    nodes: Ints  # (L,)
    counts: Ints  # (L,) number of pieces
    first: Ints
    last: Ints
    images: Bytes
    context: Bytes
    geometry: Floats
    known: Floats  # (pieces, 11) logs of the model's probabilities, 0 for no digit

    def take(self, chosen: Ints) -> "Lines":
        """Return some lines."""
        ends = self.counts.cumsum()
        rows = np.concatenate([np.arange(ends[n] - self.counts[n], ends[n]) for n in chosen])
        pieces = ("first", "last", "images", "context", "geometry", "known")
        return Lines(
            self.texts[chosen],
            self.nodes[chosen],
            self.counts[chosen],
            *(getattr(self, name)[rows] for name in pieces),
        )

    @staticmethod
    def join(parts: Sequence["Lines"]) -> "Lines":
        """Join lines."""
        arrays: list[Any] = [
            np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Lines)
        ]
        return Lines(*arrays)


def draw_picture(digits: Bytes, other: Bytes, draw: Generator) -> Image.Image:
    """Draw digits, (n, 784), as a picture of one line: on white, in a form, or as a photo.

    A part of the `other` digit may be beside them.
    """
    images, kind = list(digits.reshape(-1, 28, 28)), draw.random()
    if kind < _FORMS:
        form = write_in_boxes(images, draw)
        return Image.fromarray(cut_boxes(form, draw) if draw.random() < 0.7 else form)
    style = Style(
        touching=draw.random() < 0.6,
        marks=0.25 * (draw.random() < 0.25),
        pale=0.2 * (draw.random() < 0.15),
        spread=draw.choice([1.0, 1.0, 1.5, 2.2]),
    )
    ink = write(images, style, draw)
    if kind < _FORMS + _PHOTOS:
        data = photograph(ink, str(draw.choice(list(KINDS))), int(draw.integers(2**31)), HEIGHT)
        return Image.open(BytesIO(data))
    if draw.random() < _BESIDE:
        ink = put_beside(ink, other.reshape(28, 28), draw)
    elif draw.random() < _UNDERLINED:
        ink = underline(ink, draw)
    if kind < _FORMS + _PHOTOS + _PENS:
        scene = KINDS[str(draw.choice(["plain", "thin pen", "marker", "faint", "squares"]))]
        pen = write_with(ink, scene, draw, HEIGHT)
        ink = np.asarray(pen.resize([side // 2 for side in pen.size], Image.Resampling.BOX))
    picture = Image.fromarray(255 - (ink * draw.uniform(0.5, 1)).astype(np.uint8))
    scale = draw.choice([0.5, 0.7, 1.0, 1.5])
    size = [max(1, round(side * scale)) for side in picture.size]
    return picture.resize(size, Image.Resampling.BICUBIC)


@cache
def load_digits(name: str) -> tuple[Dataset, Dataset]:
    """Load the training digits without the validation digits, and draw others, once a process."""
    return sources.load([name]).train.take(slice(-_VALIDATION)), draw_variants(_NUM_DRAWN, 30)


def choose_digits(name: str, draw: Generator) -> tuple[Bytes, str]:
    """Choose the images of 1 to 5 digits, (n, 784), and return their text."""
    written, drawn = load_digits(name)
    length, kind = draw.integers(1, 6), draw.random()
    share = 1.0 if kind < _DRAWN else 0.5 if kind < _DRAWN + _MIXED else 0.0
    images, text = [], ""
    for _ in range(length):
        data = drawn if draw.random() < share else written
        number = int(draw.integers(len(data)))
        images.append(data.images[number])
        text += str(data.labels[number])
    return np.stack(images), text


def make_lines(seed: int, name: str, folder: Path) -> None:
    """Draw lines, cut them into pieces and save them, without lines that are not found."""
    path = folder / f"{seed}.npz"
    if path.exists():
        return
    draw, model = np.random.default_rng([seed, 30]), built_in()
    found = []
    for _ in range(_TASK):
        digits, text = choose_digits(name, draw)
        other, _ = choose_digits(name, draw)
        try:
            cut = locate.find_lines(draw_picture(digits, other[0], draw)).lines
        except UnreadableError:
            continue
        pieces = recognise.divide(cut[0])
        if len(cut) > 1 or not len(pieces.first):
            continue
        counts = np.array([pieces.num_nodes]), np.array([len(pieces.first)])
        probabilities = np.maximum(model.probabilities(pieces.images), judge.LEAST)
        known = np.pad(np.log(probabilities), ((0, 0), (0, 1))).astype(np.float32)
        names = ("first", "last", "images", "context", "geometry")
        own: dict[str, Any] = {name: getattr(pieces, name) for name in names}
        texts = np.array([text])
        found.append(Lines(texts=texts, nodes=counts[0], counts=counts[1], known=known, **own))
    new = path.with_suffix(".new")
    with new.open("wb") as stream:
        np.savez(stream, **vars(Lines.join(found)))
    new.replace(path)


def load_lines(paths: Sequence[Path]) -> Lines:
    """Load saved lines."""
    files = [np.load(path) for path in paths]
    return Lines(
        **{each.name: np.concatenate([file[each.name] for file in files]) for each in fields(Lines)}
    )


@cache
def built_in() -> Model:
    """Load the model of the package, once in each process."""
    return load_model()


def add(one: Doubles, other: Doubles) -> Doubles:
    """Compute log(exp(one) + exp(other)) of finite numbers, faster than `np.logaddexp`."""
    most = np.maximum(one, other)
    return np.asarray(most + np.log1p(np.exp(-np.abs(one - other))))


def learn(scores: Floats, batch: Lines) -> tuple[Doubles, Floats]:
    """Compute the loss of each line, -log p(text), and the gradient of the mean with the scores.

    The sums over paths are computed for all lines at once, one piece of each line after the other.
    The pieces of a line are in the order of their first seams, so each sum is complete when it is
    used. A line without a path that spells its text has no loss.
    """
    size, most = len(batch.texts), int(batch.counts.max())
    start = batch.counts.cumsum() - batch.counts
    place = np.minimum(start[:, None] + np.arange(most), len(scores) - 1)
    used = np.arange(most) < batch.counts[:, None]
    spare = int(batch.nodes.max())  # a node for pieces that are not there
    first, last = (np.where(used, each[place], spare) for each in (batch.first, batch.last))
    score = np.where(used[..., None], scores[place].astype(np.float64), _NEVER)
    length = np.array([len(text) for text in batch.texts])
    text = np.zeros((size, int(length.max())), np.int64)
    for row, digits in zip(text, batch.texts, strict=True):
        row[: len(digits)] = list(map(int, digits))
    inside = np.arange(text.shape[1]) < length[:, None]
    peak = score.max(2)
    every = np.where(used, peak + np.log(np.exp(score - peak[..., None]).sum(2)), _NEVER)
    right = np.take_along_axis(score, text[:, None].repeat(most, 1), 2)
    right = np.where(inside[:, None], right, _NEVER)
    skip = score[:, :, NO_DIGIT, None]
    lines, end = np.arange(size), batch.nodes - 1
    # Sums over the ways from the start to each node, of all texts and of the right one so far.
    ways = np.full((size, spare + 1), _NEVER)
    spelt = np.full((size, spare + 1, text.shape[1] + 1), _NEVER)
    ways[:, 0] = spelt[:, 0, 0] = 0
    for piece in range(most):
        a, b = first[:, piece], last[:, piece]
        ways[lines, b] = add(ways[lines, b], ways[lines, a] + every[:, piece])
        step = spelt[lines, a] + skip[:, piece]
        step[:, 1:] = add(step[:, 1:], spelt[lines, a, :-1] + right[:, piece])
        spelt[lines, b] = add(spelt[lines, b], step)
    total, wanted = ways[lines, end], spelt[lines, end, length]
    possible = wanted > _NEVER / 2
    # The same sums from each node to the end, and the probability of each piece as each class.
    back, spelt_back = np.full_like(ways, _NEVER), np.full_like(spelt, _NEVER)
    back[lines, end] = spelt_back[lines, end, length] = 0
    gradient = np.zeros_like(score)
    rows = lines[:, None].repeat(text.shape[1], 1)
    for piece in range(most - 1, -1, -1):
        a, b = first[:, piece], last[:, piece]
        ahead = spelt_back[lines, b]
        through = np.minimum(ways[lines, a] + back[lines, b] - total, 50)
        share = np.exp(through[:, None] + score[:, piece])
        passed = np.exp(np.minimum(spelt[lines, a] + ahead + skip[:, piece] - wanted[:, None], 50))
        share[:, NO_DIGIT] -= passed.sum(1)
        taken = spelt[lines, a, :-1] + ahead[:, 1:] + right[:, piece] - wanted[:, None]
        np.subtract.at(share, (rows, text), np.exp(np.minimum(taken, 50)) * inside)
        gradient[:, piece] = share
        back[lines, a] = add(back[lines, a], back[lines, b] + every[:, piece])
        step = ahead + skip[:, piece]
        step[:, :-1] = add(step[:, :-1], ahead[:, 1:] + right[:, piece])
        spelt_back[lines, a] = add(spelt_back[lines, a], step)
    gradient[~possible] = 0
    return np.where(possible, total - wanted, 0), _flat(gradient, used, size)


def _flat(gradient: Doubles, used: Mask, size: int) -> Floats:
    return (gradient[used] / size).astype(np.float32)


def train(folder: Path, seed: int, *stages: Stage) -> Mapping[str, Floats]:
    """Train a net on saved lines, one stage after the other."""
    draw, inputs = np.random.default_rng(seed), SIDE**2 + CONTEXT[0] * CONTEXT[1] + 10 + NO_DIGIT
    start = {
        "hidden_weight": draw.normal(0, np.sqrt(2 / inputs), (inputs, _HIDDEN)),
        "hidden_bias": np.zeros(_HIDDEN),
        "weight": draw.normal(0, np.sqrt(0.25 / _HIDDEN), (_HIDDEN, NO_DIGIT + 1)),
        "bias": np.zeros(NO_DIGIT + 1),
    }
    net: dict[str, Floats] = {name: each.astype(np.float32) for name, each in start.items()}
    for stage in stages:
        fit(net, folder, stage, draw)
    return net


def fit(net: dict[str, Floats], folder: Path, stage: Stage, draw: Generator) -> None:
    """Fit a net to the texts of saved lines by AdamW with a cosine schedule."""
    lines, epochs, dropout = stage
    data = load_lines([folder / f"{number}.npz" for number in range(lines // _TASK)])
    print(f"{len(data.texts):,} lines, {len(data.first):,} pieces", flush=True)
    means = {name: np.zeros_like(each) for name, each in net.items()}
    squares = {name: np.zeros_like(each) for name, each in net.items()}
    steps, began, loss = epochs * (len(data.texts) // _BATCH), perf_counter(), 0.0
    for step, chosen in enumerate(_batches(len(data.texts), epochs, draw), 1):
        batch = data.take(chosen)
        known = batch.known[:, :NO_DIGIT]
        given = judge.features(batch.images, batch.context, batch.geometry, known)
        hidden = np.maximum(given @ net["hidden_weight"] + net["hidden_bias"], 0)
        kept = draw.random(hidden.shape, np.float32) > dropout
        hidden *= kept / np.float32(1 - dropout)
        losses, slope = learn(hidden @ net["weight"] + net["bias"] + batch.known, batch)
        steep = np.abs(slope).max(1) > _LEAST_SLOPE / _BATCH
        given, hidden, slope = given[steep], hidden[steep], slope[steep]
        inner = (slope @ net["weight"].T) * (hidden > 0) / np.float32(1 - dropout)
        gradient = {
            "hidden_weight": given.T @ inner,
            "hidden_bias": inner.sum(0),
            "weight": hidden.T @ slope,
            "bias": slope.sum(0),
        }
        rate = _RATE * 0.5 * (1 + np.cos(np.pi * step / steps)) * min(1, step / 100)
        for name, each in gradient.items():
            means[name] += 0.1 * (each - means[name])
            squares[name] += 0.001 * (each * each - squares[name])
            change = means[name] / (1 - 0.9**step)
            net[name] -= rate * change / (np.sqrt(squares[name] / (1 - 0.999**step)) + 1e-8)
            if each.ndim > 1:
                net[name] *= 1 - rate * _DECAY
        loss += 0.02 * (float(losses.mean()) - loss)
        if step % 50 == 0:
            print(f"{step}/{steps}  loss {loss:.4f}  {perf_counter() - began:.0f} s", flush=True)


def join(nets: Sequence[Mapping[str, Floats]]) -> Mapping[str, Halves]:
    """Make one net whose scores are the means of the scores of several nets."""
    hidden, bias, weight, shift = zip(*(net.values() for net in nets), strict=True)
    joined = {
        "hidden_weight": np.concatenate(hidden, axis=1),
        "hidden_bias": np.concatenate(bias),
        "weight": np.concatenate(weight) / len(nets),
        "bias": np.mean(shift, axis=0),
    }
    return {name: each.astype(np.float16) for name, each in joined.items()}


def _batches(count: int, epochs: int, draw: Generator) -> Iterator[Ints]:
    for _ in range(epochs):
        order = draw.permutation(count)
        for start in range(0, count - _BATCH + 1, _BATCH):
            yield np.sort(order[start : start + _BATCH])


def recipe() -> JsonObject:
    """Return all settings on which the judge depends."""
    shares = {"photos": _PHOTOS, "forms": _FORMS, "pens": _PENS, "beside": _BESIDE}
    shares |= {"underlined": _UNDERLINED, "drawn": _DRAWN, "mixed": _MIXED}
    net = {"hidden": _HIDDEN, "batch": _BATCH, "rate": _RATE, "decay": _DECAY}
    data = {"data_sha256": DATA_SHA256, "model_params_sha256": PARAMS_SHA256}
    nets = {"nets": json.loads(json.dumps(NETS)), "validation": _VALIDATION}
    return {**nets, **shares, **net, **data}


def save(net: Mapping[str, Halves], file: Path) -> None:
    """Write a judge with its recipe."""
    save_file(dict(net), file, metadata={"recipe": json.dumps(recipe(), sort_keys=True)})


def find_problems(file: Path = OUTPUT) -> list[str]:
    """Return in which ways a judge is not the one that this script makes."""
    with safe_open(file, framework="numpy") as tensors:
        found = json.loads((tensors.metadata() or {}).get("recipe", "{}"))
    wanted = recipe()
    problems = [
        f"{name} is {found.get(name)!r}, not {wanted.get(name)!r}"
        for name in {**wanted, **found}
        if found.get(name) != wanted.get(name)
    ]
    if (sha256 := hashlib.sha256(file.read_bytes()).hexdigest()) != SHA256:
        problems.append(f"the checksum of {file.name} is {sha256}, not {SHA256}")
    return problems


def main() -> None:
    """Draw the lines, train the nets and write the judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="auto", help="folder of MNIST")
    parser.add_argument("--lines-in", type=Path, required=True, help="folder of the lines")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    given.lines_in.mkdir(exist_ok=True)
    make = partial(make_lines, name=given.data, folder=given.lines_in)
    with Pool(given.processes) as pool:
        most = max(lines for _, *stages in NETS for lines, *_ in stages)
        pool.map(make, range(most // _TASK), chunksize=1)
        nets = pool.starmap(partial(train, given.lines_in), NETS, chunksize=1)
    save(join(nets), given.output)


if __name__ == "__main__":
    main()
