"""An object store that hangs or fails in the middle of an upload, or a command killed in a move."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.digits.dataset import Mnist
from nanograd.runtime import storage
from tests.conftest import Nanograd, Outcome
from tests.e2e.conftest import make_bucket
from tests.helpers.folders import untimed_contents
from tests.helpers.jobs import PARTS, TOTAL, Scribe, make_job, run
from tests.helpers.store_faults import Proxy
from tests.helpers.stores import Store, Swift

NUM_FILES, FILE_ROWS = 4, 193
# Longer than a request may take (3 s), so that requests are repeated.
_HANG_S = 4.0

Predict = Callable[[str], Outcome]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, sample: Mnist) -> Path:
    """A folder of small files, the last row of each no picture."""
    folder = tmp_path_factory.mktemp("rows")
    for number in range(NUM_FILES):
        part = sample.test.take(slice(FILE_ROWS * number, FILE_ROWS * (number + 1)))
        images = [*(image.tobytes() for image in part.images[:-1]), b"no picture"]
        table = pa.table({"image": images, "label": part.labels})
        pq.write_table(table, folder / f"{number}.parquet")
    return folder


@pytest.fixture
def proxy(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The way of this process and its children to the store."""
    made = Proxy(store.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    made.close()


@pytest.fixture
def predict(nanograd_process: Nanograd, rows: Path, trained: str) -> Predict:
    """A command that predicts the rows into a place in the store."""
    words = ("predict", str(rows), "--model", trained, "--workers", "0", "--output")
    return lambda place: nanograd_process(*words, place)


class Undisturbed(NamedTuple):
    """The job without a failure: half of its requests, and its output."""

    half: int
    files: dict[str, bytes]


@pytest.fixture
def undisturbed(proxy: Proxy, predict: Predict, bucket: str, name: str) -> Undisturbed:
    done = predict(f"{bucket}/undisturbed")
    assert done.code == 0, done.stderr
    return Undisturbed(proxy.num_requests[name] // 2, untimed_contents(f"{bucket}/undisturbed"))


@pytest.fixture
def name(bucket: str) -> str:
    return bucket.removeprefix("s3://")


@contextmanager
def interrupt_after(num_files: int) -> Iterator[None]:
    """End the process, as by Ctrl-C, when this many files have been moved in a store."""
    left, files_below = [num_files], storage.files_below

    def few(place: str) -> Iterator[tuple[str, int, int]]:
        for file in files_below(place):
            if "/_next/" in place:
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
            yield file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "files_below", few)
        yield


def test_hang_of_the_store_is_waited_for(
    store: Store, proxy: Proxy, predict: Predict, bucket: str, name: str, undisturbed: Undisturbed
) -> None:
    end_of_hang = Timer(_HANG_S, store.resume)

    proxy.after(name, undisturbed.half, lambda: (store.hang(), end_of_hang.start()))
    done = predict(f"{bucket}/out")

    assert end_of_hang.finished.is_set()
    assert done.code == 0, done.stderr
    assert untimed_contents(f"{bucket}/out") == undisturbed.files
    assert done.last["rows"] == done.last["predicted"] + done.last["quarantined"] == 4 * 193


@pytest.mark.parametrize(
    "failure",
    [
        "lost connection",
        pytest.param("killed store", marks=pytest.mark.slow),
        pytest.param("endless hang", marks=pytest.mark.soak),
    ],
)
def test_failure_in_an_upload_ends_the_job_with_74_and_the_next_one_does_the_rest(
    store: Store,
    proxy: Proxy,
    predict: Predict,
    bucket: str,
    name: str,
    undisturbed: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
) -> None:
    out = f"{bucket}/out"
    fail = {"lost connection": proxy.close, "killed store": store.kill, "endless hang": store.hang}

    proxy.after(name, undisturbed.half, fail[failure])
    failed = predict(out)
    store.resume()
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    is_lost = failure == "killed store" and not store.is_durable
    if is_lost:
        make_bucket(name)
    num_done, names = len(storage.names(f"{out}/_receipts")), storage.names(out)
    done = predict(out)

    assert failed.code == 74, failed.stderr
    assert "cannot write s3://" in failed.last["reason"]
    assert "\n" not in failed.last["reason"]
    assert "Traceback" not in failed.stderr
    assert "_SUCCESS" not in names
    assert done.code == 0, done.stderr
    assert num_done == 0 or f"{num_done} of {NUM_FILES} parts" in done.stderr
    assert (num_done > 0) == (not is_lost)
    assert untimed_contents(out) == undisturbed.files


def test_store_whose_lists_lack_the_lease_is_refused(
    nanograd: Nanograd, store: Store, bucket: str
) -> None:
    if not isinstance(store, Swift):
        pytest.skip("moto lists all that it stores")
    storage.commit(f"{bucket}/file", b"")  # Swift knows the bucket
    commit = storage.commit

    def commit_lease(place: str, data: bytes) -> None:
        with store.without_lists():
            commit(place, data)
        patch.undo()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "commit", commit_lease)
        done = nanograd("train", "--data", "sample", "--workers", "0", "--output", f"{bucket}/run")

    assert done.code == 74, done.stderr
    assert "does not list a file that was written" in done.last["reason"]
    assert storage.names(f"{bucket}/run") == storage.leases(f"{bucket}/run") == []


@pytest.mark.parametrize("num_files", [0, 7])
def test_replacement_killed_between_two_files_is_finished_by_the_next_command(
    bucket: str, undisturbed_job: dict[str, bytes], num_files: int
) -> None:
    out = f"{bucket}/out"
    run(make_job(out, PARTS[:2], model="n"), Scribe())
    with interrupt_after(num_files), pytest.raises(KeyboardInterrupt):
        run(make_job(out, overwrite=True), Scribe())
    complete = "_SUCCESS" in storage.names(out)

    again = Scribe()
    total, _ = run(make_job(out), again)

    assert not complete
    assert (again.done, total) == ([], TOTAL)
    assert untimed_contents(out) == undisturbed_job
