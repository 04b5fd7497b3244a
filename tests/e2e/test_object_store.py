"""Pictures from an object store to an object store, against a server that speaks S3."""

from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from nanograd.runtime import storage
from tests.conftest import Nanograd, Outcome
from tests.e2e.conftest import make_bucket


@pytest.fixture
def bucket(
    endpoint: dict[str, str], monkeypatch: pytest.MonkeyPatch, png_folder: Path, tmp_path: Path
) -> str:
    """A bucket of 14 pictures in folders, two of them bad, and a file that is none."""
    for name, value in endpoint.items():
        monkeypatch.setenv(name, value)
    place = make_bucket(tmp_path.name)
    for digit in (3, 8):
        for file in sorted((png_folder / str(digit)).iterdir())[:6]:
            storage.commit(f"{place}/in/{digit}/{file.name}", file.read_bytes())
    bad = {"3/empty.png": b"", "8/half.png": file.read_bytes()[:99], "8/notes.txt": b"dear"}
    for below, data in bad.items():
        storage.commit(f"{place}/in/{below}", data)
    return place


def ingest(nanograd: Nanograd, bucket: str, *words: str, **environment: str) -> Outcome:
    return nanograd("ingest", f"{bucket}/in", "--output", f"{bucket}/rows", *words, **environment)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_pictures_go_through_the_store_and_every_one_is_accounted_for(
    nanograd: Nanograd, endpoint: dict[str, str], bucket: str, trained: str, workers: str
) -> None:
    words = ["--workers", workers, "--part-rows", "5"]
    ingested = ingest(nanograd, bucket, *words, "--keep-original", **endpoint)
    again = ingest(nanograd, bucket, *words, "--keep-original", **endpoint)
    predicted = nanograd(
        "predict", f"{bucket}/rows", "--model", trained, "--output", f"{bucket}/read",
        "--workers", workers, **endpoint,
    )  # fmt: skip

    assert ingested.code == again.code == predicted.code == 0, ingested.stderr + predicted.stderr
    assert (ingested.last["rows"], ingested.last["ingested"]) == (14, 12)
    assert ingested.last["labelled"] == 12
    assert ingested.last["reasons"] == {"empty": 1, "broken_image": 1}
    assert "nothing to do" in again.stderr
    assert predicted.last["rows"] == predicted.last["predicted"] == 12
    assert "_SUCCESS" in storage.names(f"{bucket}/read")


def test_archive_in_the_store_is_read_where_it_is(
    nanograd: Nanograd, endpoint: dict[str, str], bucket: str
) -> None:
    stream = BytesIO()
    with ZipFile(stream, "w") as archive:
        for place, _, _ in storage.files_below(f"{bucket}/in"):
            archive.writestr(place.removeprefix(f"{bucket}/in/"), storage.read(place))
    storage.commit(f"{bucket}/packed/all.zip", stream.getvalue())

    done = nanograd(
        "ingest", f"{bucket}/packed", "--output", f"{bucket}/rows", "--workers", "0", **endpoint
    )  # fmt: skip

    assert done.code == 0, done.stderr
    assert (done.last["rows"], done.last["ingested"], done.last["labelled"]) == (14, 12, 12)
    assert done.last["reasons"] == {"empty": 1, "broken_image": 1}


def test_labels_come_from_a_list_in_the_store(
    nanograd: Nanograd, endpoint: dict[str, str], bucket: str
) -> None:
    names = [Path(place).name for place, _, _ in storage.files_below(f"{bucket}/in/3")]
    lines = "".join(f"3/{name},5\n" for name in names)
    storage.commit(f"{bucket}/labels.csv", f"file,label\n{lines}gone.png,1\n".encode())

    done = ingest(
        nanograd, bucket, "--workers", "0", "--label-from", f"{bucket}/labels.csv", **endpoint
    )

    assert done.code == 0, done.stderr
    assert (done.last["ingested"], done.last["labelled"]) == (12, 6)
    assert "1 line of" in done.stderr


def test_sheet_is_drawn_from_the_store_into_the_store(
    nanograd: Nanograd, endpoint: dict[str, str], bucket: str
) -> None:
    done = nanograd("inspect", f"{bucket}/in", "--output", f"{bucket}/sheet.png", **endpoint)

    assert done.code == 0, done.stderr
    assert (done.last["pictures"], done.last["refused"]) == (14, 2)
    with Image.open(BytesIO(storage.read(f"{bucket}/sheet.png"))) as sheet:
        assert sheet.height > 14 * 160


def test_store_that_is_gone_is_74_and_a_folder_that_is_not_there_65(
    nanograd: Nanograd, endpoint: dict[str, str], bucket: str
) -> None:
    gone = {**endpoint, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}

    missing = nanograd("ingest", f"{bucket}/out", "--output", "rows", "--workers", "0", **endpoint)
    unreachable = ingest(nanograd, bucket, "--workers", "0", **gone)

    assert (missing.code, unreachable.code) == (65, 74), missing.stderr + unreachable.stderr
    assert "\n" not in unreachable.last["reason"]
