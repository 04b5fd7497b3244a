import json
import os
import platform
from pathlib import Path

import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from nanograd.errors import UnavailableError, UsageError
from nanograd.runtime import kernel, process
from tests.helpers.processes import run_python

PIN = "from nanograd.runtime import kernel; kernel.pin()\n"
CHECK = (
    "import json, os; from nanograd.runtime import process; process.require_portable()\n"
    "print(json.dumps([process.fingerprint(), process.canary()]))"
)
CANARIES = "from nanograd.runtime import process; print(process.canary(), process.wide_canary())"
NUMPYS = " ".join(each for each in __cpu_dispatch__ if __cpu_features__[each])
# What a processor of each kind would make numpy and OpenBLAS choose.
PROCESSORS = {
    "this one": {},
    "SkylakeX": {"OPENBLAS_CORETYPE": "SkylakeX"},
    "Zen": {"OPENBLAS_CORETYPE": "Zen", "OPENBLAS_L2_SIZE": "512"},
    "Sandybridge": {"OPENBLAS_CORETYPE": "Sandybridge", "NPY_DISABLE_CPU_FEATURES": NUMPYS},
    "Nehalem": {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": NUMPYS},
}
# Whether a product is the sum of products of so many columns, as OpenBLAS splits it (level3.c).
SPLIT = """
import numpy as np
from nanograd.runtime import process
process.use_one_thread()
for kind, length in ((np.float32, 320), (np.float64, 256)):
    left, right = (
        np.random.default_rng(7).normal(size=size).astype(kind) for size in ((64, 2000), (2000, 48))
    )
    total, start = np.zeros((64, 48), kind), 0
    while (rest := 2000 - start) > 0:
        half = -(-(rest // 2) // 8) * 8
        end = start + (length if rest >= 2 * length else rest if rest <= length else half)
        total += left[:, start:end] @ right[start:end]
        start = end
    print((total == left @ right).all())
"""
INFO = "processor : {}\nflags : {}\n"
V3 = "sse4_2 avx avx2 fma f16c bmi1 bmi2 abm movbe"

needs_avx2 = pytest.mark.skipif(bool(kernel.missing_features()), reason="needs AVX2")


@needs_avx2
def test_portable_code_wins_over_the_environment_and_the_processor():
    found = [run_python(PIN + CHECK, **variables) for variables in PROCESSORS.values()]

    assert [done.returncode for done in found] == [0] * len(PROCESSORS), found
    [(fingerprint, _)] = {tuple(json.loads(done.stdout)) for done in found}
    assert ", portable " in fingerprint
    # Without it the processors differ.
    found = [run_python(CANARIES, **PROCESSORS[name]) for name in ("SkylakeX", "Nehalem")]
    assert len({done.stdout for done in found}) == 2


@needs_avx2
def test_long_products_are_split_alike_whatever_the_size_of_the_cache():
    found = [run_python(PIN + SPLIT, OPENBLAS_L2_SIZE=size) for size in ("256", "1024", "2048")]

    assert [done.stdout.split() for done in found] == [["True", "True"]] * 3, found


@needs_avx2
def test_numpy_that_was_loaded_before_is_refused(monkeypatch):
    if ", portable " in process.fingerprint():
        pytest.skip("the tests themselves run with the portable code")
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    before = dict(os.environ)

    with pytest.raises(UsageError, match="OPENBLAS_CORETYPE='Haswell'"):
        kernel.pin()

    assert dict(os.environ) == before


@needs_avx2
def test_numpy_that_was_loaded_with_other_code_is_refused():
    load = "import os, numpy; from nanograd.runtime import kernel, process\n"
    late = "os.environ.update(kernel.variables()); process.require_portable()"

    done = run_python(load + late, OPENBLAS_CORETYPE="Nehalem")

    assert done.returncode == 1
    assert "UsageError" in done.stderr
    assert "OPENBLAS_CORETYPE='Haswell'" in done.stderr


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        ([V3, V3], ""),
        ([V3 + " avx512f"], ""),
        ([V3.replace("avx2 ", "")], "avx2"),
        ([V3, V3.replace("fma ", "").replace("movbe", "")], "fma, movbe"),
        ([], "a list of features"),
    ],
)
def test_missing_features_are_those_that_some_core_lacks(tmp_path, monkeypatch, flags, missing):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    file = tmp_path / "cpuinfo"
    file.write_text("\n".join(INFO.format(*each) for each in enumerate(flags)))

    assert kernel.missing_features(file) == missing
    assert kernel.missing_features(tmp_path / "none") != ""


def test_other_processor_is_refused_with_69(nanograd, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")

    outcome = nanograd("train", "--data", "sample", "--kernel", "portable", "--output", "run")

    assert outcome.code == 69
    assert "lacks x86-64" in outcome.last["reason"]
    assert not Path("run").exists()


def test_numpy_built_for_newer_processors_only_is_refused(monkeypatch):
    monkeypatch.setattr(kernel, "pin", lambda: None)
    monkeypatch.setattr(kernel, "FEATURES", frozenset({"X86_V3"}))

    with pytest.raises(UnavailableError, match="needs a numpy with OpenBLAS"):
        process.require_portable()
