import math

import numpy as np
import pytest

from nanograd.nn.schedules import by_name, cool_down, cosine


def test_cosine_follows_half_a_wave_from_the_peak_to_zero():
    rates = [cosine(0.3, 193)(round_) for round_ in range(195)]

    expected = [0.3 * math.cos(math.pi * round_ / 193 / 2) ** 2 for round_ in range(193)]
    assert rates == pytest.approx([*expected, 0, 0], rel=1e-12)
    assert rates[0] == 0.3
    assert rates[193:] == [0, 0]


@pytest.mark.parametrize("num_warm_up", [0, 7])
def test_by_name_returns_a_positive_schedule_with_its_warm_up(num_warm_up):
    named = by_name("cosine", 0.3, 193, num_warm_up)
    flat = by_name("constant", 0.3, 193, num_warm_up)

    for round_ in range(193):
        share = min((round_ + 1) / max(num_warm_up, 1), 1)
        assert named(round_) == pytest.approx(cosine(0.3, 193)(round_) * share, rel=1e-12)
        assert flat(round_) == pytest.approx(0.3 * share, rel=1e-12)
        assert 0 < named(round_) <= 0.3


@pytest.mark.parametrize("by", [0.0, 0.3, 0.9])
def test_cool_down_is_constant_and_then_linear(by):
    shares = [cool_down(by, 1000)(round_) for round_ in range(1001)]

    assert set(shares[:201]) == {1.0}
    assert shares[1000] == pytest.approx(1 - by)
    assert np.diff(shares[200:]) == pytest.approx(-by / 800)
