"""One BLAS thread, asserted.

The bits of a matrix product depend on the number of BLAS threads, and two workers on two cores
with two threads each only get in each other's way. Ray sets OMP_NUM_THREADS from an actor's CPUs;
whether the library heard it is checked here, not hoped for.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from nanograd.errors import InternalError


def use_one_thread() -> None:
    """Limit BLAS to one thread in this process, from now on.

    Raises:
        InternalError: the BLAS does not obey.
    """
    threadpool_limits(limits=1, user_api="blas")
    _require_one_thread()


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS to one thread inside a with block.

    Raises:
        InternalError: the BLAS does not obey.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        _require_one_thread()
        yield


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


def _require_one_thread() -> None:
    for library in threadpool_info():
        if library["user_api"] == "blas" and library["num_threads"] != 1:
            raise InternalError(
                f"{library['filepath']} runs {library['num_threads']} threads though told to use "
                "one; set OMP_NUM_THREADS=1 and try again"
            )
