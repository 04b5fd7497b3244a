"""What several unit tests begin with."""

from pathlib import Path

import pytest

from nanograd.data.mnist import Mnist
from tests.folders import untimed_contents
from tests.unit import jobs, runs


@pytest.fixture(scope="session")
def undisturbed_run(few_digits: Mnist, tmp_path_factory: pytest.TempPathFactory) -> runs.Figures:
    """The figures of a run that nothing happened to."""
    return runs.train(few_digits, tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a job may go; nothing is there yet."""
    return tmp_path / "deep" / "out"


@pytest.fixture
def undisturbed_job(tmp_path: Path) -> dict[str, bytes]:
    """What a job leaves that nothing happened to."""
    place = tmp_path / "undisturbed"
    jobs.run(jobs.make_job(place), jobs.Scribe(place))
    return untimed_contents(place)
