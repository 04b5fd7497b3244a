"""Two drivers, one run: one trains, the other ends with 73 and names it."""

import os
import signal
import subprocess
import sys

import pytest

from nanograd.runtime import storage
from simulators.waiting import wait_for
from tests.e2e.conftest import every_server
from tests.helpers.processes import environment_without_ray
from tests.runtime.test_lease import CONTAINER

TRAIN = ("train", "--data", "sample", "--workers", "0", "--epochs", "5000", "--output")


def start(place: str, *prefix: str) -> "subprocess.Popen[str]":
    """Start to train, with a prefix in a container."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "nanograd", *TRAIN, place], env=environment_without_ray(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def newest(place: str) -> str:
    return "".join(storage.names(f"{place}/checkpoints")[-1:])


def wait_for_progress(place: str, failure: str) -> None:
    before = newest(place)
    wait_for(lambda: newest(place) > before, failure)


def check_takeover(place: str, first: "subprocess.Popen[str]", words: str) -> tuple[int, str]:
    """Check that one continues when the first is killed; return how the second ended before."""
    with start(place) as second:
        refusal = "".join(second.communicate())
    first.kill()
    with start(place) as third:
        wait_for_progress(place, "the next driver did not continue")
        third.send_signal(signal.SIGTERM)
        stopped, log = third.communicate()
    assert (third.returncode, words in log) == (75, True), stopped + log
    assert storage.leases(place) == []
    return second.returncode, refusal


@every_server
def test_second_driver_ends_with_73_and_the_next_continues_after_a_kill(bucket):
    place = f"{bucket}/run"
    with start(place) as first:
        wait_for_progress(place, "the first driver saved nothing")
        code, refusal = check_takeover(place, first, "continuing after")

    assert code == 73
    assert f"process {first.pid} on {os.uname().nodename}" in refusal


@pytest.mark.slow
def test_driver_on_another_machine_is_refused_and_takes_over_after_a_kill(tmp_path):
    place = str(tmp_path / "run")
    with start(place, *CONTAINER) as first:
        try:
            wait_for_progress(place, "the first driver saved nothing")
        except AssertionError:
            pytest.skip("needs namespaces")
        code, _ = check_takeover(place, first, "taking it over")

    assert code == 73


@pytest.mark.parametrize(
    ("where", "elsewhere"), [("folder", ()), ("bucket", CONTAINER)], ids=["folder", "two machines"]
)
def test_of_two_drivers_that_start_at_once_one_trains_and_the_other_ends_with_73(
    bucket, tmp_path, where, elsewhere
):
    place = f"{bucket}/run" if where == "bucket" else str(tmp_path / "run")

    with start(place) as first, start(place, *elsewhere) as second:
        wait_for_progress(place, "no driver saved anything")
        drivers = (first, second)
        wait_for(lambda: any(each.poll() is not None for each in drivers), "both go on")
        refused, goes_on = (first, second) if second.poll() is None else (second, first)
        refusal, log = refused.communicate()
        wait_for_progress(place, "the other driver did not go on")
        goes_on.kill()

    if refused.returncode != 73 and "unshare" in log:
        pytest.skip("needs namespaces")
    assert refused.returncode == 73, log
    assert "is being written by another process" in refusal
