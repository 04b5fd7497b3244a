import signal
from collections.abc import Iterator
from threading import Thread
from types import FrameType

import pytest

from nanograd.runtime import signals


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def ours(number: int, frame: FrameType | None) -> None:
    """A handler of the calling program."""


def exits(number: int, frame: FrameType | None) -> None:
    """Exit, as the handler that `ray.init` installs."""
    raise SystemExit(number)


def test_sigterm_raises_once_and_its_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(signals.Terminated), signals.sigterm_raises():
        assert not signals.is_terminating()
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            assert signals.is_terminating()
            signal.raise_signal(signal.SIGTERM)  # while files are being closed
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_requests_a_stop_where_one_is_possible() -> None:
    with signals.sigterm_raises(), signals.stop_signals() as stop:
        signal.raise_signal(signal.SIGTERM)

        assert stop.is_set()


def test_existing_handler_is_kept() -> None:
    signal.signal(signal.SIGTERM, ours)

    with signals.sigterm_kept():
        signal.signal(signal.SIGTERM, exits)

    assert signal.getsignal(signal.SIGTERM) is ours


def test_first_handler_set_inside_the_block_stays() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    with signals.sigterm_kept():
        signal.signal(signal.SIGTERM, exits)

    assert signal.getsignal(signal.SIGTERM) is exits


def test_sigterm_during_the_block_raises_terminated() -> None:
    with pytest.raises(signals.Terminated), signals.sigterm_raises(), signals.sigterm_kept():
        signal.signal(signal.SIGTERM, exits)
        signal.raise_signal(signal.SIGTERM)


def test_another_exit_during_the_block_is_unchanged() -> None:
    with pytest.raises(SystemExit) as exit_, signals.sigterm_raises(), signals.sigterm_kept():
        raise SystemExit(7)

    assert (type(exit_.value), exit_.value.code) == (SystemExit, 7)


def test_other_threads_do_not_change_handlers() -> None:
    def record_handler() -> None:
        with signals.sigterm_raises(), signals.sigterm_kept(), signals.stop_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    found, before = list[object](), signal.getsignal(signal.SIGTERM)
    thread = Thread(target=record_handler)
    thread.start()
    thread.join()

    assert found == [before]
