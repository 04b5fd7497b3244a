"""What SIGTERM and Ctrl-C do to a command."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread


class Terminated(SystemExit):
    """SIGTERM, where nothing stops more gently; no error, so that nobody takes it for one."""


@contextmanager
def stop_signals() -> Iterator[Event]:
    """SIGTERM and the first Ctrl-C ask for a stop; a second Ctrl-C interrupts at once."""
    stop = Event()
    if not _are_ours():
        yield stop
        return

    def ask(number: int, _: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {each: signal.signal(each, ask) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM ends what is under way as an exception does: files are closed, Ray is ended.

    Raises:
        Terminated: it came; another one has no effect.
    """
    if not _are_ours():
        yield
        return

    def end(number: int, _: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Keep what SIGTERM does through something that sets it, as `ray.init` does.

    Ray's exits with 15 and after a page about the stack. It stays for a program that has none.

    Raises:
        Terminated: SIGTERM came meanwhile.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not _are_ours() or before in (signal.SIG_DFL, None):
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


def _are_ours() -> bool:
    """Whether this thread may set signals: in a program that calls us from others it may not."""
    return current_thread() is main_thread()
