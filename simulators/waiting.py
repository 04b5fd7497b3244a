"""Waiting for a condition, with a limit."""

from collections.abc import Callable
from time import monotonic, sleep


def wait_for(
    condition: Callable[[], object], failure: str, timeout_s: float = 60, every_s: float = 0.05
) -> None:
    """Return once a condition holds.

    Raises:
        AssertionError: it does not hold in time.
    """
    deadline = monotonic() + timeout_s
    while not condition():
        assert monotonic() < deadline, failure
        sleep(every_s)
