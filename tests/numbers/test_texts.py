"""Texts against all ways to place them in a few frames, listed one by one."""

from collections import defaultdict
from itertools import product

import numpy as np
import pytest

from nanograd.numbers.texts import (
    NO_DIGIT,
    compute_logs,
    find_frames,
    find_shares,
    find_texts,
)
from nanograd.runtime.arrays import Doubles

SEEDS = pytest.mark.parametrize("seed", range(8))
DIGITS = (3, 7)


def draw_frames(seed: int, frames: int = 5) -> Doubles:
    """Draw probabilities of two digits and of no digit, so that a search leaves nothing out."""
    probabilities = np.zeros((frames, NO_DIGIT + 1))
    shares = np.random.default_rng(seed).dirichlet(np.ones(3), frames)
    probabilities[:, [*DIGITS, NO_DIGIT]] = shares
    return probabilities


def list_ways(probabilities: Doubles) -> dict[str, list[tuple[float, tuple[int, ...]]]]:
    """List all ways of each text, with their probabilities."""
    texts = defaultdict[str, list[tuple[float, tuple[int, ...]]]](list)
    for way in product((*DIGITS, NO_DIGIT), repeat=len(probabilities)):
        # Equal digits without a frame between them are one.
        starts = np.diff(way, prepend=NO_DIGIT) != 0
        text = "".join(str(each) for each in np.array(way)[starts] if each != NO_DIGIT)
        texts[text].append((probabilities[np.arange(len(way)), way].prod(), way))
    return texts


@SEEDS
def test_texts_have_the_shares_of_all_their_ways(seed: int) -> None:
    probabilities = draw_frames(seed, frames=4)
    expected = {text: sum(p for p, _ in ways) for text, ways in list_ways(probabilities).items()}

    texts = find_texts(probabilities)

    best = max(expected, key=lambda text: expected[text])
    assert max(texts, key=lambda text: texts[text]) == best
    total = sum(expected[text] for text in texts)
    assert sum(map(np.exp, texts.values())) == pytest.approx(1)
    for text, value in texts.items():
        assert np.exp(value) == pytest.approx(expected[text] / total, rel=0.1, abs=0.02)
    logs = compute_logs(probabilities[None], list(expected))
    assert np.exp(logs) == pytest.approx(list(expected.values()), rel=1e-3, abs=1e-5)


@SEEDS
def test_digits_are_in_the_frames_of_the_most_probable_way(seed: int) -> None:
    probabilities = draw_frames(seed)
    for text, ways in list_ways(probabilities).items():
        if not text:
            continue
        _, way = max(ways)
        starts = np.flatnonzero(np.diff(way, prepend=NO_DIGIT))
        starts = starts[np.array(way)[starts] != NO_DIGIT]
        expected = []
        for digit, start in zip(map(int, text), starts, strict=True):
            end = start
            while end < len(way) and way[end] == digit:
                end += 1
            expected.append(start + int(probabilities[start:end, digit].argmax()))

        assert find_frames(probabilities, text).tolist() == expected


@SEEDS
def test_shares_compare_texts_that_differ_in_one_place(seed: int) -> None:
    probabilities = draw_frames(seed, frames=7)
    ways = list_ways(probabilities)
    text = max((each for each in ways if len(each) > 2), key=lambda each: max(ways[each]))
    frames = find_frames(probabilities, text)

    shares = find_shares(probabilities, text, frames)

    assert shares.shape == (len(text), NO_DIGIT)
    ends = [0, *frames, len(probabilities) - 1]
    for place, found in enumerate(shares):
        known = list_ways(probabilities[ends[place] : ends[place + 2] + 1])
        values = [
            sum(
                p for p, _ in known[text[max(place - 1, 0) : place] + digit + text[place + 1 :][:1]]
            )
            for digit in ("", *map(str, DIGITS))
        ]
        assert found[list(DIGITS)] == pytest.approx(np.divide(values, sum(values))[1:], abs=2e-4)
        assert found.sum() == pytest.approx(found[list(DIGITS)].sum())


def test_line_of_2000_frames_has_finite_logs() -> None:
    probabilities = np.zeros((2000, NO_DIGIT + 1))
    probabilities[::2, NO_DIGIT], probabilities[1::2, 5] = 1, 1

    texts = find_texts(probabilities)

    assert max(texts, key=lambda text: texts[text]) == "5" * 1000
    assert np.isfinite(list(texts.values())).all()
    assert np.isfinite(compute_logs(probabilities[None], ["5" * 1000, "5" * 2000, ""])).all()
    assert find_frames(probabilities, "5" * 1000).tolist() == list(range(1, 2000, 2))
