"""The line net against its layers, computed in another way."""

import numpy as np
import pytest
from scipy.signal import correlate

from nanograd.numbers.line_net import APART, MARGIN, ROWS, STRIDE, load_line_net, shrink, slant
from nanograd.numbers.seams import LINE
from nanograd.numbers.texts import NO_DIGIT


@pytest.mark.parametrize(("height", "width"), [(40, 1), (61, 90), (150, 203)])
def test_probabilities_are_those_of_the_layers(height: int, width: int) -> None:
    draw, net = np.random.default_rng(width), load_line_net()
    ink = draw.random((height, width), np.float32) * (draw.random((height, width)) < 0.2)

    found = net.read(shrink(ink, height / 2))

    maps = np.pad(shrink(ink, height / 2)[None], ((0, 0), (0, 0), (MARGIN, MARGIN)))
    for number, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        kernels = weight.transpose(3, 2, 0, 1)
        if number == len(net.weights) - 2:  # only every fourth column of its windows counts
            kernels = np.kron(kernels, [1] + [0] * (APART - 1))[..., : 1 - APART]
        rows, columns = kernels.shape[2] // 2, kernels.shape[3] // 2
        maps = np.pad(maps, ((0, 0), (rows, rows), (columns, columns)))
        if number > 3:  # these layers see the same rows, and add none
            maps = maps[:, rows : maps.shape[1] - rows]
        maps = np.stack([correlate(maps, each, "valid")[0] for each in kernels])
        if number < 4:
            down = (2, 2, 1, 3)[number]
            maps = np.maximum.reduce([maps[:, start::down] for start in range(down)])
        if number == 0:
            maps = np.maximum(maps[:, :, ::2], maps[:, :, 1::2])
        maps = maps + bias[:, None, None]
        maps = np.maximum(maps, 0) if number < len(net.weights) - 1 else maps
    maps = maps[..., MARGIN // 2 : -MARGIN // 2]
    expected = np.exp(maps[:, 0] - maps[:, 0].max(0))
    assert found.shape == (-(-width // STRIDE), NO_DIGIT + 1)
    assert pytest.approx(expected / expected.sum(0), rel=1e-3, abs=1e-5) == found.T


def test_line_is_read_wherever_its_digits_are() -> None:
    """Rows above and below the digits change nothing."""
    draw, net = np.random.default_rng(0), load_line_net()
    ink = np.pad(draw.random((LINE, 80), np.float32), ((8, 8), (0, 0)))

    found = net.read(shrink(ink, 28))

    assert (net.read(shrink(np.pad(ink, ((30, 50), (0, 0))), 58)) == found).all()


def test_scores_of_copies_are_averaged() -> None:
    draw, net = np.random.default_rng(1), load_line_net()
    lines = draw.random((2, ROWS, 60), np.float32)

    both, each = net.read(*lines), [net.read(line) for line in lines]

    product_of_both = np.sqrt(each[0] * each[1])
    assert both == pytest.approx(product_of_both / product_of_both.sum(1, keepdims=True), rel=1e-5)
    assert net.read(lines[0], lines[0]) == pytest.approx(each[0], rel=1e-6)


def test_shrunk_line_has_the_means_of_four_pixels() -> None:
    ink = np.zeros((30, 9), np.float32)
    ink[20, 4], ink[0, 8] = 1, 0.5

    small = shrink(ink, 20)

    assert small.shape == (ROWS, 6)
    assert small[ROWS // 2, 2] == 0.25
    assert small[ROWS // 2 - 10, 4] == 0.125
    assert small.sum() == 0.375


@pytest.mark.parametrize("columns", [0, 0.1, -0.1, 0.03])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (36, 100), (36, 8)])
def test_slant_moves_each_row(columns: float, height: int, width: int) -> None:
    pictures, middle = np.zeros((2, height, width), np.float32), width // 2
    pictures[1, :, middle - 2 : middle + 2] = 200

    slanted = slant(pictures, columns)

    assert not slanted[0].any()
    assert slanted[1].sum(1) == pytest.approx(800, abs=1e-3)
    places = (slanted[1] * np.arange(width)).sum(1) / slanted[1].sum(1)
    rows = np.arange(height) - (height - 1) / 2
    assert places == pytest.approx(middle - 0.5 - columns * rows, abs=1e-4)
