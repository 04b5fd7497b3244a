import os
import signal
from collections.abc import Iterator
from threading import Thread
from types import FrameType

import pytest

from nanograd.runtime.signals import (
    Terminated,
    is_terminating,
    sigterm_kept,
    sigterm_raises,
    stop_signals,
)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def raise_signal() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def ours(number: int, frame: FrameType | None) -> None:
    """Somebody's handler."""


def exits(number: int, frame: FrameType | None) -> None:
    """What `ray.init` sets."""
    raise SystemExit(number)


def test_sigterm_raises_once_and_then_is_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(Terminated), sigterm_raises():
        assert not is_terminating()
        try:
            raise_signal()
        finally:
            assert is_terminating()
            raise_signal()  # while files are being closed
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_asks_for_a_stop_where_one_is_possible() -> None:
    with sigterm_raises(), stop_signals() as stop:
        raise_signal()

        assert stop.is_set()


def test_handler_that_is_there_is_kept() -> None:
    signal.signal(signal.SIGTERM, ours)

    with sigterm_kept():
        signal.signal(signal.SIGTERM, exits)

    assert signal.getsignal(signal.SIGTERM) is ours


def test_handler_is_left_to_whoever_sets_one_where_none_was() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    with sigterm_kept():
        signal.signal(signal.SIGTERM, exits)

    assert signal.getsignal(signal.SIGTERM) is exits


def test_sigterm_meanwhile_is_told_as_what_it_is() -> None:
    with pytest.raises(Terminated), sigterm_raises(), sigterm_kept():
        signal.signal(signal.SIGTERM, exits)
        raise_signal()


def test_another_exit_meanwhile_stays_what_it_is() -> None:
    with pytest.raises(SystemExit) as exit_, sigterm_raises(), sigterm_kept():
        raise SystemExit(7)

    assert (type(exit_.value), exit_.value.code) == (SystemExit, 7)


def test_other_threads_leave_signals_alone() -> None:
    def look() -> None:
        with sigterm_raises(), sigterm_kept(), stop_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    found, before = list[object](), signal.getsignal(signal.SIGTERM)
    thread = Thread(target=look)
    thread.start()
    thread.join()

    assert found == [before]
