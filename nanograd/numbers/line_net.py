"""The line net: a convolutional net that reads a whole line without cutting it into pieces.

The net divides a line into frames, STRIDE columns each. For each frame, it computes the
probabilities of eleven classes: one for each digit, and "no digit". A way to place a text gives
each frame a class. Adjoining frames with the same digit are one digit of the text. The probability
of a way is the product of the probabilities of its classes in all frames, and the probability of a
text is the sum over all ways to place it. In `scripts/make_line_net.py`, the net was trained to
maximise the probability of known texts.

References:
    Graves et al. (2006), "Connectionist temporal classification".
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", VII (space
    displacement neural networks).
"""

from dataclasses import dataclass
from functools import cache, reduce
from importlib.resources import files

import numpy as np
from safetensors.numpy import load as load_tensors

from nanograd.runtime.arrays import Doubles, Floats

# Rows that the net sees, at half the resolution of a line, and columns of a line in a frame.
ROWS, STRIDE = 36, 4
# Height and width of the squares of which each layer returns the maximum. The layers with squares
# add empty rows, so that their maps keep the height.
MAXIMA = ((2, 2), (2, 1), (1, 1), (3, 1))
# Empty columns on each side of a line, as in the training. Without them, the net often misses a
# digit at an end.
MARGIN = 12
# Frames from one column of a window to the next in the last layer but one, which sees whole words.
APART = 4


@dataclass(frozen=True)
class LineNet:
    """The weights of each layer, (height, width, maps, more maps), and biases, float32."""

    weights: list[Floats]
    biases: list[Floats]

    def read(self, *lines: Floats) -> Doubles:
        """Compute the probabilities of the classes in F frames, (F, 11) float64.

        Args:
            lines: (ROWS, 2 * F) float32, a line that `shrink` returned, and slanted copies of it.
                Their scores are averaged.
        """
        wide = [np.pad(line, ((0, 0), (MARGIN, MARGIN))) for line in lines]
        scores = np.mean([self._scores(each) for each in wide], 0, np.float64)
        scores = np.asarray(scores)[MARGIN // 2 : -MARGIN // 2]
        scores = np.exp(scores - scores.max(1, keepdims=True))
        return np.asarray(scores / scores.sum(1, keepdims=True))

    def _scores(self, line: Floats) -> Floats:
        """Compute the scores of the classes in each frame."""
        maps = line[..., None]
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            height, width, inputs, outputs = weight.shape
            apart = APART if number == len(self.weights) - 2 else 1
            rows, columns = height // 2 * (number < len(MAXIMA)), width // 2 * apart
            down, across = len(maps) + 2 * rows, maps.shape[1] + 2 * columns
            padded = np.zeros((down, across, inputs), np.float32)
            padded[rows : down - rows, columns : across - columns] = maps
            # All windows of (height, width, inputs); `sliding_window_view` would be slow here.
            shape = down - height + 1, across - 2 * columns
            step_down, step_across, step = padded.strides
            steps = step_down, step_across, step_down, apart * step_across, step
            windows = np.ndarray((*shape, *weight.shape[:3]), np.float32, padded, 0, steps)
            values = windows.reshape(-1, weight[..., 0].size) @ weight.reshape(-1, outputs)
            maps = values.reshape(*shape, outputs)
            if number < len(MAXIMA):
                down, across = MAXIMA[number]
                maps = reduce(np.maximum, (maps[start::down] for start in range(down)))
                maps = reduce(np.maximum, (maps[:, start::across] for start in range(across)))
            maps += bias
            if number < len(self.weights) - 1:
                np.maximum(maps, 0, out=maps)
        return np.asarray(maps[0])


def shrink(ink: Floats, middle: float) -> Floats:
    """Return the part of a line that the net sees, at half its resolution, (ROWS, 2 * F).

    Args:
        ink: (height, width) float32, 0 to 1, a line whose digits are LINE pixels high.
        middle: the row in the middle of its digits.
    """
    top, (height, width) = round(middle) - ROWS, ink.shape
    rows = np.zeros((2 * ROWS, -(-width // STRIDE) * STRIDE), np.float32)
    first, last = max(top, 0), min(top + 2 * ROWS, height)
    rows[max(first - top, 0) : max(last - top, 0), :width] = ink[first : max(last, first)]
    return np.asarray(rows.reshape(ROWS, 2, -1, 2).mean((1, 3)))


def slant(pictures: Floats, columns: float) -> Floats:
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


@cache
def load_line_net() -> LineNet:
    """Load the line net of the package, once in each process."""
    tensors = load_tensors(files("nanograd.numbers").joinpath("line_net.safetensors").read_bytes())
    weights, biases = (
        [each.astype(np.float32) for name, each in sorted(tensors.items()) if name.endswith(kind)]
        for kind in ("weight", "bias")
    )
    return LineNet(weights, biases)
