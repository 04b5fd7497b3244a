"""Texts that the frames of a line spell, where their digits are, and their probabilities.

The line net gives each frame the probabilities of the digits and of "no digit". A text is placed in
the frames as `line_net` says: each digit is in one frame or in several adjoining ones, and frames
between two equal digits have none.

References:
    Graves et al. (2006), "Connectionist temporal classification".
"""

from collections.abc import Sequence
from heapq import nlargest
from math import log

import numpy as np

from nanograd.runtime.arrays import Doubles, Ints, Mask

# The class of a frame without a digit.
NO_DIGIT = 10
# Least probability of a class in a frame, and of a digit that may be there. Number of texts, and
# least probability of a text of the first frames.
_LEAST, _SEEN, _TEXTS, _LIKELY = 1e-6, 1e-3, 8, 1e-5
# Number of frames after which the probabilities of their ways are divided by their sum.
_RESCALED = 16


def find_texts(probabilities: Doubles) -> dict[str, float]:
    """Find probable texts, and the logs of their shares; the empty text is one of them.

    A share is the probability of a text, divided by the sum over the texts that are returned.

    A beam search: the texts of the first frames that are probable continue with the next frame.

    Args:
        probabilities: (F, 11) of `LineNet.read`.
    """
    # Of each text: the probabilities of the ways that end without a digit, and with its last digit.
    beam = {"": (1.0, 0.0)}
    for frame in np.maximum(probabilities, _LEAST).tolist():
        seen = [digit for digit in range(NO_DIGIT) if frame[digit] > _SEEN]
        if not seen:  # most frames; the texts stay the same
            none = frame[NO_DIGIT]
            beam = {
                text: ((after + inside) * none, inside * frame[int(text[-1:] or NO_DIGIT)])
                for text, (after, inside) in beam.items()
            }
            continue
        longer = dict[str, tuple[float, float]]()
        for text, (after, inside) in beam.items():
            last, whole = int(text[-1]) if text else NO_DIGIT, after + inside
            old = longer.get(text, (0.0, 0.0))
            longer[text] = old[0] + whole * frame[NO_DIGIT], old[1] + inside * frame[last]
            for digit in seen:
                old = longer.get(f"{text}{digit}", (0.0, 0.0))
                start = after if digit == last else whole
                longer[f"{text}{digit}"] = old[0], old[1] + start * frame[digit]
        total = sum(map(sum, longer.values()))
        shares = {text: (after / total, inside / total) for text, (after, inside) in longer.items()}
        likely = [text for text, ways in shares.items() if sum(ways) > _LIKELY]
        best = nlargest(_TEXTS, likely, key=lambda text: sum(shares[text]))
        beam = {text: shares[text] for text in dict.fromkeys(["", *best])}
    total, least = sum(map(sum, beam.values())), float(np.finfo(float).tiny)
    return {text: log(max(sum(ways) / total, least)) for text, ways in beam.items()}


def find_frames(probabilities: Doubles, text: str) -> Ints:
    """Find the frame of each of D digits of a text in the most probable alignment, (D,).

    The frames rise from left to right. Where a digit has several frames, it is the most probable.

    Args:
        probabilities: (F, 11) of `LineNet.read`.
        text: one of `find_texts`.
    """
    [states], [may_skip] = _states([text])
    logs = np.log(np.maximum(probabilities, _LEAST))[:, states]
    values, steps = np.full(len(states), -np.inf), np.zeros(logs.shape, int)
    values[0] = 0.0
    for frame, own in enumerate(logs):
        ways = np.full((3, len(states)), -np.inf)
        ways[0], ways[1, 1:] = values, values[:-1]
        ways[2, 2:] = np.where(may_skip[2:], values[:-2], -np.inf)
        steps[frame] = ways.argmax(0)
        values = ways.max(0) + own
    # Follow the most probable way from the last frame to the first.
    state, way = len(states) - 1 - int(values[-2:].argmax() == 0), np.zeros(len(logs), int)
    for frame in range(len(logs) - 1, -1, -1):
        way[frame] = state
        state -= steps[frame, state]
    own = np.where(way == np.arange(1, len(states), 2)[:, None], logs[:, 1::2].T, -np.inf)
    return np.asarray(own.argmax(1))


