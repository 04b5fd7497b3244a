"""Train the judge of `nanograd.numbers` on lines of MNIST's training digits.

    python -m scripts.make_judge --data FOLDER_OF_MNIST --lines-in FOLDER

The folder keeps the lines, so a stopped run continues, and training can be repeated.

`lines` draws the lines. Only the text of a line is known, not which pieces are digits. A net
maximises the probability of the text: the sum over all paths that spell it, divided by the sum over
all paths. The weights also depend on the processor. PyTorch is needed (`.[bench]`).

The nets in the package were not made by one run, so this script does not make the same file again.
The first net is older. It learnt lines of earlier versions of this script, without `vary`. The
second net continued from an earlier one with fewer units. Two copies of it learnt for 50 minutes,
with half of 48,000 earlier lines each, and 11,600 lines of this script, most of them clean. The
copies averaged their weights after every 40 batches.

The first net learns all pieces. The second one learns the pieces that the first one finds likely.
The weight of a model's probabilities (`_GAIN`) was chosen on lines of digits left for validation,
with a model that had not learnt them. `_FEWER_MARKS` is the largest of 1, 1.5, 2 and 2.5 with which
a slash between the digits of a test is left out. On the validation lines, 3 reads more lines right.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", VI.B.
    Loshchilov & Hutter (2019), "Decoupled weight decay regularization" (AdamW).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nanograd.digits.dataset import SIDE
from nanograd.numbers import judge
from nanograd.numbers.lattice import NO_DIGIT
from nanograd.numbers.pieces import CONTEXT
from nanograd.runtime.arrays import Doubles, Floats, Ints, Mask
from nanograd.runtime.json_files import JsonObject
from scripts import recipes
from scripts.lines import SETTINGS, TASK, Lines, draw_files, make_lines
from scripts.make_model import DATA_SHA256

OUTPUT = Path(judge.__file__).with_name("judge.safetensors")


@dataclass(frozen=True)
class Stage:
    """The training of a net."""

    steps: int  # number of batches
    batch: int  # lines
    rate: float  # largest learning rate


# Number of lines, and a stage for each net; and the checksum of the file in the package.
LINES, STAGES = 60_000, (Stage(4_000, 64, 2e-3), Stage(15_000, 64, 1.5e-3))
SHA256 = "f1fd82013ff115c2fa1526e9746c038e3c4a6dae248115217aacc1e6f9baee01"
# Hidden units of the first net; maps, hidden units and share of dropped inputs of the second one.
_QUICK, _MAPS, _HIDDEN, _DROPOUT, _DECAY = 192, (16, 64), 320, 0.15, 0.02
# Share of the new weights in their moving average after each batch.
_NEW = 0.003
# Loss above which the text of a line has little weight at the end; at the start, it is larger.
_HOPELESS = 10.0
# Pieces with smaller gradients are left out. They have less than 1 % of the gradient.
_LEAST_SLOPE = 4e-3
# Log of how many times fewer marks that are no digits users have than the lines of the training.
_FEWER_MARKS = 1.0
# Weight of the logs of a model's probabilities.
_GAIN = 0.3
# Standard deviations of the maps that distort a line: of x and y by x, y and 1; a share of them is
# drawn for each piece. Share of lines with another pen, and its standard deviation.
_AFFINE, _OWN = ((0.06, 0.1, 0.04), (0.04, 0.06, 0.04)), 0.15
_OTHER_PEN, _PEN = 0.5, 0.3
_NEVER = -1e30


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


def fit(
    net: dict[str, Floats], stage: Stage, data: Lines, compute: Callable[..., Any]
) -> dict[str, Floats]:
    """Train a net by AdamW on batches of lines, and return the moving average of its weights.

    `compute` returns scores, in PyTorch, of a dictionary of weights and the rows of `data`.
    """
    import torch  # noqa: PLC0415 - only needed to train

    torch.manual_seed(0)
    weights = {name: torch.tensor(each, requires_grad=True) for name, each in net.items()}
    mean = {name: each.detach().clone() for name, each in weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), weight_decay=_DECAY)
    for step, chosen in enumerate(_batches(data.counts, stage), 1):
        rate = 0.5 * (1 + np.cos(np.pi * step / stage.steps)) * min(1, step / 200)
        optimizer.param_groups[0]["lr"] = stage.rate * rate
        batch = data.take(chosen)
        images, others = judge.inputs(batch.images, batch.context, batch.geometry)
        images, others = vary(images, batch.counts), torch.from_numpy(others)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                scores = compute(weights, images, others).numpy()
            losses, slope = learn(scores, batch)
            least = _HOPELESS * stage.steps / step
            slope *= np.repeat(_trust(losses, least), batch.counts)[:, None]
            steep = torch.from_numpy(np.abs(slope).max(1) > _LEAST_SLOPE / len(chosen))
            scores = compute(weights, images[steep], others[steep])
            optimizer.zero_grad()
            scores.backward(torch.from_numpy(slope)[steep])
        optimizer.step()
        for name, each in weights.items():
            mean[name].lerp_(each.detach(), _NEW)
        if step % 100 == 0:
            print(f"{step} of {stage.steps}: loss {losses.mean():.3f}", flush=True)
    return {name: each.numpy() for name, each in mean.items()}


def vary(images: Floats, counts: Ints) -> Any:
    """Distort images, (P, 28, 28, 1), by one affine map and one pen for each line, in PyTorch."""
    import torch  # noqa: PLC0415
    from torch.nn import functional  # noqa: PLC0415

    size, deviation = len(counts), torch.tensor(_AFFINE)
    line = torch.repeat_interleave(torch.arange(size), torch.from_numpy(counts))
    maps = torch.eye(2, 3) + (torch.randn(size, 2, 3) * deviation)[line]
    maps += torch.randn(len(line), 2, 3) * deviation * _OWN
    ink = torch.from_numpy(images).view(-1, 1, SIDE, SIDE)
    paper = ink.min()
    places = functional.affine_grid(maps, list(ink.shape), align_corners=False)
    ink = functional.grid_sample(ink - paper, places, align_corners=False)
    pen = (torch.randn(size, 1, 1, 1) * _PEN).clamp(-2 * _PEN, 2 * _PEN)[line]
    drawn = (torch.rand(size) < _OTHER_PEN)[line]
    pen, some = pen[drawn], ink[drawn]
    # The extreme of the pixels around a pixel, darkest or lightest.
    extreme = pen.sign() * functional.max_pool2d(pen.sign() * some, 3, 1, 1)
    ink[drawn] = some + pen.abs() * (extreme - some)
    return (ink + paper).view(-1, SIDE, SIDE, 1)


def _batches(counts: Ints, stage: Stage) -> Iterator[Ints]:
    """Yield the numbers of lines with similar numbers of pieces, which `learn` does faster."""
    done, draw = 0, np.random.default_rng(0)
    while done < stage.steps:
        order = np.argsort(counts * draw.uniform(0.8, 1.25, len(counts)))
        order = order[draw.integers(len(order) % stage.batch + 1) :]
        for place in draw.permutation(len(order) // stage.batch)[: stage.steps - done]:
            yield np.sort(order[place * stage.batch :][: stage.batch])
            done += 1


def _trust(losses: Doubles, hopeless: float) -> Floats:
    """Return factors for the gradients of -log(p(text) + exp(-hopeless))."""
    return np.asarray(1 / (1 + np.exp(np.minimum(losses - hopeless, 50))), np.float32)


def compute_quick(net: Mapping[str, Any], images: Any, others: Any) -> Any:
    """Compute scores as `Judge.quick_scores`, in PyTorch."""
    import torch  # noqa: PLC0415
    from torch.nn.functional import avg_pool2d  # noqa: PLC0415

    half = avg_pool2d(images.view(-1, SIDE, SIDE), 2).flatten(1)
    return _perceptron(net, "quick", torch.cat([half, others], 1), 0.0)


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
    return _perceptron(net, "of_maps", values, _DROPOUT)


def _perceptron(net: Mapping[str, Any], name: str, values: Any, dropout: float) -> Any:
    from torch.nn.functional import dropout as drop  # noqa: PLC0415
    from torch.nn.functional import relu  # noqa: PLC0415

    weights, biases = ([net[f"{name}.{layer}{each}"] for layer in ("hidden_", "")]
                       for each in ("weight", "bias"))  # fmt: skip
    hidden = relu(drop(values, dropout) @ weights[0] + biases[0])
    return (drop(hidden, dropout) @ weights[1] + biases[1]).float()


def start(sizes: Mapping[str, tuple[int, int]]) -> dict[str, Floats]:
    """Draw weights (inputs, outputs) by name; there is a bias for each output."""
    draw, net = np.random.default_rng(0), dict[str, Floats]()
    for name, size in sizes.items():
        scale = np.sqrt((0.25 if size[1] == NO_DIGIT + 1 else 2) / size[0])
        net[f"{name}weight"] = draw.normal(0, scale, size).astype(np.float32)
        net[f"{name}bias"] = np.zeros(size[1], np.float32)
    return net


def train(paths: Sequence[Path]) -> Mapping[str, Floats]:
    """Train the first net on all pieces of saved lines, and the second one on the likely pieces."""
    import torch  # noqa: PLC0415

    data = Lines.join([Lines(**np.load(path)) for path in paths])
    around, classes = CONTEXT[0] * CONTEXT[1] + 10, NO_DIGIT + 1
    sizes = {"quick.hidden_": (SIDE**2 // 4 + around, _QUICK), "quick.": (_QUICK, classes)}
    quick = fit(start(sizes), STAGES[0], data, compute_quick)
    with torch.no_grad():
        weights = {name: torch.from_numpy(each) for name, each in quick.items()}
        given = judge.inputs(data.images, data.context, data.geometry)
        scores = compute_quick(weights, *map(torch.from_numpy, given)).numpy()
    likely = data.find_likely(scores.astype(np.float64))
    counts = np.add.reduceat(likely, data.counts.cumsum() - data.counts)
    data = replace(data.take_pieces(likely), counts=counts)
    window, (first, second) = judge.WINDOW**2, _MAPS
    sizes = {
        "first_": (window, first),
        "second_": (window * first, second),
        "of_maps.hidden_": (16 * second + around, _HIDDEN),
        "of_maps.": (_HIDDEN, classes),
    }
    return quick | fit(start(sizes), STAGES[1], data, compute)


def recipe() -> JsonObject:
    """Return all settings on which the judge depends."""
    net = {"maps": list(_MAPS), "hidden": [_QUICK, _HIDDEN], "dropout": _DROPOUT, "decay": _DECAY}
    net |= {"fewer_marks": _FEWER_MARKS, "hopeless": _HOPELESS, "new": _NEW}
    net |= {"gain": _GAIN, "affine": [list(row) for row in _AFFINE], "own": _OWN}
    net |= {"other_pen": _OTHER_PEN, "pen": _PEN}
    stages = [asdict(stage) for stage in STAGES]
    return {"lines": LINES, "stages": stages, "data_sha256": DATA_SHA256, **SETTINGS, **net}


def save(net: Mapping[str, Floats], file: Path) -> None:
    """Write a judge with its recipe."""
    bias = net["of_maps.bias"] - _FEWER_MARKS * (np.arange(NO_DIGIT + 1) == NO_DIGIT)
    gain = np.array([_GAIN], np.float32)
    recipes.save({**net, "of_maps.bias": bias, "gain": gain}, file, recipe())


def main() -> None:
    """Draw the lines, train the nets and write the judge."""
    paths, given = draw_files(__doc__, OUTPUT, LINES // TASK, make_lines)
    save(train(paths), given.output)


if __name__ == "__main__":
    main()
