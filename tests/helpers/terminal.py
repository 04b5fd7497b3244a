"""What a program writes to a terminal."""

import errno
import os


def read_all(terminal: int) -> str:
    """Read a terminal until its other side is closed."""
    data = b""
    try:
        while new := os.read(terminal, 10_000):
            data += new
    except OSError as error:
        assert error.errno == errno.EIO  # how Linux says that
    return data.decode()
