"""The judge in the package is the one that the script makes, and the script learns."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from nanograd.numbers.lattice import NO_DIGIT
from scripts import make_judge
from scripts.judge_lines import Lines
from scripts.make_judge import OUTPUT, find_problems, learn


def test_judge_is_the_one_that_the_script_makes() -> None:
    assert find_problems() == []


def test_judge_of_another_recipe_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(make_judge, "_DROPOUT", 0.7)
        make_judge.save(load_file(OUTPUT), tmp_path / "other.safetensors")

    [dropout, checksum] = find_problems(tmp_path / "other.safetensors")

    assert dropout == f"dropout is 0.7, not {make_judge._DROPOUT}"
    assert checksum.startswith("the checksum")


@pytest.fixture
def lines() -> Lines:
    """Two lines: three seams with all pieces between them, and two seams."""
    first, last = np.array([0, 0, 1, 0]), np.array([1, 2, 2, 1])
    empty = np.zeros((4, 0), np.uint8)
    numbers = np.zeros((4, 10), np.float32)
    counts = np.array([3, 2]), np.array([3, 1])
    return Lines(np.array(["31", "7"]), *counts, first, last, empty, empty, numbers)


def text_loss(scores: np.ndarray) -> float:
    """Compute the mean of -log p(text) by listing all paths."""
    e = np.exp(scores)
    every = e[1].sum() + e[0].sum() * e[2].sum()
    spelt = e[0, 3] * e[2, 1]
    return float(-np.log(spelt / every) - np.log(e[3, 7] / e[3].sum())) / 2


def test_loss_and_gradient_are_those_of_all_paths(lines: Lines) -> None:
    scores = np.random.default_rng(0).normal(size=(4, NO_DIGIT + 1))

    losses, gradient = learn(scores, lines)

    assert losses.mean() == pytest.approx(text_loss(scores))
    step = 1e-6
    for place in np.ndindex(scores.shape):
        moved = scores.copy()
        moved[place] += step
        slope = (text_loss(moved) - text_loss(scores)) / step
        assert gradient[place] == pytest.approx(slope, abs=1e-5)


def test_likely_pieces_of_lines_are_those_of_each_line(lines: Lines) -> None:
    scores = np.zeros((4, NO_DIGIT + 1))
    scores[1, 3] = 50  # the piece from end to end of the first line

    likely = lines.find_likely(scores)

    assert likely.tolist() == [False, True, False, True]
    [kept] = lines.take_pieces(likely).first[:1]
    assert kept == 0
    assert lines.take(np.array([1])).last.tolist() == [1]
