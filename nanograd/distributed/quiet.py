"""What Ray says that is not for the user, kept off the terminal."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_core_messages() -> Iterator[None]:
    """Send file descriptor 2 nowhere: Ray's core writes its own lines there."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def first_line(error: BaseException) -> str:
    """What an error says, without the page that Ray adds."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
