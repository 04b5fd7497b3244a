"""Settings of this process: one BLAS thread, verified, and the C library's memory.

The bits of a matrix product depend on the number of BLAS threads, and two workers on two cores with
two threads each compete for the cores. Ray sets OMP_NUM_THREADS from an actor's CPUs, but a BLAS
may ignore it.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
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


_LOCK = Lock()
# For each active block of `one_thread`, in any thread, the limits before the first of them.
_LIMITS: list[list[int]] = []


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS to one thread inside a with block; blocks may be nested or concurrent.

    Raises:
        InternalError: the BLAS ignores the limit.
    """
    with _LOCK:
        _LIMITS.append(_LIMITS[0] if _LIMITS else [each.num_threads for each in _libraries()])
    try:
        use_one_thread()
        yield
    finally:
        with _LOCK:
            before = _LIMITS.pop()
            if not _LIMITS:
                for library, number in zip(_libraries(), before, strict=True):
                    _set(library, number)


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
    """Find the BLAS of numpy; this takes up to 0.1 s, setting it microseconds."""
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
