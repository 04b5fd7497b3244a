"""Actors that start late, never, or without their shards; servers that are slow to answer."""

from errno import ENOMEM, ENOSYS
from threading import Event as StopSignal
from threading import Timer
from time import monotonic

import pytest

from nanograd.digits.dataset import Dataset
from nanograd.distributed import group as groups
from nanograd.distributed import members, servers
from nanograd.errors import ClusterError, Stopped, UnavailableError
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from tests.helpers import actors
from tests.helpers.actors import NeverStarts
from tests.helpers.runs import bits, train_locally

ROUNDS = 20


@pytest.fixture(scope="module")
def recipe(digits: Dataset) -> Recipe:
    return make_recipe(TrainSpec(batch_size=193, epochs=3, shards=4, hidden=32), len(digits))


def test_workers_that_never_start_end_the_run_with_the_cause(
    start_group, use_workers, recipe, monkeypatch
):
    use_workers(NeverStarts)
    monkeypatch.setattr(members, "MAX_FAILURES", 1)

    with pytest.raises(ClusterError, match=r"worker 0 did not start 2 times .*: OSError: libg"):
        start_group(recipe, 1)


def test_server_that_does_not_start_in_time_is_a_cluster_error(start_group, recipe, monkeypatch):
    monkeypatch.setattr(servers, "START_TIMEOUT_S", 0.001)

    with pytest.raises(ClusterError, match="server did not start"):
        start_group(recipe, 1)


def test_stop_while_workers_start_is_obeyed_at_once(start_group, hold, ray_cpus, recipe):
    hold(ray_cpus)
    stop, began = StopSignal(), monotonic()
    Timer(1, stop.set).start()

    with pytest.raises(Stopped):
        start_group(recipe, 1, stop=stop)

    assert monotonic() - began < 10


def test_slow_snapshot_replaces_no_server(
    start_group, use_servers, events, recipe, digits, monkeypatch
):
    use_servers(actors.SlowSnapshot)
    group = start_group(recipe, 1)
    monkeypatch.setattr(servers, "REPLY_S", 0.5)

    group.advance(ROUNDS)

    assert bits(group.snapshot()) == bits(train_locally(recipe, digits, ROUNDS))
    assert [event.name for event in events] == ["started"]


def test_worker_that_cannot_open_the_memory_of_its_host_is_reported(
    start_group, use_servers, events, recipe, digits
):
    use_servers(actors.refused("memfd_create", ENOSYS))  # a system without anonymous files
    group = start_group(recipe, 1)
    group.advance(ROUNDS)

    assert bits(group.snapshot()) == bits(train_locally(recipe, digits, ROUNDS))
    [warning] = [str(event) for event in events if event.name == "message"]
    assert "cannot open" in warning


def test_lack_of_memory_for_the_vectors_is_reported_with_69(start_group, use_servers, recipe):
    use_servers(actors.refused("posix_fallocate", ENOMEM))

    with pytest.raises(UnavailableError, match="Cannot allocate"):
        start_group(recipe, 1)


def test_shards_that_never_arrive_are_reported_and_end_the_run(
    start_group, use_workers, events, recipe, monkeypatch
):
    use_workers(actors.TakesNothing)
    monkeypatch.setattr(members, "CHECK_S", 0.2)
    monkeypatch.setattr(members, "MAX_TAKE_S", 1.0)
    monkeypatch.setattr(groups, "MAX_FAILURES", 1)

    with pytest.raises(ClusterError, match="shards did not reach worker 0"):
        start_group(recipe, 1)

    assert " waits for its shards (" in str(events[0])
