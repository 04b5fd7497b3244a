"""The judge: two nets that tell whether a piece of a line is one digit, and which one.

The inputs of both are the piece in MNIST's form, the ink around it and ten numbers on its shape.
Their eleven outputs are scores of the digits and of "no digit". The first net has two convolutional
layers of 5 x 5 pixels, each followed by the maximum of 2 x 2 pixels, and a perceptron. The second
is a perceptron that also gets the logs of a model's probabilities. All units are ReLU.

`scripts/make_judge.py` trained them on lines of MNIST's training digits, with only their texts as
labels. A path is a way to cut a line into pieces and to label the pieces. Training maximises the
share of the probability of all paths that goes to the paths that spell the right text.

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
# Factor for the logs of probabilities, and the least probability.
_LOG, _LEAST = 0.25, 1e-6
# Weight of the logs of probabilities, besides their share in the scores of the second net. Of 850
# lines of training digits, 635 were right with 0 and 640 with 0.3 (2026-11-29).
_MODEL = 0.3
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
        """Compute the scores of inputs, (P, ...) each."""
        values = np.concatenate([each.reshape(len(each), -1) for each in parts], axis=1)
        hidden = np.maximum(values @ self.hidden_weight + self.hidden_bias, 0)
        return np.asarray(hidden @ self.weight + self.bias)


@dataclass(frozen=True)
class Judge:
    """The weights of both nets, float32. Maps are (row, column, map)."""

    first_weight: Floats  # (WINDOW * WINDOW, maps)
    first_bias: Floats
    second_weight: Floats  # (WINDOW * WINDOW * maps, more maps)
    second_bias: Floats
    of_maps: Perceptron  # of the maps, the ink around the piece and the numbers on its shape
    of_pixels: Perceptron  # of the pixels, the same, and the model's log probabilities

    def scores(self, pieces: Pieces) -> Doubles:
        """Compute the scores of P pieces, (P, 11) float64, by the first net.

        They are logs of weights of paths, so only their differences mean something.
        """
        scores = np.empty((len(pieces.first), len(self.of_maps.bias)))
        for start in range(0, len(scores), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            images, others = inputs(
                pieces.images[chunk], pieces.context[chunk], pieces.geometry[chunk]
            )
            maps = _convolve(images, self.first_weight, self.first_bias)
            maps = _convolve(maps, self.second_weight, self.second_bias)
            scores[chunk] = self.of_maps.scores(maps, others)
        return scores

    def revise(self, scores: Doubles, pieces: Pieces, probabilities: Floats) -> Doubles:
        """Return the means of `scores` and the scores by the second net, with a model's share.

        The second score of a digit is the sum of the net's output and the log of the model's
        probability, `probabilities` (P, 10). `_MODEL` times this log is added to the mean.
        """
        known = np.log(np.maximum(probabilities, _LEAST))
        given = inputs(pieces.images, pieces.context, pieces.geometry)
        others = self.of_pixels.scores(*given, known * np.float32(_LOG)).astype(np.float64)
        others[:, : known.shape[1]] += (1 + 2 * _MODEL) * known
        return (scores + others) / 2


def inputs(images: Bytes, context: Bytes, geometry: Floats) -> tuple[Floats, Floats]:
    """Return the inputs of the net: images, (P, 28, 28, 1), and others, (P, 14 * 22 + 10) float32.

    See `Pieces` for the arguments.
    """
    pixels = (images.astype(np.float32) / 255 - _MEAN) / _DEVIATION
    others = [context.astype(np.float32) / (255 * _DEVIATION), geometry * _GEOMETRY]
    return pixels.reshape(-1, SIDE, SIDE, 1), np.concatenate(others, axis=1)


def _convolve(maps: Floats, weight: Floats, bias: Floats) -> Floats:
    """Convolve (P, height, width, maps), and return maxima of 2 x 2 pixels, at least 0."""
    windows = sliding_window_view(maps, (WINDOW, WINDOW), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    values = windows.reshape(-1, len(weight)) @ weight
    values = values.reshape(*windows.shape[:3], -1)
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
        for net in ("of_maps", "of_pixels")
    }
    return Judge(**tensors)
