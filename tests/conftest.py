"""Fixtures that several packages of tests share."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from nanograd import cli
from nanograd.digits.dataset import Mnist
from nanograd.images import sources
from tests.helpers import jobs, processes, reviews, runs
from tests.helpers.folders import untimed_contents
from tests.helpers.processes import environment_without_ray
from tests.helpers.reviews import Reviewer

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


# Tests without Ray that take seconds, or many of which do: `make test-fast` leaves them out.
_LONG = (
    "tests/golden/",
    "tests/jobs/test_kills.py",
    "tests/report/test_drawing.py",
    "tests/report/test_plots.py",
    "tests/report/test_trackers.py",
    "tests/runtime/test_kernel.py",
    "tests/scripts/test_mutants.py::test_only_a_mutant",
    "tests/test_sklearn.py::test_scikit_learns_own_checks",
    "tests/training/test_ensemble.py",
    "test_columns_are_found_by_their_names_in_any_order",
    "test_each_line_of_csv_is_read_as_if_it_were_alone",
    "test_kill_loses_no_decision_that_was_acknowledged",
    "test_killed_job_ends_with_the_same_bytes",
    "test_label_in_another_column_is_never_taken_for_a_pixel",
    "test_large_file_is_cut_and_grows",
    "test_lost_or_cut_file_is_made_again",
    "test_names_of_folders_need_not_be_unicode",
    "test_output_is_cut_by_rows_and_by_values",
    "test_reader_in_a_loop_",
    "test_small_files_share_parts_where_there_are_many",
)

# Tests that share a Ray, or the head or the store of tests/e2e, by a part of their names. Those of
# tests/hosts share nothing, but each file starts several Rays, whose time to start is limited.
_SHARING = {
    "a Ray": ("tests/distributed/",),
    "a head": (
        *(f"tests/e2e/test_{name}.py" for name in ("jobs", "kills", "pipeline")),
        *("is_read_by_a_worker_and_drawn", "test_pipeline_in_the_store"),
    ),
    "a store": ("tests/e2e/test_faults.py", "tests/e2e/test_object_store.py"),
    "simulated hosts": ("tests/hosts/",),
}

# A busy machine is no failure: by default an example may take 200 ms.
settings.register_profile("any-pace", deadline=None)
settings.load_profile("any-pace")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark long tests."""
    for item in items:
        if any(each in item.nodeid for each in _LONG):
            item.add_marker(pytest.mark.long)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run in one process what shares a file, a Ray, a head, a store or simulated hosts."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            shared = (name for name, of in _SHARING.items() if any(each in nodeid for each in of))
            return next(shared, nodeid.partition("::")[0])

    config.option.loadscopereorder = False  # the groups that take longest would come together
    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def no_real_sync() -> Iterator[None]:
    """Sync nothing to the real disk, which takes most of the time of a small job."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def output(request: pytest.FixtureRequest, sample: Mnist, tmp_path: Path) -> str:
    """A prediction of the first digits of the sample, ROWS of the test module, all to review."""
    return reviews.predict(sample.test.take(slice(0, request.module.ROWS)), tmp_path)


@pytest.fixture
def reviewer(output: str) -> Iterator[Reviewer]:
    """Review the prediction `output` in a process of its own."""
    running = Reviewer(output)
    yield running
    running.kill()


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def last(self) -> dict[str, Any]:
        """The JSON line that stdout ends with."""
        line: dict[str, Any] = json.loads(self.stdout.strip().splitlines()[-1])
        return line


Nanograd = Callable[..., Outcome]


@pytest.fixture(scope="session")
def sample() -> Mnist:
    """The built-in sample: 4,000 and 1,000 digits."""
    return sources.load(["sample"])


@pytest.fixture(scope="session")
def few_digits(sample: Mnist) -> Mnist:
    """A few hundred digits of the sample, as data of their own."""
    train, test = sample.train.take(slice(0, 701)), sample.test.take(slice(0, 193))
    return Mnist(train=train, test=test, name="some", sha256=train.sha256())


@pytest.fixture(scope="session")
def mnist_place() -> str:
    """All of MNIST, where it is at hand."""
    place = SHARED / "mnist"
    if not place.is_dir():
        pytest.skip("needs the four MNIST files beside the checkout")
    return str(place)


@pytest.fixture
def nanograd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Nanograd:
    """Run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - environment_without_ray().keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("NANOGRAD_CACHE", str(tmp_path / "cache"))

    def run(*words: str, **environment: str) -> Outcome:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            code = cli.run(words)
        return Outcome(code, *capsys.readouterr())

    return run


# For modules that import the package by its name.
nanograd_ = pytest.fixture(lambda nanograd: nanograd, name="nanograd_")


@pytest.fixture
def nanograd_process(tmp_path: Path) -> Nanograd:
    """Run the command line in a process of its own, in an empty folder."""

    def run(*words: str, **environment: str) -> Outcome:
        command, cache = (sys.executable, "-m", "nanograd", *words), str(tmp_path / "cache")
        done = processes.run(*command, folder=tmp_path, NANOGRAD_CACHE=cache, **environment)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


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
    jobs.run(jobs.make_job(place), jobs.Scribe())
    return untimed_contents(place)
