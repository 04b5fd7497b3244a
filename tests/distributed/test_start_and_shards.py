"""Actors that start late or never."""

from threading import Event as StopSignal
from threading import Timer
from time import monotonic

import pytest

from nanograd.digits.dataset import Dataset
from nanograd.distributed import members, servers
from nanograd.errors import ClusterError, Stopped, UnavailableError
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from tests.helpers.actors import LacksMemory, NeverStarts


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
    monkeypatch.setattr(servers, "START_S", 0.001)

    with pytest.raises(ClusterError, match="server did not start"):
        start_group(recipe, 1)


def test_stop_while_workers_start_is_obeyed_at_once(start_group, hold, ray_cpus, recipe):
    hold(ray_cpus)
    stop, began = StopSignal(), monotonic()
    Timer(1, stop.set).start()

    with pytest.raises(Stopped):
        start_group(recipe, 1, stop=stop)

    assert monotonic() - began < 10


def test_lack_of_memory_for_the_vectors_is_reported_with_69(start_group, use_servers, recipe):
    use_servers(LacksMemory)

    with pytest.raises(UnavailableError, match="Cannot allocate"):
        start_group(recipe, 1)
