"""One BLAS thread, asserted.

The bits of a matrix product depend on the number of BLAS threads, and two workers on two cores
with two threads each only get in each other's way. Ray sets OMP_NUM_THREADS from an actor's CPUs;
whether the library heard it is checked here, not hoped for.
"""

import ctypes
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController, threadpool_info

from nanograd.errors import InternalError


def use_one_thread() -> None:
    """Limit BLAS to one thread in this process, from now on.

    Raises:
        InternalError: the BLAS does not obey.
    """
    for library in _libraries():
        _set(library, 1)
    _require_one_thread()


class _OneThread:
    """The limit is the whole process's: it holds while any thread is inside."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._before: list[int] = []

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = [library.num_threads for library in _libraries()]
                for library in _libraries():
                    _set(library, 1)
            self._inside += 1
        try:
            _require_one_thread()
        except InternalError:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for library, number in zip(_libraries(), self._before, strict=True):
                    _set(library, number)


_ONE_THREAD = _OneThread()


def one_thread() -> _OneThread:
    """Limit BLAS to one thread inside a with block; blocks may lie in each other, or side by side.

    Raises:
        InternalError: the BLAS does not obey.
    """
    return _ONE_THREAD


def fingerprint() -> str:
    """What the bits of a matrix product depend on: numpy, its BLAS and the kernel for this CPU.

    >>> fingerprint().startswith("numpy ")
    True
    """
    libraries = sorted(
        f"{each['internal_api']} {each['version']} {each.get('architecture')}"
        for each in threadpool_info()
        if each["user_api"] == "blas"
    )
    return ", ".join([f"numpy {np.__version__}", *libraries])


@cache
def _libraries() -> list[Any]:
    """The BLAS that numpy brought. To find it takes up to 0.1 s, to set it then microseconds."""
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _set(library: Any, number: int) -> None:
    # threadpoolctl 3.8 silently lets no thread set OpenBLAS's limit but the first that did. Ours is
    # one for all threads, and counted.
    getattr(library, "_real_set_num_threads", library.set_num_threads)(number)


def _require_one_thread() -> None:
    for library in _libraries():
        if library.num_threads != 1:
            raise InternalError(
                f"{library.filepath} runs {library.num_threads} threads though told to use one; "
                "set OMP_NUM_THREADS=1 and try again"
            )


# Of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST_BYTES = 1 << 30


def keep_freed() -> None:
    """Tell the C library not to give freed memory back to the system.

    A round makes and frees arrays of some 200 KB by the dozen. The GNU C library returns them each
    time and takes the page faults of having them again: a third of a worker's time when images
    are distorted (2 Ray workers, 44,600 images/s against 62,500; 2026-11-25). Other C libraries
    have no mallopt; there, nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _MOST_BYTES)
        mallopt(_MMAP_THRESHOLD, _MOST_BYTES)
