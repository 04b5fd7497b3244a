"""Schedules over the rounds of a run: learning rate and strength of distortions."""

import math
from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]

# Distortions get weaker during this share of the rounds, at the end of a run.
COOLING = 0.8


def cosine(peak: float, num_rounds: int) -> Schedule:
    """Return half a cosine from the peak at round 0 to zero after the last round.

    References:
        Loshchilov & Hutter (2017), "SGDR: stochastic gradient descent with warm restarts", eq. 5.

    >>> [round(cosine(1.0, 4)(k), 3) for k in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    return lambda round_: peak * (1 + math.cos(math.pi * min(round_ / num_rounds, 1.0))) / 2


def warm_up(schedule: Schedule, num_rounds: int) -> Schedule:
    """Multiply a schedule by a factor that grows linearly to 1 over its first rounds.

    References:
        Goyal et al. (2017), "Accurate, large minibatch SGD", section 2.2.

    >>> [warm_up(lambda round_: 1.0, 4)(k) for k in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return lambda round_: schedule(round_) * min((round_ + 1) / max(num_rounds, 1), 1.0)


def by_name(name: str, peak: float, num_rounds: int, num_warm_up: int) -> Schedule:
    """Return the schedule constant or cosine, with its warm-up."""
    schedules = {"constant": lambda round_: peak, "cosine": cosine(peak, num_rounds)}
    return warm_up(schedules[name], num_warm_up)


def cool_down(by: float, num_rounds: int) -> Schedule:
    """Return a schedule that is 1, but falls linearly by `by` over the last 80 % of rounds.

    >>> [round(cool_down(0.5, 10)(k), 3) for k in (0, 2, 6, 10)]
    [1.0, 1.0, 0.75, 0.5]
    """
    cooling = COOLING * num_rounds
    return lambda round_: 1 - by * max(0.0, 1 - (num_rounds - round_) / cooling)
