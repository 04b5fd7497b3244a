"""Waiting for a condition, with a timeout."""

from collections.abc import Callable
from time import monotonic, sleep


def wait_for(
    condition: Callable[[], object], failure: str, timeout_s: float = 60, every_s: float = 0.05
) -> None:
    """Wait until a condition is true.

    Raises:
        AssertionError: the condition is not true within the timeout.
    """
    deadline = monotonic() + timeout_s
    while not condition():
        assert monotonic() < deadline, failure
        sleep(every_s)
