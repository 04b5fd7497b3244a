"""Train the judge of `nanograd.numbers` on lines of MNIST's training digits.

    python -m scripts.make_judge --data FOLDER_OF_MNIST

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
from PIL import Image
from safetensors.numpy import save_file

from nanograd.api import load_model
from nanograd.digits.dataset import Dataset
from nanograd.errors import UnreadableError
from nanograd.images import sources
from nanograd.numbers import judge, locate, recognise
from nanograd.numbers.lattice import NO_DIGIT
from nanograd.runtime.arrays import Bytes, Doubles, Floats, Ints, Mask
from simulators.photos import photograph
from simulators.scenes import KINDS
from simulators.strings import HEIGHT, Style, write

OUTPUT = Path("nanograd/numbers/judge.safetensors")
# Lines per task, and share of the lines that are photographed.
_TASK, _PHOTOS = 100, 0.1
_HIDDEN, _BATCH, _RATE, _DECAY = 500, 128, 1e-3, 0.01
_NEVER = -1e30


@dataclass(frozen=True)
class Lines:
    """Pieces of L lines, one line after the other; see `nanograd.numbers.pieces.Pieces`."""

    texts: tuple[str, ...]
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
            tuple(self.texts[n] for n in chosen),
            self.nodes[chosen],
            self.counts[chosen],
            *(getattr(self, name)[rows] for name in pieces),
        )

    @staticmethod
    def join(parts: Sequence["Lines"]) -> "Lines":
        """Join lines."""
        arrays: list[Any] = [
            np.concatenate([getattr(part, each.name) for part in parts])
            for each in fields(Lines)[1:]
        ]
        return Lines(sum((part.texts for part in parts), ()), *arrays)


def draw_picture(digits: Bytes, draw: Generator) -> Image.Image:
    """Draw digits, (n, 784), as a picture of one line: on white, or as a photo."""
    style = Style(
        touching=draw.random() < 0.65,
        marks=0.2 * (draw.random() < 0.2),
        pale=0.2 * (draw.random() < 0.15),
    )
    ink = write(list(digits.reshape(-1, 28, 28)), style, draw)
    if draw.random() < _PHOTOS:
        data = photograph(ink, str(draw.choice(list(KINDS))), int(draw.integers(2**31)), HEIGHT)
        return Image.open(BytesIO(data))
    picture = Image.fromarray(255 - (ink * draw.uniform(0.5, 1)).astype(np.uint8))
    scale = draw.choice([0.5, 0.7, 1.0, 1.5])
    size = [max(1, round(side * scale)) for side in picture.size]
    return picture.resize(size, Image.Resampling.BICUBIC)


@cache
def load_digits(name: str) -> Dataset:
    """Load the training digits, once in each process."""
    return sources.load([name]).train


def make_lines(seed: int, name: str) -> Lines:
    """Draw lines of 1 to 5 digits and cut them into pieces, without lines that are not found."""
    data, draw = load_digits(name), np.random.default_rng([seed, 30])
    found = []
    for _ in range(_TASK):
        chosen = draw.integers(0, len(data), draw.integers(1, 6))
        picture = draw_picture(data.images[chosen], draw)
        try:
            cut = locate.find_lines(picture)
        except UnreadableError:
            continue
        pieces = recognise.divide(cut[0])
        if len(cut) > 1 or not len(pieces.first):
            continue
        text = "".join(map(str, data.labels[chosen]))
        counts = np.array([pieces.num_nodes]), np.array([len(pieces.first)])
        probabilities = np.maximum(load_model().probabilities(pieces.images), recognise.LEAST)
        known = np.pad(np.log(probabilities), ((0, 0), (0, 1)))
        names = ("first", "last", "images", "context", "geometry")
        own: dict[str, Any] = {name: getattr(pieces, name) for name in names}
        found.append(Lines(texts=(text,), nodes=counts[0], counts=counts[1], known=known, **own))
    return Lines.join(found)


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


def train(data: Lines, epochs: int, seed: int) -> Mapping[str, Floats]:
    """Train the net by AdamW with a cosine schedule."""
    draw = np.random.default_rng(seed)
    inputs = data.images.shape[1] + data.context.shape[1] + data.geometry.shape[1]
    net = {
        "hidden_weight": draw.normal(0, np.sqrt(2 / inputs), (inputs, _HIDDEN)),
        "hidden_bias": np.zeros(_HIDDEN),
        "weight": draw.normal(0, np.sqrt(0.25 / _HIDDEN), (_HIDDEN, NO_DIGIT + 1)),
        "bias": np.zeros(NO_DIGIT + 1),
    }
    net = {name: each.astype(np.float32) for name, each in net.items()}
    means = {name: np.zeros_like(each) for name, each in net.items()}
    squares = {name: np.zeros_like(each) for name, each in net.items()}
    steps, began, loss = epochs * (len(data.texts) // _BATCH), perf_counter(), 0.0
    for step, chosen in enumerate(_batches(len(data.texts), epochs, draw), 1):
        batch = data.take(chosen)
        given = judge.features(batch.images, batch.context, batch.geometry)
        hidden = np.maximum(given @ net["hidden_weight"] + net["hidden_bias"], 0)
        losses, slope = learn(hidden @ net["weight"] + net["bias"] + batch.known, batch)
        inner = (slope @ net["weight"].T) * (hidden > 0)
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
    return net


def _batches(count: int, epochs: int, draw: Generator) -> Iterator[Ints]:
    for _ in range(epochs):
        order = draw.permutation(count)
        for start in range(0, count - _BATCH + 1, _BATCH):
            yield np.sort(order[start : start + _BATCH])


def main() -> None:
    """Draw the lines, train the net and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="auto", help="folder of MNIST")
    parser.add_argument("--lines", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    seeds = range(given.seed * 10**6, given.seed * 10**6 + given.lines // _TASK)
    with Pool(given.processes) as pool:
        found = Lines.join(pool.map(partial(make_lines, name=given.data), seeds, chunksize=1))
    print(f"{len(found.texts):,} lines, {len(found.first):,} pieces")
    net = train(found, given.epochs, given.seed)
    save_file({name: each.astype(np.float16) for name, each in net.items()}, given.output)


if __name__ == "__main__":
    main()
