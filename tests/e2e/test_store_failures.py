"""A store that hangs, dies in the middle of an upload, or loses a command in a move."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.data.mnist import Mnist
from nanograd.runtime import storage
from tests.conftest import Nanograd, Outcome
from tests.e2e.conftest import Store, make_bucket
from tests.helpers.jobs import PARTS, TOTAL, Scribe, make_job, run
from tests.helpers.store_faults import Way, way_to

# Longer than a request may take (3 s), so that requests are repeated.
_HANGS_S = 8.0


@pytest.fixture
def rows(tmp_path: Path, sample: Mnist) -> Path:
    """Four files of 193 rows each, the last of them no picture."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(4):
        part = sample.test.take(slice(193 * number, 193 * number + 193))
        images = [*(image.tobytes() for image in part.images[:-1]), b"no picture"]
        pq.write_table(
            pa.table({"image": images, "label": part.labels}), folder / f"{number}.parquet"
        )
    return folder


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store of this test's own, which may be hung and killed."""
    own = Store()
    try:
        for name, value in own.environment.items():
            monkeypatch.setenv(name, value)
        yield own
    finally:
        own.kill()


@pytest.fixture
def way(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """The way to it, on which bytes are counted."""
    with way_to(store.url) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.url)
        yield found


@pytest.fixture
def predict(nanograd: Nanograd, rows: Path, trained: str) -> Callable[[str], Outcome]:
    """Predicts the rows into a place in the store."""
    return lambda place: nanograd(
        "predict", str(rows), "--model", trained, "--output", place, "--workers", "0"
    )


def contents(place: str) -> dict[str, bytes]:
    """Everything below a place in a store, by name, but for what tells how long it took."""
    return {
        file.removeprefix(place): storage.read(file)
        for file, _, _ in storage.files_below(place)
        if not file.endswith(("/", "/_metrics.jsonl", "/report.html"))
    }


def in_the_middle(
    way: Way, predict: Callable[[str], Outcome], place: str
) -> tuple[int, dict[str, bytes]]:
    """How many bytes half a job sends, and what a whole one leaves."""
    before = way.sent
    done = predict(place)
    assert done.code == 0, done.stderr
    return (way.sent - before) // 2, contents(place)


@contextmanager
def killed_after(moved: int) -> Iterator[None]:
    """The process is killed when so many files have been moved in a store."""
    left, files_below = [moved], storage.files_below

    def few(place: str) -> Iterator[tuple[str, int, int]]:
        for file in files_below(place):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            yield file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "files_below", few)
        yield


def test_store_that_hangs_for_a_while_is_waited_for(
    store: Store, way: Way, predict: Callable[[str], Outcome], tmp_path: Path
) -> None:
    bucket = make_bucket(tmp_path.name)
    half, undisturbed = in_the_middle(way, predict, f"{bucket}/undisturbed")
    waiting = Timer(_HANGS_S, store.go_on)

    way.after(half, lambda: (store.hang(), waiting.start()))
    done = predict(f"{bucket}/out")

    assert waiting.finished.is_set()
    assert done.code == 0, done.stderr
    assert contents(f"{bucket}/out") == undisturbed
    assert done.last["rows"] == done.last["predicted"] + done.last["quarantined"] == 4 * 193


def test_store_killed_in_an_upload_ends_the_job_with_74_and_what_it_lost_is_done_again(
    store: Store, way: Way, predict: Callable[[str], Outcome], tmp_path: Path
) -> None:
    bucket = make_bucket(tmp_path.name)
    half, undisturbed = in_the_middle(way, predict, f"{bucket}/undisturbed")

    way.after(half, store.kill)
    failed = predict(f"{bucket}/out")
    store.start()  # moto keeps everything in memory: what was there is gone
    make_bucket(tmp_path.name)
    left = storage.names(f"{bucket}/out")
    done = predict(f"{bucket}/out")

    assert failed.code == 74, failed.stderr
    assert "cannot write s3://" in failed.last["reason"]
    assert "\n" not in failed.last["reason"]
    assert "Traceback" not in failed.stderr
    assert left == []
    assert done.code == 0, done.stderr
    assert contents(f"{bucket}/out") == undisturbed


def test_way_lost_in_an_upload_ends_the_job_with_74_and_the_rest_is_done_later(
    way: Way,
    predict: Callable[[str], Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: Store,
) -> None:
    bucket = make_bucket(tmp_path.name)
    half, undisturbed = in_the_middle(way, predict, f"{bucket}/undisturbed")

    way.after(half, way.cut)
    failed = predict(f"{bucket}/out")
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    parts = storage.names(f"{bucket}/out/_receipts")
    complete = "_SUCCESS" in storage.names(f"{bucket}/out")
    done = predict(f"{bucket}/out")

    assert failed.code == 74, failed.stderr
    assert not complete
    assert 0 < len(parts) < 4
    assert f"{len(parts)} of 4 parts are done already" in done.stderr
    assert contents(f"{bucket}/out") == undisturbed


@pytest.mark.soak
def test_store_that_hangs_for_good_ends_the_job_with_74(
    store: Store, way: Way, predict: Callable[[str], Outcome], tmp_path: Path
) -> None:
    bucket = make_bucket(tmp_path.name)
    half, undisturbed = in_the_middle(way, predict, f"{bucket}/undisturbed")

    way.after(half, store.hang)
    failed = predict(f"{bucket}/out")
    store.go_on()
    done = predict(f"{bucket}/out")

    assert failed.code == 74, failed.stderr
    assert "Timeout" in failed.last["reason"]
    assert done.code == 0, done.stderr
    assert contents(f"{bucket}/out") == undisturbed


def test_replacement_in_a_store_killed_among_its_files_is_finished_by_the_next_command(
    endpoint: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in endpoint.items():
        monkeypatch.setenv(name, value)
    bucket = make_bucket(tmp_path.name)
    run(make_job(f"{bucket}/undisturbed"), Scribe(f"{bucket}/undisturbed"))
    undisturbed = contents(f"{bucket}/undisturbed")

    for moved in range(0, len(undisturbed), 5):
        out = f"{bucket}/out-{moved}"
        run(make_job(out, PARTS[:2], model="n"), Scribe(out))
        with killed_after(moved), pytest.raises(KeyboardInterrupt):
            run(make_job(out, overwrite=True), Scribe(out))
        complete = "_SUCCESS" in storage.names(out)
        again = Scribe(out)
        total, _ = run(make_job(out), again)

        assert not complete
        assert (again.done, total) == ([], TOTAL)
        assert contents(out) == undisturbed
