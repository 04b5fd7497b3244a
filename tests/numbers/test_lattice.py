"""Paths through lattices against all paths, listed one by one."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from nanograd.numbers import lattice
from nanograd.numbers.lattice import NO_DIGIT, WHOLE, best_path, find_likely
from nanograd.numbers.pieces import Pieces
from nanograd.runtime.arrays import Doubles
from scripts.lines import Lines
from scripts.make_judge import learn


def make_pieces(seed: int) -> tuple[Pieces, Doubles]:
    """Make a random lattice of up to five nodes, whose pieces do not overlap in their boxes."""
    draw = np.random.default_rng(seed)
    nodes = int(draw.integers(2, 6))
    pairs = [(a, b) for a in range(nodes) for b in range(a + 1, nodes)]
    pairs = [pair for pair in pairs if pair[1] - pair[0] == 1 or draw.random() < 0.6]
    first, last = np.array(pairs).T
    count = len(pairs)
    boxes = np.array([(10 * number, 0, 10 * number + 5, 5) for number in range(count)])
    pixels = np.zeros((count, 784), np.uint8)
    pieces = Pieces(nodes, first, last, boxes, pixels, pixels, np.zeros((count, 10), np.float32))
    return pieces, draw.normal(0, 2, (count, NO_DIGIT + 1))


def list_paths(pieces: Pieces, node: int = 0) -> Iterator[list[int]]:
    if node == pieces.num_nodes - 1:
        yield []
    for piece in np.flatnonzero(pieces.first == node).tolist():
        for rest in list_paths(pieces, int(pieces.last[piece])):
            yield [piece, *rest]


def list_readings(pieces: Pieces) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    for path in list_paths(pieces):
        for classes in product(range(NO_DIGIT + 1), repeat=len(path)):
            yield path, classes


def spell(classes: tuple[int, ...]) -> str:
    return "".join(str(each) for each in classes if each != NO_DIGIT)


@pytest.mark.parametrize("seed", range(12))
def test_best_path_is_the_best_one_of_the_text_that_both_find_probable(seed: int) -> None:
    pieces, scores = make_pieces(seed)
    texts: dict[str, list[tuple[float, list[int], tuple[int, ...]]]] = {}
    for path, classes in list_readings(pieces):
        value = float(scores[path, classes].sum())
        texts.setdefault(spell(classes), []).append((value, path, classes))
    draw = np.random.default_rng(seed)
    offered = {str(text): draw.normal(0, 1) for text in draw.choice(sorted(texts), 6)}
    offered["" if seed % 2 else "99999999"] = -2.0
    offered[""] = -3.0
    first = max(texts, key=lambda text: max(texts[text])[0])
    known = {first: min(offered.values()), **offered}
    values = {
        text: (np.logaddexp.reduce([each[0] for each in texts[text]]) + WHOLE * known[text])
        / (1 + WHOLE)
        for text in known
        if text in texts
    }
    best = max(values, key=lambda text: values[text])
    shares = {
        text: np.exp(value - np.logaddexp.reduce(list(values.values())))
        for text, value in values.items()
    }

    path = best_path(pieces, scores, offered)

    assert path is not None
    assert spell(tuple(path.classes.tolist())) == best
    assert path.probability == pytest.approx(shares[best])
    assert path.lead == pytest.approx(values[best] - values[""])
    _, own, classes = max(texts[best])
    assert (path.pieces.tolist(), tuple(path.classes.tolist())) == (own, classes)
    ways = {text: max(texts[text])[1:] for text in values}
    for number, found in zip(own, path.shares, strict=True):
        for digit in range(NO_DIGIT + 1):
            expected = sum(
                shares[text]
                for text, way in ways.items()
                if (number, digit) in zip(*way, strict=True)
            )
            assert found[digit] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("margin", [0.0, 1.0, 4.0])
def test_likely_pieces_are_on_a_path_that_is_almost_as_good_as_the_best(
    seed: int, margin: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces, scores = make_pieces(seed)
    values = {tuple(path): scores.max(1)[path].sum() for path in list_paths(pieces)}
    monkeypatch.setattr(lattice, "MARGIN", margin + 1e-9)

    likely = find_likely(pieces, scores)

    least = max(values.values()) - margin
    good = {piece for path, value in values.items() if value >= least for piece in path}
    assert set(np.flatnonzero(likely).tolist()) == good
    path = best_path(pieces.take(likely), scores[likely], {"": -1000.0})
    whole = best_path(pieces, scores, {"": -1000.0})
    assert path is not None
    assert whole is not None
    assert np.flatnonzero(likely)[path.pieces].tolist() == whole.pieces.tolist()


def test_lattice_without_a_way_to_its_end_has_no_path() -> None:
    pieces, scores = make_pieces(0)
    cut_off = Pieces(
        pieces.num_nodes + 1,
        *(getattr(pieces, name) for name in ("first", "last", "boxes", "images", "context")),
        pieces.geometry,
    )

    assert best_path(cut_off, scores, {"": 0.0}) is None
    likely = find_likely(cut_off, scores)
    assert best_path(cut_off.take(likely), scores[likely], {"": 0.0}) is None


def test_gradient_of_the_judge_is_the_slope_of_its_loss() -> None:
    found = [make_pieces(seed) for seed in range(6)]
    texts = ("1", "22", "307", "", "45", "9")
    batch = Lines(
        texts,
        np.array([each.num_nodes for each, _ in found]),
        np.array([len(each.first) for each, _ in found]),
        *(
            np.concatenate([getattr(each, name) for each, _ in found])
            for name in ("first", "last", "images", "context", "geometry")
        ),
    )
    scores = np.concatenate([each for _, each in found])
    losses, gradient = learn(scores, batch)

    for (pieces, each), text, loss in zip(found, texts, losses, strict=True):
        values = {True: [-np.inf], False: [-np.inf]}
        for path, classes in list_readings(pieces):
            values[spell(classes) == text].append(each[path, classes].sum())
        right, wrong = (np.logaddexp.reduce(values[key]) for key in (True, False))
        expected = np.logaddexp(right, wrong) - right
        assert loss == pytest.approx(expected if np.isfinite(right) else 0)
    for place in np.ndindex(*scores.shape):
        step = np.zeros_like(scores)
        step[place] = 1e-5
        slope = (learn(scores + step, batch)[0] - learn(scores - step, batch)[0]).mean() / 2e-5
        assert gradient[place] == pytest.approx(slope, abs=1e-6)
