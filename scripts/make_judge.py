"""Train the judge of `nanograd.numbers` on lines of MNIST's training digits.

    python -m scripts.make_judge --data FOLDER_OF_MNIST --lines-in FOLDER

The folder keeps the lines, so a stopped run continues, and training can be repeated.

A line of digits is drawn or photographed (`simulators`), found and cut into pieces by the package
itself. Only its text is known, not which pieces are digits. The net maximises the probability of
the text: the sum over all paths that spell it, divided by the sum over all paths. The data and the
seed determine the lines; the weights also depend on the processor. PyTorch is needed (`.[bench]`).

Only the first net is trained. The second one is kept from the file: commit e30e39c5 of this script
trained it with the model's probabilities on 31,800 lines of 1 to 5 digits. The first net in the
package learnt most of these lines too, with 13,300 of this version, and the learning rate of its
first stage ended at a half. So this script does not make the same file again.

After a start on small batches, copies of the net learn parts of the lines. After each round, all
copies continue from the mean of their weights.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", VI.B.
    Loshchilov & Hutter (2019), "Decoupled weight decay regularization" (AdamW).
    Stich (2019), "Local SGD converges fast and communicates little" (means of copies).
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from io import BytesIO
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from nanograd.digits.dataset import SIDE, Dataset
from nanograd.digits.variants import draw_variants
from nanograd.errors import UnreadableError
from nanograd.images import sources
from nanograd.numbers import judge, locate, recognise
from nanograd.numbers.lattice import NO_DIGIT
from nanograd.numbers.pieces import CONTEXT
from nanograd.runtime.arrays import Bytes, Doubles, Floats, Ints, Mask
from nanograd.runtime.json_files import JsonObject
from scripts.make_model import DATA_SHA256
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


@dataclass(frozen=True)
class Stage:
    """A part of the training."""

    lines: int
    copies: int  # number of nets that are trained, on a part of the lines each
    rounds: int  # number of means of the copies
    steps: int  # number of batches in a round
    batch: int  # lines
    rate: float  # largest learning rate


# How the judge in the package was made, and the checksum of its file.
STAGES = (Stage(18_900, 1, 1, 800, 32, 2e-3), Stage(44_400, 3, 20, 120, 64, 1.5e-3))
SHA256 = "f8ecba7c4c1da98fb5a6b5240b84116f3c209ae04553361fbb6b38321fabf0c6"
# Lines in a file. The last images of the training set are left for validation.
_TASK, _VALIDATION = 100, 10_000
# Shares of lines: photos, forms, other pens on white, and MNIST's pen on white. Shares of those on
# white with a part of another digit, and of the rest with an underline.
_PHOTOS, _FORMS, _PENS, _BESIDE, _UNDERLINED = 0.12, 0.1, 0.25, 0.05, 0.04
# Share of lines without a digit.
_EMPTY = 0.08
# Shares of lines whose digits are all drawn from `nanograd.digits.variants`, or some of them.
_DRAWN, _MIXED, _NUM_DRAWN = 0.15, 0.1, 20_000
_MAPS, _HIDDEN, _DROPOUT, _DECAY = (16, 48), 160, 0.2, 0.01
# Pieces with smaller gradients are left out. They have less than 1 % of the gradient.
_LEAST_SLOPE = 3e-3
# Log of how many times fewer marks that are no digits users have than the lines of the training.
_FEWER_MARKS = 2.0
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

    def take(self, chosen: Ints) -> "Lines":
        """Return some lines."""
        ends = self.counts.cumsum()
        rows = np.concatenate([np.arange(ends[n] - self.counts[n], ends[n]) for n in chosen])
        pieces = ("first", "last", "images", "context", "geometry")
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
    images, kind = list(digits.reshape(-1, 28, 28)), draw.random() if len(digits) else 1.0
    if kind < _FORMS:
        form = write_in_boxes(images, draw)
        return Image.fromarray(cut_boxes(form, draw) if draw.random() < 0.7 else form)
    style = Style(
        touching=draw.random() < 0.6,
        marks=draw.choice([0.2, 0.5]) * (draw.random() < 0.3) if images else 0.75,
        pale=0.2 * (draw.random() < 0.2),
        links=0.3 * (draw.random() < 0.15),
        wobble=max(0.0, draw.uniform(-1.5, 2)),
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
    """Choose the images of up to 10 digits, (n, 784), and return their text."""
    written, drawn = load_digits(name)
    length = 0 if draw.random() < _EMPTY else draw.integers(1, 1 + draw.choice([3, 6, 10]))
    kind = draw.random()
    share = 1.0 if kind < _DRAWN else 0.5 if kind < _DRAWN + _MIXED else 0.0
    images, text = [], ""
    for _ in range(length):
        data = drawn if draw.random() < share else written
        number = int(draw.integers(len(data)))
        images.append(data.images[number])
        text += str(data.labels[number])
    return np.array(images, np.uint8).reshape(-1, SIDE**2), text


def make_lines(seed: int, name: str, folder: Path) -> None:
    """Draw lines, cut them into pieces and save them, without lines that are not found."""
    path = folder / f"{seed}.npz"
    if path.exists():
        return
    draw = np.random.default_rng([seed, 30])
    found = []
    for _ in range(_TASK):
        digits, text = choose_digits(name, draw)
        other = np.empty((0, SIDE**2), np.uint8)
        while not len(other):
            other, _ = choose_digits(name, draw)
        try:
            cut = locate.find_lines(draw_picture(digits, other[0], draw)).lines
        except UnreadableError:
            continue
        pieces = recognise.divide(cut[0])
        if len(cut) > 1 or not len(pieces.first):
            continue
        counts = np.array([pieces.num_nodes]), np.array([len(pieces.first)])
        names = ("first", "last", "images", "context", "geometry")
        own: dict[str, Any] = {name: getattr(pieces, name) for name in names}
        texts = np.array([text])
        found.append(Lines(texts=texts, nodes=counts[0], counts=counts[1], **own))
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


class Learner:
    """A net in training by AdamW, with a cosine schedule of the learning rate."""

    def __init__(self, net: Mapping[str, Floats], stage: Stage, seed: int) -> None:
        import torch  # noqa: PLC0415 - only needed to train

        torch.manual_seed(seed)
        self._draw, self._stage, self._steps = np.random.default_rng(seed), stage, 0
        self._net = {name: torch.tensor(each, requires_grad=True) for name, each in net.items()}
        self._optimizer = torch.optim.AdamW(self._net.values(), weight_decay=_DECAY)

    @property
    def net(self) -> dict[str, Floats]:
        """The weights."""
        return {name: each.detach().numpy().copy() for name, each in self._net.items()}

    def load(self, net: Mapping[str, Floats]) -> None:
        """Continue from other weights."""
        for name, each in self._net.items():
            each.data[...] = each.new_tensor(net[name])

    def fit(self, data: Lines) -> float:
        """Train for a round on batches of lines of similar size; return the mean loss of a line."""
        import torch  # noqa: PLC0415

        stage, losses = self._stage, []
        for chosen in _batches(data.counts, stage, self._draw):
            self._steps += 1
            progress = self._steps / (stage.rounds * stage.steps)
            rate = stage.rate * 0.5 * (1 + np.cos(np.pi * progress)) * min(1, self._steps / 100)
            self._optimizer.param_groups[0]["lr"] = rate
            batch = data.take(chosen)
            given = judge.inputs(batch.images, batch.context, batch.geometry)
            images, others = map(torch.from_numpy, given)
            with torch.autocast("cpu", torch.bfloat16):
                with torch.no_grad():
                    scores = compute(self._net, images, others).float().numpy()
                loss, slope = learn(scores, batch)
                steep = np.abs(slope).max(1) > _LEAST_SLOPE / len(chosen)
                scores = compute(self._net, images[steep], others[steep]).float()
                self._optimizer.zero_grad()
                scores.backward(torch.from_numpy(slope[steep]))
            self._optimizer.step()
            losses.append(float(loss.mean()))
        return float(np.mean(losses))


def compute(net: Mapping[str, Any], images: Any, others: Any) -> Any:
    """Compute scores as `Judge.scores`, in PyTorch and with dropout."""
    import torch  # noqa: PLC0415
    from torch.nn import functional  # noqa: PLC0415

    maps = images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    for layer in ("first", "second"):
        weight = net[f"{layer}_weight"]
        window = weight.view(judge.WINDOW, judge.WINDOW, -1, weight.shape[1]).permute(3, 2, 0, 1)
        maps = functional.conv2d(maps, window, net[f"{layer}_bias"])
        maps = functional.max_pool2d(functional.relu(maps), 2)
    values = torch.cat([maps.permute(0, 2, 3, 1).flatten(1), others], 1)
    values = functional.dropout(values, _DROPOUT)
    hidden = functional.relu(values @ net["of_maps.hidden_weight"] + net["of_maps.hidden_bias"])
    return functional.dropout(hidden, _DROPOUT) @ net["of_maps.weight"] + net["of_maps.bias"]


def start() -> dict[str, Floats]:
    """Draw the weights of a net."""
    draw, window = np.random.default_rng(0), judge.WINDOW**2
    sizes = {
        "first_": (window, _MAPS[0]),
        "second_": (window * _MAPS[0], _MAPS[1]),
        "of_maps.hidden_": (16 * _MAPS[1] + CONTEXT[0] * CONTEXT[1] + 10, _HIDDEN),
        "of_maps.": (_HIDDEN, NO_DIGIT + 1),
    }
    net: dict[str, Floats] = {}
    for name, size in sizes.items():
        scale = np.sqrt((0.25 if name == "of_maps." else 2) / size[0])
        net[f"{name}weight"] = draw.normal(0, scale, size).astype(np.float32)
        net[f"{name}bias"] = np.zeros(size[1], np.float32)
    return net


def train(folder: Path) -> Mapping[str, Floats]:
    """Train the net on saved lines, one stage after the other."""
    net = start()
    for number, stage in enumerate(STAGES):
        files = [folder / f"{each}.npz" for each in range(stage.lines // _TASK)]
        parts = [load_lines(files[copy :: stage.copies]) for copy in range(stage.copies)]
        learners = [Learner(net, stage, seed=10 * number + copy) for copy in range(stage.copies)]
        for each in range(stage.rounds):
            losses = [learner.fit(part) for learner, part in zip(learners, parts, strict=True)]
            nets = [learner.net for learner in learners]
            net = {name: np.mean([other[name] for other in nets], axis=0) for name in net}
            for learner in learners:
                learner.load(net)
            print(f"stage {number}, round {each}: loss {np.mean(losses):.4f}", flush=True)
    return net


def _batches(counts: Ints, stage: Stage, draw: Generator) -> Iterator[Ints]:
    """Yield the numbers of lines with similar numbers of pieces, which `learn` does faster."""
    done = 0
    while done < stage.steps:
        order = np.argsort(counts * draw.uniform(0.8, 1.25, len(counts)))
        order = order[draw.integers(len(order) % stage.batch + 1) :]
        for place in draw.permutation(len(order) // stage.batch)[: stage.steps - done]:
            yield np.sort(order[place * stage.batch :][: stage.batch])
            done += 1


def recipe() -> JsonObject:
    """Return all settings on which the judge depends."""
    shares = {"photos": _PHOTOS, "forms": _FORMS, "pens": _PENS, "beside": _BESIDE}
    shares |= {"underlined": _UNDERLINED, "drawn": _DRAWN, "mixed": _MIXED, "empty": _EMPTY}
    net = {"maps": list(_MAPS), "hidden": _HIDDEN, "dropout": _DROPOUT, "decay": _DECAY}
    net |= {"fewer_marks": _FEWER_MARKS}
    stages = [asdict(stage) for stage in STAGES]
    return {
        "stages": stages,
        "validation": _VALIDATION,
        "data_sha256": DATA_SHA256,
        **shares,
        **net,
    }


def save(net: Mapping[str, Floats], file: Path) -> None:
    """Write a judge with its recipe: a new first net, and the second net of the package."""
    halves = {name: each.astype(np.float16) for name, each in net.items()}
    halves["of_maps.bias"][NO_DIGIT] -= _FEWER_MARKS
    kept = load_file(OUTPUT)
    halves |= {name: each for name, each in kept.items() if name.startswith("of_pixels.")}
    save_file(halves, file, metadata={"recipe": json.dumps(recipe(), sort_keys=True)})


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
    """Draw the lines, train the net and write the judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="auto", help="folder of MNIST")
    parser.add_argument("--lines-in", type=Path, required=True, help="folder of the lines")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    given.lines_in.mkdir(exist_ok=True)
    make = partial(make_lines, name=given.data, folder=given.lines_in)
    with Pool(given.processes) as pool:
        pool.map(make, range(max(stage.lines for stage in STAGES) // _TASK), chunksize=1)
    save(train(given.lines_in), given.output)


if __name__ == "__main__":
    main()
