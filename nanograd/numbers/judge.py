"""The judge: a net that tells whether a piece of a line is one digit, and which one.

It is a three-layer perceptron with ReLU units. Its inputs are the piece in MNIST's form, the ink
around it and ten numbers on its shape. Its eleven outputs are scores of the digits and of "no
digit". `scripts/make_judge.py` trained it on lines of MNIST's training digits, so that the paths
with the right text get as much of the probability of all paths as possible.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", VI.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from safetensors.numpy import load as load_tensors

from nanograd.numbers.pieces import Pieces
from nanograd.runtime.arrays import Bytes, Floats

# Factors that bring the numbers on the shape of a piece to the range of the pixels.
_GEOMETRY = np.array([6, 6, 2, 2, 3, 3, 1, 1, 1, 4], np.float32)
# Mean and standard deviation of MNIST's pixels, about.
_MEAN, _DEVIATION = 0.13, 0.3


@dataclass(frozen=True)
class Judge:
    """The weights of the net, float32."""

    hidden_weight: Floats  # (inputs, hidden)
    hidden_bias: Floats
    weight: Floats  # (hidden, 11)
    bias: Floats

    def scores(self, pieces: Pieces) -> Floats:
        """Compute the scores of P pieces, (P, 11) float32.

        They are logs of weights of paths, so only their differences mean something.
        """
        inputs = features(pieces.images, pieces.context, pieces.geometry)
        hidden = np.maximum(inputs @ self.hidden_weight + self.hidden_bias, 0)
        return np.asarray(hidden @ self.weight + self.bias)


def features(images: Bytes, context: Bytes, geometry: Floats) -> Floats:
    """Return the inputs of the net, (P, 784 + 28 * CONTEXT + 10) float32."""
    pixels = images.shape[1] + context.shape[1]
    inputs = np.empty((len(images), pixels + geometry.shape[1]), np.float32)
    inputs[:, : images.shape[1]], inputs[:, images.shape[1] : pixels] = images, context
    inputs[:, :pixels] /= 255 * _DEVIATION
    inputs[:, : images.shape[1]] -= _MEAN / _DEVIATION
    inputs[:, pixels:] = geometry * _GEOMETRY
    return inputs


@cache
def load_judge() -> Judge:
    """Load the judge of the package, once in each process."""
    data = files("nanograd.numbers").joinpath("judge.safetensors").read_bytes()
    return Judge(**{name: each.astype(np.float32) for name, each in load_tensors(data).items()})