def find_shares(probabilities: Doubles, text: str, frames: Ints) -> Doubles:
    """Compute the probability of each digit at each place of a text, (D, 10).

    For a place, the frames from the digit before it to the digit after it are compared with the
    texts of up to three digits that differ only at this place: one with each digit, and one without
    a digit there. The probability of a digit is the share of its text in the sum for these texts.

    Args:
        probabilities: (F, 11) of `LineNet.read`.
        text: one of `find_texts`.
        frames: (D,) of `find_frames`.
    """
    ends, others, parts = [0, *frames.tolist(), len(probabilities)], [], []
    for place in range(len(text)):
        part = probabilities[ends[place] : ends[place + 2] + 1]
        before, after = text[max(place - 1, 0) : place], text[place + 1 : place + 2]
        for digit in [*np.flatnonzero(part[:, :NO_DIGIT].max(0) > _SEEN).tolist(), NO_DIGIT]:
            middle = str(digit) if digit != NO_DIGIT else ""
            others.append((place, digit, f"{before}{middle}{after}"))
            parts.append(part)
    # Frames that surely have no digit make the parts equally long.
    frames_of_all = np.zeros((len(parts), max(map(len, parts)), NO_DIGIT + 1))
    frames_of_all[..., NO_DIGIT] = 1.0
    for own, part in zip(frames_of_all, parts, strict=True):
        own[: len(part)] = part
    places, digits, texts = zip(*others, strict=True)
    logs = np.full((len(text), NO_DIGIT + 1), -np.inf)
    logs[places, digits] = compute_logs(frames_of_all, texts)
    logs -= np.logaddexp.reduce(logs, 1, keepdims=True)
    return np.asarray(np.exp(logs[:, :NO_DIGIT]))


def compute_logs(probabilities: Doubles, texts: Sequence[str]) -> Doubles:
    """Compute the logs of the probabilities of K texts, (K,), as sums over all ways.

    Args:
        probabilities: (K, F, 11), or (1, F, 11) if the frames of the texts are the same.
        texts: K texts.
    """
    states, may_skip = _states(texts)
    values, logs = np.zeros(states.shape), np.zeros(len(texts))
    values[:, 0] = 1.0
    shares = np.take_along_axis(np.maximum(probabilities, _LEAST), states[:, None], 2)
    for frame in range(shares.shape[1]):
        entered = values.copy()
        entered[:, 1:] += values[:, :-1]
        entered[:, 2:] += values[:, :-2] * may_skip[:, 2:]
        values = entered * shares[:, frame]
        if frame % _RESCALED == 0:
            totals = values.sum(1)
            values /= totals[:, None]
            logs += np.log(totals)
    each, last = np.arange(len(texts)), 2 * np.array(list(map(len, texts)))
    ends = values[each, last] + np.where(last > 0, values[each, last - 1], 0)
    return np.asarray(logs + np.log(np.maximum(ends, np.finfo(float).tiny)))


def _states(texts: Sequence[str]) -> tuple[Ints, Mask]:
    """Return the classes of the ways of K texts, (K, S), and which may follow the last but one.

    A way goes through the classes from left to right: no digit, the first digit, no digit, and so
    on. A digit may follow another digit.
    """
    states = np.full((len(texts), 2 * max(map(len, texts)) + 1), NO_DIGIT)
    for row, text in zip(states, texts, strict=True):
        row[1 : 2 * len(text) : 2] = [int(digit) for digit in text]
    may_skip = states != NO_DIGIT
    may_skip[:, 2:] &= states[:, 2:] != states[:, :-2]
    return states, may_skip
