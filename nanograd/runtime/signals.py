"""Handling of SIGTERM and Ctrl-C."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import _bootstrap
from threading import Event as StopSignal
from threading import current_thread, main_thread
from traceback import walk_stack
from types import FrameType
from typing import Any


class Terminated(SystemExit):
    """Exit of a command after SIGTERM; not an `Exception`, so that no handler catches it."""


def _ignore(number: int, _: object) -> None:
    """Ignore a signal; with SIG_IGN, Python prints a traceback if it arrived with another one."""


@contextmanager
def stop_signals() -> Iterator[StopSignal]:
    """Set the stop signal on SIGTERM and on the first Ctrl-C; a second Ctrl-C interrupts."""
    stop = StopSignal()

    def set_stop(number: int, _: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, _ignore)

    with handled(set_stop, signal.SIGTERM, signal.SIGINT):
        yield stop


@contextmanager
def signals_raise() -> Iterator[None]:
    """Raise an exception on SIGTERM and Ctrl-C, so that files are closed and Ray is stopped.

    If the signal arrives inside a finalizer (`__del__`), Python drops the exception of its handler.
    The exception is then raised again 10 ms later. An exception inside an import could be dropped
    by the C code that imports (pyarrow imports pandas), or leave Python's import lock locked. It is
    raised when the import has ended.

    Raises:
        Terminated: SIGTERM arrived; another SIGTERM has no effect.
        KeyboardInterrupt: Ctrl-C, if Python's own handler was set.
    """
    error: BaseException = Terminated(signal.SIGTERM)
    is_deferred, outer = False, _num_imports(sys._getframe())

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal error, is_deferred
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, _ignore)
        elif number == signal.SIGINT:
            error = KeyboardInterrupt()
        if is_deferred := _num_imports(frame) > outer:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            raise error

    def raise_again(dropped: "sys.UnraisableHookArgs") -> None:
        nonlocal error
        if isinstance(dropped.exc_value, Terminated | KeyboardInterrupt):
            error = dropped.exc_value
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            before(dropped)

    is_default = signal.getsignal(signal.SIGINT) == signal.default_int_handler
    interrupt = (signal.SIGINT,) if is_default else ()
    before = sys.unraisablehook
    with handled(handle, signal.SIGTERM, signal.SIGALRM, *interrupt):
        sys.unraisablehook = raise_again
        try:
            yield
        finally:
            sys.unraisablehook = before
            if current_thread() is main_thread():
                signal.setitimer(signal.ITIMER_REAL, 0)
            if is_deferred:
                raise error


def _num_imports(frame: FrameType | None) -> int:
    """Count the imports that run in a frame and its callers, in functions of Python's importer."""
    return sum(each.f_globals is vars(_bootstrap) for each, _ in walk_stack(frame))


def is_terminating() -> bool:
    """Return whether a signal arrived inside `stop_signals` or `signals_raise`."""
    return signal.getsignal(signal.SIGTERM) == _ignore


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM, if there was one, after a call that replaces it (`ray.init`).

    Raises:
        Terminated: SIGTERM arrived during the call.
    """
    before = signal.getsignal(signal.SIGTERM)
    if current_thread() is not main_thread() or before in (signal.SIG_DFL, None):
        yield
        return
    try:
        yield
    except SystemExit as error:
        if error.code == signal.SIGTERM:
            raise Terminated(signal.SIGTERM) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def handled(handler: Callable[[int, Any], None], *signals: signal.Signals) -> Iterator[None]:
    """Set a handler inside a with block, if this is the main thread."""
    if current_thread() is not main_thread():  # only the main thread may set handlers
        yield
        return
    before = {each: signal.signal(each, handler) for each in signals}
    try:
        yield
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)
