"""Settings of this process: one BLAS thread, verified, and the C library's memory.

The bits of a matrix product depend on the number of BLAS threads, and two workers on two cores with
two threads each compete for the cores. Ray sets OMP_NUM_THREADS from an actor's CPUs, but a BLAS
may ignore it.
"""

import ctypes
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController, threadpool_info

from nanograd.errors import InternalError


def use_one_thread() -> None:
    """Limit BLAS to one thread in this process permanently.

    Raises:
        InternalError: the BLAS ignores the limit.
    """
    for library in _libraries():
        _set(library, 1)
        if library.num_threads != 1:
            raise InternalError(
                f"{library.filepath} uses {library.num_threads} threads despite a limit of one; "
                "set OMP_NUM_THREADS=1 and try again"
            )


class _OneThread:
    """A limit for the whole process, which holds while any thread is inside."""

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._before: list[int] = []

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = [library.num_threads for library in _libraries()]
            self._inside += 1
        try:
            use_one_thread()
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
    """Limit BLAS to one thread inside a with block; blocks may be nested or concurrent.

    Raises:
        InternalError: the BLAS ignores the limit.
    """
    return _ONE_THREAD


def fingerprint() -> str:
    """Describe what determines the bits of a matrix product: numpy, its BLAS, the CPU's kernel.

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
    """Return the BLAS of numpy; finding it takes up to 0.1 s, setting it microseconds."""
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _set(library: Any, number: int) -> None:
    # threadpoolctl 3.8 silently ignores every thread but the first that set OpenBLAS's limit. Ours
    # is shared by all threads, and counted.
    getattr(library, "_real_set_num_threads", library.set_num_threads)(number)


# Of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MAX_BYTES = 1 << 30


def keep_freed() -> None:
    """Make the C library keep freed memory instead of returning it to the system.

    A round allocates and frees dozens of arrays of about 200 KB. The GNU C library returns them to
    the system each time, and the page faults of the next allocation take a third of a worker's time
    when images are distorted (2 Ray workers, 44,600 images/s against 62,500; 2026-11-25). Other C
    libraries have no mallopt and are left alone.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_TRIM_THRESHOLD, _MAX_BYTES)
        mallopt(_MMAP_THRESHOLD, _MAX_BYTES)
