import pytest

from nanograd.runtime import kernel
from tests.golden import test_portable_bits
from tests.helpers.processes import run_helper


@pytest.mark.slow
@pytest.mark.skipif(bool(kernel.missing_features()), reason="needs AVX2")
def test_hosts_with_different_processors_give_the_portable_bits_and_no_others(tmp_path):
    portable, native = run_helper("mixed_hosts", str(tmp_path))

    assert portable["code"] == 0, portable
    assert portable["workers"] == 3
    assert "computes with" not in portable["stderr"]
    alone = test_portable_bits.train("fast", tmp_path)
    assert portable["params_sha256"] == alone["params_sha256"]
    assert native["code"] == 69
    assert "--strict and --kernel portable refuse that" in native["reason"]
