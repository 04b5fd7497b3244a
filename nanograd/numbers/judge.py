"""The judge: a net that tells whether a piece of a line is one digit, and which one.

It is a three-layer perceptron with ReLU units. Its inputs are the piece in MNIST's form, the ink
around it, ten numbers on its shape and the logs of a model's probabilities. Its eleven outputs are
scores of the digits and of "no digit". `scripts/make_judge.py` trained it on lines of MNIST's
training digits, with only their texts as labels. A path is a way to cut a line into pieces and to
label the pieces. Training maximises the share of the probability of all paths that goes to the
paths that spell the right text.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", VI.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from safetensors.numpy import load as load_tensors

from nanograd.numbers.pieces import Pieces
from nanograd.runtime.arrays import Bytes, Doubles, Floats

# Factors that bring the numbers on the shape of a piece to the range of the pixels.
_GEOMETRY = np.array([6, 6, 2, 2, 3, 3, 1, 1, 1, 4], np.float32)
# Factor for the logs of probabilities, and the least probability.
_LOG, LEAST = 0.25, 1e-6
# Mean and standard deviation of MNIST's pixels, about.
_MEAN, _DEVIATION = 0.13, 0.3


@dataclass(frozen=True)
class Judge:
    """The weights of the net, float32."""

    hidden_weight: Floats  # (inputs, hidden)
    hidden_bias: Floats
    weight: Floats  # (hidden, 11)
    bias: Floats

    def scores(self, pieces: Pieces, probabilities: Floats) -> Doubles:
        """Compute the scores of P pieces, (P, 11) float64, from a model's probabilities, (P, 10).

        They are logs of weights of paths, so only their differences mean something. The score of a
        digit is the sum of the net's output and the log of its probability.
        """
        known = np.log(np.maximum(probabilities, LEAST))
        inputs = features(pieces.images, pieces.context, pieces.geometry, known)
        hidden = np.maximum(inputs @ self.hidden_weight + self.hidden_bias, 0)
        scores = (hidden @ self.weight + self.bias).astype(np.float64)
        scores[:, : known.shape[1]] += known
        return scores


def features(images: Bytes, context: Bytes, geometry: Floats, known: Floats) -> Floats:
    """Return the inputs of the net, (P, 784 + 14 * 22 + 10 + 10) float32.

    `known` are the logs of a model's probabilities, (P, 10); see `Pieces` for the rest.
    """
    parts = images, context, geometry, known
    ends = np.cumsum([each.shape[1] for each in parts])
    inputs = np.empty((len(images), ends[-1]), np.float32)
    inputs[:, : ends[0]], inputs[:, ends[0] : ends[1]] = images, context
    inputs[:, : ends[1]] /= 255 * _DEVIATION
    inputs[:, : ends[0]] -= _MEAN / _DEVIATION
    inputs[:, ends[1] : ends[2]], inputs[:, ends[2] :] = geometry * _GEOMETRY, known * _LOG
    return inputs


@cache
def load_judge() -> Judge:
    """Load the judge of the package, once in each process."""
    data = files("nanograd.numbers").joinpath("judge.safetensors").read_bytes()
    return Judge(**{name: each.astype(np.float32) for name, each in load_tensors(data).items()})
