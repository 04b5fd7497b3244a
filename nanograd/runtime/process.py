"""Settings of this process: BLAS threads, kernel, memory allocation.

Every process uses one BLAS thread, because the bits of a matrix product depend on the number of
threads, and because the threads of several workers would compete for the cores.
"""

import ctypes
import gc
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from importlib import import_module
from threading import Lock
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController, threadpool_info

from nanograd.errors import InternalError, UnavailableError, UsageError
from nanograd.runtime import kernel


def use_one_thread() -> None:
    """Limit BLAS to one thread in this process, permanently."""
    for library in _libraries():
        _set(library, 1)
        if library.num_threads != 1:
            raise InternalError(
                f"{library.filepath} uses {library.num_threads} threads despite a limit of one; "
                "set OMP_NUM_THREADS=1 and try again"
            )


_LOCK = Lock()
# The settings before the first `one_thread` block, once for each active block in any thread: the
# limits, and the seconds after which a Python thread gives way to another.
_BEFORE: list[tuple[list[int], float]] = []
# Threads that train wait for each other between two calls of numpy. With Python's 5 ms, `fast`
# takes 20.0 ms a round, with this 15.6 (2 cores, Intel Xeon, 2026-11-29).
_SWITCH_S = 5e-5


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS to one thread inside a with block; blocks may be nested or concurrent."""
    with _LOCK:
        limits = [each.num_threads for each in _libraries()]
        _BEFORE.append(_BEFORE[0] if _BEFORE else (limits, sys.getswitchinterval()))
        sys.setswitchinterval(_SWITCH_S)
    try:
        use_one_thread()
        yield
    finally:
        with _LOCK:
            limits, seconds = _BEFORE.pop()
            if not _BEFORE:
                sys.setswitchinterval(seconds)
                for library, number in zip(_libraries(), limits, strict=True):
                    _set(library, number)


def fingerprint() -> str:
    """Describe what determines the bits of results: numpy, BLAS, and the code they selected.

    >>> fingerprint().startswith("numpy ")
    True
    """
    libraries = sorted(
        f"{each['internal_api']} {each['version']} {each.get('architecture')}" for each in blas()
    )
    parts = [f"numpy {np.__version__}", *libraries, f"canary {canary()}"]
    if kernel.is_pinned():
        parts.append(f"portable {wide_canary()}")
    return ", ".join(parts)


def require_portable() -> None:
    """Select the portable kernel, see `kernel.pin`, and verify that numpy uses it.

    Raises:
        UnavailableError: the CPU or the build of numpy does not support the portable kernel.
        UsageError: numpy was loaded with another kernel.
    """
    kernel.pin()
    umath: Any = import_module("numpy._core._multiarray_umath")  # private; see numpy.show_runtime
    baseline, in_use = set(umath.__cpu_baseline__), umath.__cpu_features__
    built_for = {*baseline, *umath.__cpu_dispatch__}
    features = kernel.FEATURES & built_for
    cores = {each.get("architecture") for each in blas() if each["internal_api"] == "openblas"}
    if not cores or not features & {"AVX2", "X86_V3"} or baseline - features:
        raise UnavailableError(
            "--kernel portable needs a numpy with OpenBLAS and code for all x86-64 CPUs, such as "
            f"its wheels; this is {fingerprint()}, for {' '.join(baseline)} and above"
        )
    if cores != {kernel.CORE} or {name for name in built_for if in_use[name]} != features:
        raise UsageError(kernel.loaded_too_early())


@cache
def canary() -> str:
    """Compute a checksum of the results of training's functions for fixed numbers."""
    count = np.arange(64 * 784, dtype=np.float32) % np.float32(193) / np.float32(193)
    inputs, weights = count.reshape(64, 784), count[: 784 * 48].reshape(784, 48) - np.float32(0.5)
    with one_thread():
        z = inputs @ weights
        results = (z, inputs.T @ z, np.exp(-z * z), np.tanh(z), np.log(1 + z * z), z.sum(axis=0))
    return sha256(b"".join(each.tobytes() for each in results)).hexdigest()[:8]


@cache
def wide_canary() -> str:
    """Compute a checksum of the results of functions that `canary` does not call.

    Among them are a product with sums so long that BLAS splits them, and those of the C library.
    """
    numbers = np.arange(1, 1 + 64 * 784) / np.float64(193)
    with one_thread():
        results = [numbers.reshape(64, 784) @ numbers[: 784 * 6].reshape(784, 6)]
    for x in (numbers, numbers.astype(np.float32)):
        results += [np.exp(-x), np.log(x), np.sin(x), np.cos(x)]
    results.append(np.array([(math.exp(-x), math.cos(x)) for x in numbers[:1931].tolist()]))
    return sha256(b"".join(each.tobytes() for each in results)).hexdigest()[:8]


def blas() -> list[dict[str, Any]]:
    """Describe each BLAS in this process."""
    return [each for each in threadpool_info() if each["user_api"] == "blas"]


@cache
def _libraries() -> list[Any]:
    """Find the BLAS of numpy, which takes up to 0.1 s."""
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _set(library: Any, number: int) -> None:
    # With OpenBLAS, threadpoolctl 3.8 silently ignores limits set by any thread but the first. So
    # this skips threadpoolctl's check; `one_thread` counts its blocks over all threads.
    getattr(library, "_real_set_num_threads", library.set_num_threads)(number)


def keep_freed() -> None:
    """Make the GNU C library keep freed memory instead of returning it to the system.

    A round allocates and frees dozens of arrays of about 200 KB. By default, page faults take a
    third of a worker's time when images are distorted (2 Ray workers: 44,600 images/s by default,
    62,500 with this setting; 2026-11-25). Other C libraries lack mallopt and are not changed.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for threshold in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of mallopt(3)
            mallopt(threshold, 1 << 30)


def prepare_actor() -> None:
    """Set up a process that computes rounds: one thread, memory, garbage collection."""
    use_one_thread()
    keep_freed()
    # Otherwise garbage collection of Ray's and numpy's objects takes 7 % of the time of a server
    # that is connected to other hosts.
    gc.collect()
    gc.freeze()
