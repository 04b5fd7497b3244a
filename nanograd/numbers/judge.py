"""The judge: two nets that tell whether a piece of a line is one digit, and which one.

The inputs of both are the piece in MNIST's form, the ink around it and ten numbers on its shape.
Their eleven outputs are scores of the digits and of "no digit". The first net is a perceptron that
sees the piece at half the resolution. It only decides which pieces are likely. The second net has
two convolutional layers of 5 x 5 pixels, each followed by the maximum of 2 x 2 pixels, and a
perceptron. All units are ReLU. The logs of a model's probabilities are added to its scores.

`scripts/make_judge.py` trained them on pictures of lines of MNIST's training digits. Of each line,
only the text was known, not where its digits end. A path is a way to cut a line into pieces and to
label each piece. Training maximises the probability of all paths that spell the right text together
(see `lattice`).

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", II and VI.
"""

from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import load as load_tensors

from nanograd.digits.dataset import SIDE
from nanograd.numbers.pieces import Pieces
from nanograd.runtime.arrays import Bytes, Doubles, Floats

# Side of the windows of a convolution.
WINDOW = 5
# Factors that bring the numbers on the shape of a piece to the range of the pixels.
_GEOMETRY = np.array([6, 6, 2, 2, 3, 3, 1, 1, 1, 4], np.float32)
# Mean and standard deviation of MNIST's pixels, about.
_MEAN, _DEVIATION = 0.13, 0.3
# Least probability of a model.
_LEAST = 1e-6
# Pieces in one matrix product; with more, the windows do not fit into the cache.
_CHUNK = 64


@dataclass(frozen=True)
class Perceptron:
    """Two layers of weights, float32."""

    hidden_weight: Floats  # (inputs, hidden)
    hidden_bias: Floats
    weight: Floats  # (hidden, 11)
    bias: Floats

    def scores(self, *parts: Floats) -> Floats:
        """Compute the scores of P inputs, (P, n) each."""
        hidden = np.maximum(np.concatenate(parts, 1) @ self.hidden_weight + self.hidden_bias, 0)
        return np.asarray(hidden @ self.weight + self.bias)


@dataclass(frozen=True)
class Judge:
    """The weights of both nets, float32. Maps are (row, column, map)."""

    quick: Perceptron  # the first net
    first_weight: Floats  # (WINDOW * WINDOW, maps)
    first_bias: Floats
    second_weight: Floats  # (WINDOW * WINDOW * maps, more maps)
    second_bias: Floats
    of_maps: Perceptron  # of the maps and the other inputs
    gain: Floats  # (1,) weight of the logs of a model's probabilities

    def quick_scores(self, pieces: Pieces) -> Doubles:
        """Compute the scores of P pieces by the first net, (P, 11) float64.

        A path through the line has the sum of the scores of its pieces, and the path with the
        highest sum is the most probable one. So only differences of scores have a meaning.
        """
        images, others = inputs(pieces.images, pieces.context, pieces.geometry)
        return np.asarray(self.quick.scores(halve(images), others), np.float64)

    def scores(self, pieces: Pieces, probabilities: Floats) -> Doubles:
        """Compute the scores of P pieces, (P, 11), with a model's probabilities, (P, 10)."""
        given = pieces.images, pieces.context, pieces.geometry
        scores = np.zeros((len(pieces.first), len(self.of_maps.bias)))
        scores[:, : probabilities.shape[1]] = self.gain * np.log(np.maximum(probabilities, _LEAST))
        for start in range(0, len(scores), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            images, others = inputs(given[0][chunk], given[1][chunk], given[2][chunk])
            maps = _convolve(images, self.first_weight, self.first_bias)
            maps = _convolve(maps, self.second_weight, self.second_bias)
            scores[chunk] += self.of_maps.scores(maps.reshape(len(maps), -1), others)
        return scores


def inputs(images: Bytes, context: Bytes, geometry: Floats) -> tuple[Floats, Floats]:
    """Return the float32 inputs for `Pieces`: images, (P, 28, 28, 1), and others, (P, 318)."""
    pixels = (images.astype(np.float32) / 255 - _MEAN) / _DEVIATION
    others = [context.astype(np.float32) / (255 * _DEVIATION), geometry * _GEOMETRY]
    return pixels.reshape(-1, SIDE, SIDE, 1), np.concatenate(others, axis=1)


def slant(pictures: Bytes | Floats, columns: float) -> Floats:
    """Slant pictures, (..., height, width), by this many columns a row; return float32."""
    height, width = pictures.shape[-2:]
    rows, place = np.arange(height)[:, None], np.arange(width)
    shift = (columns * (rows - (height - 1) / 2)).astype(np.float32)
    margin = int(abs(shift[0, 0])) + 1
    place += margin
    margins = ((0, 0),) * (pictures.ndim - 1) + ((margin, margin),)
    ink = np.pad(pictures.astype(np.float32), margins)
    first, second = (ink[..., rows, place + np.floor(shift).astype(int) + n] for n in (0, 1))
    return np.asarray(first + shift % 1 * (second - first))


def halve(images: Floats) -> Floats:
    """Return the means of 2 x 2 pixels, (P, 28, 28, 1) to (P, 196)."""
    half = SIDE // 2
    return np.asarray(images.reshape(-1, half, 2, half, 2).mean((2, 4))).reshape(-1, half * half)


def _convolve(maps: Floats, weight: Floats, bias: Floats) -> Floats:
    """Convolve (P, height, width, maps), and return maxima of 2 x 2 pixels, at least 0."""
    windows = sliding_window_view(maps, (WINDOW, WINDOW), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    values = (windows.reshape(-1, len(weight)) @ weight).reshape(*windows.shape[:3], -1)
    values = np.maximum(values[:, ::2], values[:, 1::2])
    values = np.maximum(values[:, :, ::2], values[:, :, 1::2])
    return np.asarray(np.maximum(values + bias, 0))


@cache
def load_judge() -> Judge:
    """Load the judge of the package, once in each process."""
    data = files("nanograd.numbers").joinpath("judge.safetensors").read_bytes()
    tensors: dict[str, Any] = {
        name: each.astype(np.float32) for name, each in load_tensors(data).items()
    }
    tensors |= {
        net: Perceptron(*(tensors.pop(f"{net}.{each.name}") for each in fields(Perceptron)))
        for net in ("quick", "of_maps")
    }
    return Judge(**tensors)
