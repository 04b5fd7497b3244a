"""The nets of `nanograd.numbers` are those of their recipes, and the judge learns."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import load_file

from nanograd.numbers.lattice import NO_DIGIT
from nanograd.numbers.line_net import load_line_net
from scripts import make_judge, make_line_net
from scripts.lines import Lines
from scripts.make_judge import learn
from scripts.recipes import find_problems, save

SCRIPTS = pytest.mark.parametrize("script", [make_judge, make_line_net])


@SCRIPTS
def test_net_is_the_one_of_the_recipe(script: ModuleType) -> None:
    assert find_problems(script.OUTPUT, script.recipe(), script.SHA256) == []


@SCRIPTS
def test_net_of_another_recipe_is_a_problem(script: ModuleType, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save(load_file(script.OUTPUT), other, {**script.recipe(), "dropout": 0.7})

    [dropout, checksum] = find_problems(other, script.recipe(), script.SHA256)

    assert dropout == f"dropout is 0.7, not {script.recipe()['dropout']}"
    assert checksum.startswith("the checksum")


def test_found_and_drawn_lines_show_their_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line net reads most lines of both kinds, though it has not seen the sample's digits."""
    monkeypatch.setattr("scripts.lines.VALIDATION", 100)
    monkeypatch.setattr(make_line_net, "TASK", 24)
    make_line_net.find_lines(3, "sample", tmp_path)
    found = make_line_net.load_lines([tmp_path / "3.npz"])
    draw = np.random.default_rng(0)
    drawn = [make_line_net.draw_line("sample", draw, ()) for _ in range(24)]

    for samples in (found, drawn):
        assert len(samples) > 15
        assert sum(read_ink(ink) == text for text, ink in samples) > 0.5 * len(samples)


def read_ink(ink: np.ndarray) -> str:
    """Return the digits of the most probable class of each frame."""
    classes = load_line_net().read(ink / np.float32(255)).argmax(1)
    starts = np.diff(classes, prepend=NO_DIGIT) != 0
    return "".join(str(each) for each in classes[starts] if each != NO_DIGIT)


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
