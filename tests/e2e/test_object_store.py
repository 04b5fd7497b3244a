"""Pictures from an object store to an object store, against a server that speaks S3."""

from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from nanograd.runtime import storage
from tests.conftest import Nanograd, Outcome
from tests.helpers.head import Head


@pytest.fixture
def pictures(bucket: str, png_folder: Path) -> str:
    """14 pictures in folders of a bucket, two of them bad, and a file that is none."""
    place = f"{bucket}/in"
    for digit in (3, 8):
        for file in sorted((png_folder / str(digit)).iterdir())[:6]:
            storage.commit(f"{place}/{digit}/{file.name}", file.read_bytes())
    bad = {"3/empty.png": b"", "8/half.png": file.read_bytes()[:99], "8/notes.txt": b"dear"}
    for below, data in bad.items():
        storage.commit(f"{place}/{below}", data)
    return place


def assert_ingested(done: Outcome, labelled: int = 12) -> None:
    assert done.code == 0, done.stderr
    assert [done.last[name] for name in ("rows", "ingested", "labelled")] == [14, 12, labelled]
    assert done.last["reasons"] == {"empty": 1, "broken_image": 1}


def test_pictures_pass_through_the_store_and_none_is_lost(
    nanograd: Nanograd, bucket: str, pictures: str, trained: str
) -> None:
    rows = f"{bucket}/rows"
    words = ("ingest", pictures, "--output", rows, "--workers", "0", "--part-rows", "5")
    ingested = nanograd(*words, "--keep-original")
    again = nanograd(*words, "--keep-original")
    predicted = nanograd(
        "predict", rows, "--model", trained, "--output", f"{bucket}/out", "--workers", "0"
    )

    assert_ingested(ingested)
    assert again.code == predicted.code == 0, again.stderr + predicted.stderr
    assert "nothing to do" in again.stderr
    assert predicted.last["rows"] == predicted.last["predicted"] == 12
    assert "_SUCCESS" in storage.names(f"{bucket}/out")


def test_workers_on_a_cluster_use_the_store_themselves(
    nanograd_process: Nanograd, head: Head, bucket: str, pictures: str
) -> None:
    words = ("ingest", pictures, "--output", f"{bucket}/rows", "--workers", "2")

    done = nanograd_process(*words, "--part-rows", "5", **head.joining)

    assert_ingested(done)
    assert "_SUCCESS" in storage.names(f"{bucket}/rows")


def test_archive_in_the_store_is_ingested(nanograd: Nanograd, bucket: str, pictures: str) -> None:
    stream = BytesIO()
    with ZipFile(stream, "w") as archive:
        for place, _, _ in storage.files_below(pictures):
            archive.writestr(place.removeprefix(f"{pictures}/"), storage.read(place))
    storage.commit(f"{bucket}/packed/all.zip", stream.getvalue())

    done = nanograd("ingest", f"{bucket}/packed", "--output", f"{bucket}/rows", "--workers", "0")

    assert_ingested(done)


def test_labels_come_from_a_list_in_the_store(
    nanograd: Nanograd, bucket: str, pictures: str
) -> None:
    names = [Path(place).name for place, _, _ in storage.files_below(f"{pictures}/3")]
    lines = "".join(f"3/{name},5\n" for name in names)
    labels = f"{bucket}/labels.csv"
    storage.commit(labels, f"file,label\n{lines}gone.png,1\n".encode())

    done = nanograd(
        "ingest", pictures, "--output", f"{bucket}/rows", "--workers", "0", "--label-from", labels
    )

    assert_ingested(done, labelled=6)
    assert "1 line of" in done.stderr


def test_inspection_sheet_is_drawn_from_the_store_into_the_store(
    nanograd: Nanograd, bucket: str, pictures: str
) -> None:
    done = nanograd("inspect", pictures, "--output", f"{bucket}/sheet.png")

    assert done.code == 0, done.stderr
    assert (done.last["pictures"], done.last["refused"]) == (14, 2)
    with Image.open(BytesIO(storage.read(f"{bucket}/sheet.png"))) as sheet:
        assert sheet.height > 14 * 160


def test_missing_folder_is_65(nanograd: Nanograd, bucket: str) -> None:
    done = nanograd("ingest", f"{bucket}/out", "--output", "rows", "--workers", "0")

    assert done.code == 65, done.stderr


@pytest.mark.slow  # the client retries for six seconds
def test_unreachable_store_is_74(nanograd: Nanograd, pictures: str) -> None:
    done = nanograd(
        "ingest", pictures, "--output", "rows", "--workers", "0",
        AWS_ENDPOINT_URL="http://127.0.0.1:1", AWS_MAX_ATTEMPTS="1",
    )  # fmt: skip

    assert done.code == 74, done.stderr
    assert "\n" not in done.last["reason"]
