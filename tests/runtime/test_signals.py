import importlib
import os
import signal
import sys
from collections.abc import Iterator
from threading import Event, Thread
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


def test_a_signal_raises_once_and_its_handler_is_restored():
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(signals.Terminated), signals.signals_raise():
        assert not signals.is_terminating()
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            assert signals.is_terminating()
            signal.raise_signal(signal.SIGTERM)  # while files are being closed
    assert signal.getsignal(signal.SIGTERM) == before


class InFinalizer:
    """Its finalizer receives SIGTERM, as that of a file that is being closed may."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_sigterm_in_a_finalizer_is_raised_later_and_a_block_that_ended_first_stays_ended():
    with pytest.raises(signals.Terminated), signals.signals_raise():
        InFinalizer()
        Event().wait(10)
    with signals.signals_raise():
        InFinalizer()

    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize(
    ("number", "type_"),
    [(signal.SIGTERM, signals.Terminated), (signal.SIGINT, KeyboardInterrupt)],
)
def test_signal_in_an_import_is_raised_after_it(number, type_, tmp_path, monkeypatch):
    """A module that C code imports, as pyarrow imports pandas, would drop the exception."""
    (tmp_path / "signalled.py").write_text(
        f"import signal\nsignal.raise_signal({number:d})\nis_complete = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for wait_s in (10, 0):  # later in the block, or at its end
        monkeypatch.delitem(sys.modules, "signalled", raising=False)
        imported = list[bool]()

        # A shell starts a process in the background with Ctrl-C ignored.
        with (
            signals.handled(signal.default_int_handler, signal.SIGINT),
            pytest.raises(type_),
            signals.signals_raise(),
        ):
            imported.append(importlib.import_module("signalled").is_complete)
            Event().wait(wait_s)

        assert imported == [True]
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_sigterm_requests_a_stop_where_one_is_possible():
    with signals.signals_raise(), signals.stop_signals() as stop:
        signal.raise_signal(signal.SIGTERM)

        assert stop.is_set()


def test_sigterm_that_arrives_with_ctrl_c_is_ignored_without_a_traceback(monkeypatch):
    printed, both = list[object](), (signal.SIGINT, signal.SIGTERM)
    monkeypatch.setattr(sys, "unraisablehook", printed.append)

    with signals.stop_signals() as stop:
        signal.pthread_sigmask(signal.SIG_BLOCK, both)
        for each in both:
            os.kill(os.getpid(), each)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, both)

    assert stop.is_set()
    assert not printed


@pytest.mark.parametrize(("before", "after"), [(ours, ours), (signal.SIG_DFL, exits)])
def test_existing_handler_is_kept_but_a_first_one_stays(before, after):
    signal.signal(signal.SIGTERM, before)

    with signals.sigterm_kept():
        signal.signal(signal.SIGTERM, exits)

    assert signal.getsignal(signal.SIGTERM) is after


@pytest.mark.parametrize(("code", "type_"), [(signal.SIGTERM, signals.Terminated), (7, SystemExit)])
def test_only_sigterm_during_the_block_raises_terminated(code, type_):
    with pytest.raises(SystemExit) as exit_, signals.signals_raise(), signals.sigterm_kept():
        raise SystemExit(code)

    assert (type(exit_.value), exit_.value.code) == (type_, code)


def test_other_threads_do_not_change_handlers():
    def record_handler() -> None:
        with signals.signals_raise(), signals.sigterm_kept(), signals.stop_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    found, before = list[object](), signal.getsignal(signal.SIGTERM)
    thread = Thread(target=record_handler)
    thread.start()
    thread.join()

    assert found == [before]
