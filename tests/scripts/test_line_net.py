from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from nanograd.numbers.line_net import load_line_net, shrink
from nanograd.numbers.texts import NO_DIGIT
from scripts import make_line_net as script
from scripts.lines import draw_pages, draw_rows
from scripts.recipes import find_problems, save


def test_net_is_the_one_of_the_recipe() -> None:
    assert find_problems(script.OUTPUT, script.recipe(), script.SHA256) == []


def test_net_of_another_recipe_is_a_problem(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save(load_file(script.OUTPUT), other, {**script.recipe(), "dropout": 0.7})

    [dropout, checksum] = find_problems(other, script.recipe(), script.SHA256)

    assert dropout == f"dropout is 0.7, not {script.recipe()['dropout']}"
    assert checksum.startswith("the checksum")


def test_found_and_drawn_lines_show_their_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.lines.VALIDATION", 100)
    monkeypatch.setattr(script, "TASK", 24)
    script.find_lines(3, "sample", tmp_path)
    found = script.load_lines([tmp_path / "3.npz"])
    draw = np.random.default_rng(0)
    drawn = [script.draw_line("sample", draw, ()) for _ in range(24)]

    lines = [each for _ in range(5) for each in draw_pages("sample", draw, ())]
    lines += [each for _ in range(9) for each in draw_rows("sample", draw)]
    others = [(text, shrink(each.ink, (each.top + each.bottom) / 2)) for text, each in lines]

    for samples in (found, drawn, [(text, np.round(255 * ink)) for text, ink in others]):
        assert len(samples) > 15
        assert sum(read_ink(ink) == text for text, ink in samples) > 0.5 * len(samples)


def read_ink(ink: np.ndarray) -> str:
    """Return the digits of the most probable class of each frame."""
    classes = load_line_net().read(ink / np.float32(255)).argmax(1)
    starts = np.diff(classes, prepend=NO_DIGIT) != 0
    return "".join(str(each) for each in classes[starts] if each != NO_DIGIT)
