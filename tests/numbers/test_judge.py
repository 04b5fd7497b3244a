"""The judge against its layers, computed one by one in another way."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import correlate

from nanograd.numbers.judge import Perceptron, inputs, load_judge, slant
from nanograd.numbers.pieces import CONTEXT, Pieces

Values = NDArray[np.floating]


def perceptron(net: Perceptron, *values: Values) -> Values:
    hidden = np.concatenate([each.ravel() for each in values]) @ net.hidden_weight + net.hidden_bias
    return np.asarray(np.maximum(hidden, 0) @ net.weight + net.bias)


@pytest.mark.parametrize("count", [0, 1, 3, 70])
def test_scores_are_those_of_the_layers(count: int) -> None:
    draw, judge = np.random.default_rng(count), load_judge()
    images = draw.integers(0, 256, (count, 784), dtype=np.uint8)
    context = draw.integers(0, 256, (count, CONTEXT[0] * CONTEXT[1]), dtype=np.uint8)
    geometry = draw.random((count, 10), dtype=np.float32)
    nodes = np.zeros(count, np.int64)
    pieces = Pieces(2, nodes, nodes, np.zeros((count, 4), np.int64), images, context, geometry)
    probabilities = draw.dirichlet(np.ones(10), count).astype(np.float32)

    quick = judge.quick_scores(pieces)
    scores = judge.scores(pieces, probabilities)

    assert quick.shape == scores.shape == (count, 11)
    layers = (judge.first_weight, judge.first_bias), (judge.second_weight, judge.second_bias)
    for number, (pixels, others) in enumerate(zip(*inputs(images, context, geometry), strict=True)):
        halves = [pixels[a::2, b::2] for a in (0, 1) for b in (0, 1)]
        expected = perceptron(judge.quick, np.mean(halves, axis=0), others)
        assert quick[number] == pytest.approx(expected, rel=1e-4, abs=1e-3)
        maps = pixels
        for weight, bias in layers:
            windows = weight.reshape(5, 5, maps.shape[2], -1)
            sums = [correlate(maps, windows[..., n], "valid")[..., 0] for n in range(len(bias))]
            maps = np.maximum(np.stack(sums, axis=-1) + bias, 0)
            maps = maps.reshape(len(maps) // 2, 2, len(maps) // 2, 2, -1).max((1, 3))
        expected = perceptron(judge.of_maps, maps, others)
        expected[:10] += judge.gain * np.log(probabilities[number])
        assert scores[number] == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("columns", [0, 0.1, -0.1, 0.03])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (36, 100), (36, 8)])
def test_slant_moves_each_row(columns: float, height: int, width: int) -> None:
    pictures, middle = np.zeros((2, height, width), np.uint8), width // 2
    pictures[1, :, middle - 2 : middle + 2] = 200

    slanted = slant(pictures, columns)

    assert not slanted[0].any()
    assert slanted[1].sum(1) == pytest.approx(800, abs=1e-3)
    places = (slanted[1] * np.arange(width)).sum(1) / slanted[1].sum(1)
    rows = np.arange(height) - (height - 1) / 2
    assert places == pytest.approx(middle - 0.5 - columns * rows, abs=1e-4)
