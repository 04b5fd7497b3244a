"""What SIGTERM and Ctrl-C do to a command that can stop and go on later."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread


@contextmanager
def stop_signals() -> Iterator[Event]:
    """SIGTERM and the first Ctrl-C ask for a stop; a second Ctrl-C interrupts at once."""
    stop = Event()
    if current_thread() is not main_thread():  # of a program that calls us: signals are not ours
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
