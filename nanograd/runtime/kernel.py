"""The code with which numpy and OpenBLAS compute: that of the processor, or the same everywhere.

Both choose it once, when they are loaded, by the processor or by environment variables. With those
of `variables`, every x86-64 processor with AVX2 computes the same bits. This module loads neither.

References:
    OpenBLAS, docs/runtime_variables.md (OPENBLAS_CORETYPE, OPENBLAS_L2_SIZE); NumPy documentation,
    "CPU/SIMD optimizations", runtime dispatch (NPY_ENABLE_CPU_FEATURES).
"""

import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from nanograd.errors import UnavailableError, UsageError

NATIVE, PORTABLE = "native", "portable"
CORE = "Haswell"

# x86-64-v3 as Linux names it: what numpy's code for AVX2 and OpenBLAS's for Haswell may use.
_FLAGS = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe"})
# The same in numpy, before and since it has groups of features; and what all its wheels need.
_SINGLE = ("SSSE3", "SSE41", "POPCNT", "SSE42", "AVX", "F16C", "FMA3", "AVX2")
_GROUP, _GROUPS_SINCE = "X86_V3", (2, 4)
_BASE = ("SSE", "SSE2", "SSE3", "X86_V2")


def variables() -> dict[str, str]:
    """Return the environment in which numpy computes the same bits on different processors."""
    release = tuple(int(part) for part in version("numpy").split(".")[:2])
    return {
        "OPENBLAS_CORETYPE": CORE,
        # OpenBLAS 0.3.34 chooses the length of its partial sums by the size of the cache, even for
        # a given core type, on processors of AMD with AVX-512 and 1024 KB (its issue 6021).
        "OPENBLAS_L2_SIZE": "256",
        "NPY_ENABLE_CPU_FEATURES": _GROUP if release >= _GROUPS_SINCE else " ".join(_SINGLE),
        "NPY_DISABLE_CPU_FEATURES": "",  # numpy refuses both together
    }


def is_pinned() -> bool:
    """Return whether the environment of this process is that of `variables`."""
    return all(os.environ.get(name, "") == value for name, value in variables().items())


def pin() -> None:
    """Make this process compute with the portable code; numpy must not be loaded yet.

    Raises:
        UnavailableError: the processor lacks AVX2 or what comes with it, or is no x86-64.
        UsageError: numpy was loaded with another environment.
    """
    if missing := missing_features():
        raise UnavailableError(
            f"--kernel portable needs an x86-64 processor with AVX2, and this one lacks {missing}; "
            "leave it out to compute with the code for this processor"
        )
    if not is_pinned():
        if "numpy" in sys.modules:
            raise UsageError(loaded_too_early())
        os.environ.update(variables())


def missing_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return what this processor lacks for the portable code; empty if nothing.

    Args:
        cpuinfo: the kernel's description of the processors.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"x86-64 (it is {platform.machine()})"
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return "a readable /proc/cpuinfo, which lists its features"
    found = [set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")]
    missing = {flag for flag in _FLAGS if not all(flag in flags for flags in found)}
    return ", ".join(sorted(missing)) if found else "a list of features"


def portable_features(built_for: Iterable[str]) -> set[str]:
    """Return those of numpy's features that the portable code may use.

    >>> sorted(portable_features(["X86_V2", "X86_V3", "X86_V4"]))
    ['X86_V2', 'X86_V3']
    """
    return {*_BASE, *_SINGLE, _GROUP} & set(built_for)


def loaded_too_early() -> str:
    """Return the sentence for a process whose numpy computes with other code."""
    wanted = " ".join(f"{name}='{value}'" for name, value in variables().items())
    return (
        "numpy was loaded before --kernel portable could choose its code; start Python with "
        f"{wanted} in the environment, or call nanograd.runtime.kernel.pin() before numpy is loaded"
    )
