"""The kernel: the machine code of numpy and OpenBLAS, native to the CPU or portable.

numpy and OpenBLAS select their code when they are loaded, according to the CPU and to environment
variables. With the variables from `variables`, all x86-64 CPUs with AVX2 compute the same bits.

References:
    OpenBLAS, docs/runtime_variables.md (OPENBLAS_CORETYPE, OPENBLAS_L2_SIZE); NumPy documentation,
    "CPU/SIMD optimizations", runtime dispatch (NPY_ENABLE_CPU_FEATURES).
"""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from nanograd.errors import UnavailableError, UsageError

NATIVE, PORTABLE = "native", "portable"
CORE = "Haswell"

# Features of x86-64-v3 in /proc/cpuinfo. numpy's AVX2 code and OpenBLAS's Haswell code need them.
_FLAGS = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe"})
# numpy's names of the same features: single names before version 2.4, groups since then; and with
# the features that all wheels of numpy need.
_SINGLE = ("SSSE3", "SSE41", "POPCNT", "SSE42", "AVX", "F16C", "FMA3", "AVX2")
_GROUP, _GROUPS_SINCE = "X86_V3", (2, 4)
FEATURES = frozenset({"SSE", "SSE2", "SSE3", "X86_V2", *_SINGLE, _GROUP})


def variables() -> dict[str, str]:
    """Return the environment variables that select the portable kernel."""
    release = tuple(int(part) for part in version("numpy").split(".")[:2])
    return {
        "OPENBLAS_CORETYPE": CORE,
        # On AMD CPUs with AVX-512 and a cache of 1024 KB, OpenBLAS 0.3.34 adapts the length of
        # partial sums to the cache, even with a fixed core type (OpenBLAS issue 6021).
        "OPENBLAS_L2_SIZE": "256",
        "NPY_ENABLE_CPU_FEATURES": _GROUP if release >= _GROUPS_SINCE else " ".join(_SINGLE),
        "NPY_DISABLE_CPU_FEATURES": "",  # numpy does not allow ENABLE and DISABLE together
    }


def is_pinned() -> bool:
    """Return whether the environment of this process selects the portable kernel."""
    return all(os.environ.get(name, "") == value for name, value in variables().items())


def pin() -> None:
    """Select the portable kernel for this process; numpy must not be loaded yet.

    Raises:
        UnavailableError: the CPU is not x86-64 or lacks AVX2 or a related feature.
        UsageError: numpy is loaded already, and not with the portable kernel.
    """
    if missing := missing_features():
        raise UnavailableError(
            f"--kernel portable needs an x86-64 CPU with AVX2, but this CPU lacks {missing}; "
            "use --kernel native"
        )
    if not is_pinned():
        if "numpy" in sys.modules:
            raise UsageError(loaded_too_early())
        os.environ.update(variables())


def missing_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the features that the CPU lacks for the portable kernel; empty if it has all."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"x86-64 (it is {platform.machine()})"
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return "a readable /proc/cpuinfo, which lists its features"
    found = [set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")]
    missing = {flag for flag in _FLAGS if not all(flag in flags for flags in found)}
    return ", ".join(sorted(missing)) if found else "a list of features"


def loaded_too_early() -> str:
    """Return the error message for a process that loaded numpy with another kernel."""
    wanted = " ".join(f"{name}='{value}'" for name, value in variables().items())
    return (
        "numpy was loaded before --kernel portable could take effect; start Python with "
        f"{wanted} in the environment, or call pin() of nanograd.runtime.kernel before numpy is "
        "imported"
    )
