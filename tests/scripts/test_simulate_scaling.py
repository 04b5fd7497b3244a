from dataclasses import replace

import pytest

from scripts.simulate_scaling import MEASURED, Cluster, bytes_each_way, round_s, server_s, wire_s


@pytest.mark.parametrize(("cluster", "rounds_per_s"), MEASURED)
def test_simulation_reproduces_measurements(cluster, rounds_per_s):
    assert 1 / round_s(cluster) == pytest.approx(rounds_per_s, rel=0.15)


def test_time_on_a_slow_link_is_that_of_its_bytes():
    slow = Cluster(hosts=8, link=1e6)

    half = replace(slow, num_parameters=slow.num_parameters // 2)

    assert round_s(slow) == pytest.approx(wire_s(slow), rel=0.1)
    assert round_s(half) == pytest.approx(round_s(slow) / 2, rel=0.1)


@pytest.mark.parametrize("hosts", [2, 3, 193])
def test_bytes_of_a_host_are_those_of_a_ring(hosts):
    cluster = Cluster(hosts=hosts)

    vectors = bytes_each_way(cluster) / (4 * cluster.num_parameters)

    assert vectors == pytest.approx(2 * (hosts - 1) / hosts)
    assert bytes_each_way(replace(cluster, workers=7)) == bytes_each_way(cluster)


def test_frames_limit_many_hosts_whatever_the_link():
    few, many = Cluster(hosts=10, link=1e12), Cluster(hosts=1000, link=1e12)

    assert server_s(many) > 10 * server_s(few)
    assert round_s(many) == pytest.approx(round_s(replace(many, link=1e13)), rel=0.01)
