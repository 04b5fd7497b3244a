from dataclasses import replace

import pytest

from scripts.simulate_scaling import MEASURED, Cluster, round_s, wire_s

# Relative tolerance of a simulated speed: between hosts; and on one host, where another benchmark
# measured, without distortion.
BETWEEN_HOSTS, ON_ONE_HOST = 0.1, 0.25


@pytest.mark.parametrize(("cluster", "rounds_per_s"), MEASURED)
def test_simulation_reproduces_measurements(cluster: Cluster, rounds_per_s: float) -> None:
    tolerance = BETWEEN_HOSTS if cluster.far else ON_ONE_HOST

    assert 1 / round_s(cluster) == pytest.approx(rounds_per_s, rel=tolerance)


def test_time_on_a_slow_link_is_proportional_to_the_bytes() -> None:
    slow = Cluster(far=8, link=1e7)

    whole, half = round_s(slow), round_s(replace(slow, bytes_per_parameter=2))

    assert 2 * wire_s(slow) == pytest.approx(2 * 8 * 32 * slow.num_parameters / 1e7)
    assert whole == pytest.approx(2 * wire_s(slow), rel=0.1)
    assert half == pytest.approx(whole / 2, rel=0.1)


def test_more_servers_divide_bytes_but_not_calls() -> None:
    one, four = Cluster(far=63), Cluster(far=63, num_servers=4)

    assert wire_s(four) == wire_s(one) / 4
    assert 1 / 4 < round_s(four) / round_s(one) < 1
