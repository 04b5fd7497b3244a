"""Effects of SIGTERM and Ctrl-C on a command."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event as StopSignal
from threading import current_thread, main_thread
from typing import Any


class Terminated(SystemExit):
    """SIGTERM where no gentler stop is possible; no `Exception`, so that no handler catches it."""


@contextmanager
def stop_signals() -> Iterator[StopSignal]:
    """Turn SIGTERM and the first Ctrl-C into a stop signal; a second Ctrl-C interrupts at once."""
    stop = StopSignal()

    def set_stop(number: int, _: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    with handled(set_stop, signal.SIGTERM, signal.SIGINT):
        yield stop


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise an exception, so that files are closed and Ray is ended.

    Raises:
        Terminated: it came; another one has no effect.
    """

    def terminate(number: int, _: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated(number)

    with handled(terminate, signal.SIGTERM):
        yield


def is_terminating() -> bool:
    """Return whether a signal came inside `stop_signals` or `sigterm_raises`."""
    return signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM through a call that replaces it, such as `ray.init`.

    Ray's handler exits with 15, after a page about the stack. It stays for a program without one.

    Raises:
        Terminated: SIGTERM came meanwhile.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not _may_set_handlers() or before in (signal.SIG_DFL, None):
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
    """Set a handler inside a with block, if this thread may."""
    if not _may_set_handlers():
        yield
        return
    before = {each: signal.signal(each, handler) for each in signals}
    try:
        yield
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)


def _may_set_handlers() -> bool:
    """Return whether this is the main thread: other threads may not set handlers."""
    return current_thread() is main_thread()
