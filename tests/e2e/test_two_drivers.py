"""Two drivers, one run: one trains, the other ends with 73 and names it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nanograd.runtime import storage
from simulators.waiting import wait_for
from tests.conftest import environment_without_ray
from tests.runtime.test_lease import CONTAINER

TRAIN = ("train", "--data", "sample", "--workers", "0", "--epochs", "5000", "--output")


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, bucket: str) -> str:
    return f"{bucket}/run" if request.param == "bucket" else str(tmp_path / "run")


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, env=environment_without_ray(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def trains(place: str, number: int = 1) -> bool:
    """Return whether a driver has saved this many checkpoints."""
    return len(storage.names(storage.join(place, "checkpoints"))) >= number


def test_second_driver_ends_with_73_and_the_next_continues_after_a_kill(place: str) -> None:
    command = [sys.executable, "-m", "nanograd", *TRAIN, place]

    with start(*command) as first:
        wait_for(lambda: trains(place), "the first driver saved nothing")
        with start(*command) as second:
            refused, _ = second.communicate()
        first.kill()
    with start(*command) as third:
        newest = storage.names(storage.join(place, "checkpoints"))[-1]
        wait_for(
            lambda: storage.names(storage.join(place, "checkpoints"))[-1] > newest,
            "the next driver did not continue",
        )
        third.send_signal(signal.SIGTERM)
        stopped, log = third.communicate()

    assert second.returncode == 73
    assert f"process {first.pid} on {os.uname().nodename}" in refused
    assert third.returncode == 75, stopped
    assert "continuing after" in log
    assert storage.leases(place) == []


@pytest.mark.parametrize("elsewhere", [(), CONTAINER], ids=["one machine", "two machines"])
def test_of_two_drivers_that_start_at_once_one_trains_and_the_other_ends_with_73(
    place: str, elsewhere: tuple[str, ...]
) -> None:
    command = [sys.executable, "-m", "nanograd", *TRAIN, place]

    with start(*command) as first, start(*elsewhere, *command) as second:
        wait_for(lambda: trains(place), "no driver saved anything")
        drivers = (first, second)
        wait_for(lambda: any(each.poll() is not None for each in drivers), "both go on")
        refused, goes_on = (first, second) if second.poll() is None else (second, first)
        refusal, log = refused.communicate()
        newest = storage.names(storage.join(place, "checkpoints"))[-1]
        wait_for(
            lambda: storage.names(storage.join(place, "checkpoints"))[-1] > newest,
            "the other driver did not go on",
        )
        goes_on.kill()

    if refused.returncode != 73 and "unshare" in log:
        pytest.skip("needs namespaces")
    assert refused.returncode == 73, log
    assert "is being written by another process" in refusal


@pytest.mark.slow
def test_driver_on_another_machine_is_refused_and_takes_over_after_a_kill(place: str) -> None:
    command = [sys.executable, "-m", "nanograd", *TRAIN, place]

    with start(*CONTAINER, *command) as first:
        try:
            wait_for(lambda: trains(place), "the first driver saved nothing")
        except AssertionError:
            pytest.skip("needs namespaces")
        with start(*command) as second:
            _, refused = second.communicate()
        first.kill()
    with start(*command) as third:
        before = storage.names(storage.join(place, "checkpoints"))
        wait_for(
            lambda: storage.names(storage.join(place, "checkpoints")) != before,
            "the next driver did not take over",
        )
        third.send_signal(signal.SIGTERM)
        _, log = third.communicate()

    assert second.returncode == 73, refused
    assert (third.returncode, "taking it over" in log) == (75, True)
