from dataclasses import replace

import pytest

from scripts.simulate_scaling import MEASURED, Cluster, round_s, wire_s

# How far a simulated speed may be from a measured one: between hosts; on one host, whose figures
# were taken by another benchmark, without distortion.
BETWEEN_HOSTS, ON_ONE_HOST = 0.1, 0.25


@pytest.mark.parametrize(("cluster", "rounds_per_s"), MEASURED)
def test_what_was_measured_is_reproduced(cluster: Cluster, rounds_per_s: float) -> None:
    tolerance = BETWEEN_HOSTS if cluster.far else ON_ONE_HOST

    assert 1 / round_s(cluster) == pytest.approx(rounds_per_s, rel=tolerance)


def test_slow_link_takes_what_its_bytes_need_and_half_the_bytes_half_of_it() -> None:
    slow = Cluster(far=8, link=1e7)

    whole, half = round_s(slow), round_s(replace(slow, bytes_per_parameter=2))

    assert 2 * wire_s(slow) == pytest.approx(2 * 8 * 32 * slow.num_parameters / 1e7)
    assert whole == pytest.approx(2 * wire_s(slow), rel=0.1)
    assert half == pytest.approx(whole / 2, rel=0.1)


def test_servers_divide_the_bytes_of_a_link_and_not_the_calls_of_a_worker() -> None:
    one, four = Cluster(far=63), Cluster(far=63, num_servers=4)

    assert wire_s(four) == wire_s(one) / 4
    assert 1 / 4 < round_s(four) / round_s(one) < 1
