"""The judge against its layers, computed one by one in another way."""

import numpy as np
import pytest
from scipy.signal import correlate

from nanograd.numbers.judge import inputs, load_judge
from nanograd.numbers.pieces import CONTEXT, Pieces


@pytest.mark.parametrize("count", [0, 1, 3, 70])
def test_scores_are_those_of_the_layers(count: int) -> None:
    draw, judge = np.random.default_rng(count), load_judge()
    images = draw.integers(0, 256, (count, 784), dtype=np.uint8)
    context = draw.integers(0, 256, (count, CONTEXT[0] * CONTEXT[1]), dtype=np.uint8)
    geometry = draw.random((count, 10), dtype=np.float32)
    nodes = np.zeros(count, np.int64)
    pieces = Pieces(2, nodes, nodes, np.zeros((count, 4), np.int64), images, context, geometry)

    scores = judge.scores(pieces)

    assert scores.shape == (count, 11)
    layers = (judge.first_weight, judge.first_bias), (judge.second_weight, judge.second_bias)
    for number, (pixels, others) in enumerate(zip(*inputs(images, context, geometry), strict=True)):
        maps = pixels
        for weight, bias in layers:
            windows = weight.reshape(5, 5, maps.shape[2], -1)
            sums = [correlate(maps, windows[..., n], "valid")[..., 0] for n in range(len(bias))]
            maps = np.maximum(np.stack(sums, axis=-1) + bias, 0)
            maps = maps.reshape(len(maps) // 2, 2, len(maps) // 2, 2, -1).max((1, 3))
        net = judge.of_maps
        hidden = np.concatenate([maps.ravel(), others]) @ net.hidden_weight + net.hidden_bias
        expected = np.maximum(hidden, 0) @ net.weight + net.bias
        assert scores[number] == pytest.approx(expected, rel=1e-4, abs=1e-3)
