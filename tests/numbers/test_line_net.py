"""The line net against its layers and against all ways to place a text, in another way."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy.signal import correlate

from nanograd.numbers.lattice import NO_DIGIT
from nanograd.numbers.line_net import APART, ROWS, STRIDE, find_texts, load_line_net, shrink
from nanograd.numbers.seams import LINE


@pytest.mark.parametrize(("height", "width"), [(40, 1), (61, 90), (150, 203)])
def test_probabilities_are_those_of_the_layers(height: int, width: int) -> None:
    draw, net = np.random.default_rng(width), load_line_net()
    ink = draw.random((height, width), np.float32) * (draw.random((height, width)) < 0.2)

    found = net.read(shrink(ink, height / 2))

    maps = shrink(ink, height / 2)[None]
    for number, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        kernels = weight.transpose(3, 2, 0, 1)
        if number == len(net.weights) - 2:  # only every fourth column of its windows counts
            kernels = np.kron(kernels, [1] + [0] * (APART - 1))[..., : 1 - APART]
        rows, columns = kernels.shape[2] // 2, kernels.shape[3] // 2
        maps = np.pad(maps, ((0, 0), (rows, rows), (columns, columns)))
        if number > 2:  # these layers see the same rows, and add none
            maps = maps[:, rows : maps.shape[1] - rows]
        maps = np.stack([correlate(maps, each, "valid")[0] for each in kernels])
        if number < 3:
            maps = np.maximum.reduce(
                [maps[:, a :: (2, 2, 3)[number]] for a in range((2, 2, 3)[number])]
            )
        if number == 0:
            maps = np.maximum(maps[:, :, ::2], maps[:, :, 1::2])
        maps = maps + bias[:, None, None]
        maps = np.maximum(maps, 0) if number < len(net.weights) - 1 else maps
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


@pytest.mark.parametrize("seed", range(8))
def test_texts_have_the_probabilities_of_all_their_ways(seed: int) -> None:
    """With two digits and a few frames, nothing is left out of the search."""
    frames = 4
    probabilities = np.zeros((frames, NO_DIGIT + 1))
    shares = np.random.default_rng(seed).dirichlet(np.ones(3), frames)
    probabilities[:, [3, 7, NO_DIGIT]] = shares
    expected = Counter[str]()
    for way in product((3, 7, NO_DIGIT), repeat=frames):
        # Equal digits without a frame between them are one.
        starts = np.diff(way, prepend=NO_DIGIT) != 0
        text = "".join(str(each) for each in np.array(way)[starts] if each != NO_DIGIT)
        expected[text] += probabilities[np.arange(frames), way].prod()

    texts = find_texts(probabilities)

    [(best, most)] = expected.most_common(1)
    assert max(texts, key=lambda text: texts[text]) == best
    assert np.exp(texts[best]) == pytest.approx(most, rel=0.02)
    assert np.exp(texts[""]) == pytest.approx(expected[""], rel=1e-3)
    assert all(np.exp(value) <= expected[text] * 1.001 + 1e-5 for text, value in texts.items())


def test_line_of_2000_frames_has_finite_logs() -> None:
    probabilities = np.zeros((2000, NO_DIGIT + 1))
    probabilities[::2, NO_DIGIT], probabilities[1::2, 5] = 1, 1

    texts = find_texts(probabilities)

    assert max(texts, key=lambda text: texts[text]) == "5" * 1000
    assert np.isfinite(list(texts.values())).all()
