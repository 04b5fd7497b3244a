"""Commands on an object store: the bytes of a local folder, and what differs between servers."""

import gzip
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from shutil import copyfile
from threading import Thread
from typing import Any
from zipfile import ZipFile

import boto3
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, UsageError
from nanograd.images import reader
from nanograd.images.inputs import expand, expand_all
from nanograd.jobs.predict import plan
from nanograd.runtime import storage
from nanograd.settings.specs import PredictSpec
from simulators.waiting import wait_for
from tests.conftest import Outcome
from tests.e2e.conftest import every_server, only_swift
from tests.helpers.folders import untimed_contents
from tests.helpers.processes import start
from tests.helpers.reviews import Reviewer
from tests.runtime.test_storage import CHECKSUMS

NO_RAY = ("--workers", "0")
TRAIN = ("train", "--data", "sample", "--hidden", "7", "--epochs", "1")


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


@every_server
def test_pictures_pass_through_the_store_and_none_is_lost(nanograd, bucket, pictures, trained):
    rows = f"{bucket}/rows"
    words = ("ingest", pictures, "--output", rows, *NO_RAY, "--part-rows", "5", "--keep-original")
    ingested, again = nanograd(*words), nanograd(*words)
    predicted = nanograd("predict", rows, "--model", trained, "--output", f"{bucket}/out", *NO_RAY)

    assert_ingested(ingested)
    assert again.code == predicted.code == 0, again.stderr + predicted.stderr
    assert "nothing to do" in again.stderr
    assert predicted.last["rows"] == predicted.last["predicted"] == 12
    assert "_SUCCESS" in storage.names(f"{bucket}/out")


def test_archive_with_a_list_of_labels_is_read_by_a_worker_and_drawn(
    nanograd, nanograd_process, head, bucket, pictures
):
    stream, labels = BytesIO(), f"{bucket}/labels.csv"
    with ZipFile(stream, "w") as archive:
        for place, _, _ in storage.files_below(pictures):
            archive.writestr(place.removeprefix(f"{pictures}/"), storage.read(place))
    storage.commit(f"{bucket}/packed/all.zip", stream.getvalue())
    names = [Path(place).name for place, _, _ in storage.files_below(f"{pictures}/3")]
    lines = "".join(f"3/{name},5\n" for name in names)
    storage.commit(labels, f"file,label\n{lines}gone.png,1\n".encode())

    packed = nanograd("ingest", f"{bucket}/packed", "--output", f"{bucket}/unpacked", *NO_RAY)
    by_workers = nanograd_process(
        "ingest", pictures, "--output", f"{bucket}/rows", "--workers", "1", "--part-rows", "5",
        "--label-from", labels, **head.joining,
    )  # fmt: skip
    drawn = nanograd("inspect", pictures, "--output", f"{bucket}/sheet.png")
    missing = nanograd("ingest", f"{bucket}/none", "--output", "rows", *NO_RAY)

    assert_ingested(packed)
    assert_ingested(by_workers, labelled=6)
    assert "1 line of" in by_workers.stderr
    assert "_SUCCESS" in storage.names(f"{bucket}/rows")
    assert (drawn.last["pictures"], drawn.last["refused"]) == (14, 2), drawn.stderr
    with Image.open(BytesIO(storage.read(f"{bucket}/sheet.png"))) as sheet:
        assert sheet.height > 14 * 160
    assert missing.code == 65, missing.stderr


def test_pictures_of_a_data_set_are_written_to_the_store(nanograd, bucket, tmp_path):
    done = nanograd("data", "export", "--data", "sample", "--output", f"{bucket}/png")
    again = nanograd("data", "export", "--data", f"{bucket}/png", "--output", f"{bucket}/png/7")

    assert (done.code, done.last["images"], again.code) == (0, 1000, 2)
    assert len(storage.files_below(f"{bucket}/png")) == 1000
    assert list(tmp_path.iterdir()) == []
    storage.commit(f"{bucket}/png/notes.txt", b"dear")
    refused = nanograd("data", "export", "--data", "sample", "--output", f"{bucket}/png")
    assert (refused.code, "holds 'notes.txt'" in refused.last["reason"]) == (73, True)


def test_object_with_dots_in_its_key_is_left_out(nanograd, bucket, pictures):
    name, _, folder = bucket.removeprefix("s3://").partition("/")
    key = f"{folder}/in/3/../9/lost.png".lstrip("/")
    boto3.client("s3").put_object(Bucket=name, Key=key, Body=b"any")

    done = nanograd("predict", pictures, "--output", f"{bucket}/out", *NO_RAY)

    assert (done.code, done.last["rows"]) == (0, 14), done.stderr
    assert "not read: 1 object with . or .. in its key" in done.stderr


ODD_KEYS = ["a b", "c#d", "e?f", "g%27h", "%2e%2e", "k=l&m", "n[1]", "ö", "x*y"]


def one_row(pixel: int | bytes, label: int = 0) -> bytes:
    image = bytes(400) + bytes([pixel]) + bytes(383) if isinstance(pixel, int) else pixel
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": [image], "label": [label]}), sink, compression="none")
    return bytes(sink.getvalue())


@pytest.fixture
def tables(bucket: str, sample: Mnist) -> str:
    """A folder of Parquet files with odd keys, one row each, and one in an odd folder below."""
    for number, key in enumerate([*ODD_KEYS, "p #q?r/%41"]):
        data = one_row(sample.test.images[number].tobytes(), number)
        storage.commit(f"{bucket}/in/{key}.parquet", data)
    return f"{bucket}/in"


@every_server
@pytest.mark.parametrize(
    ("inputs", "num_files"),
    [
        (("/*.parquet",), 9),
        (("/**/*.parquet",), 10),
        (("/[a-e]*", "/p #q?r/"), 4),
        (("/", "", *(f"/{key}.parquet" for key in ODD_KEYS), "/*"), 10),
    ],
)
def test_rows_of_every_key_in_the_store_are_predicted_once(
    nanograd, tables, trained, inputs, num_files
):
    places = [f"{tables}{below}" for below in inputs]

    done = nanograd("predict", *places, "--model", trained, "--output", "out", *NO_RAY)

    rows = pq.read_table("out/predictions").to_pylist()
    listed = {place for place, _, _ in storage.files_below(tables)}
    assert done.code == 0, done.stderr
    assert [done.last[name] for name in ("rows", "predicted")] == [num_files, num_files]
    assert len({row["source_file"] for row in rows} & listed) == num_files


def test_inputs_that_are_missing_or_no_input_are_named(tables, bucket):
    for below in ("nothing", "nothing/", "*.csv", "no/*.parquet", "a?b?.parquet"):
        place = f"{tables}/{below}"
        with pytest.raises(DataError, match="there is no such file") as error:
            expand([place], (".parquet",))
        assert str(error.value).startswith(place.rstrip("/"))
    with pytest.raises(UsageError, match="names the output"):
        expand_all([f"{tables}/"], tables)
    before = expand([tables], (".parquet",))
    for name in ("_manifest.json", "predictions/part.parquet"):
        storage.commit(f"{tables}/read/{name}", b"{}")
    assert expand([tables], (".parquet",)) == before
    assert len(expand([f"{tables}/read/"], (".parquet",))) == 1
    storage.commit(f"{tables}/_delta_log/00000000000000000000.json", b"{}")
    for place in (tables, f"{bucket}/", f"{tables}/*.parquet", before[0].place):
        with pytest.raises(DataError, match=rf"^{tables} is a Delta table"):
            expand_all([place], f"{bucket}/out")


@every_server
def test_folder_in_the_store_grows_changes_and_shrinks(nanograd, tables, bucket, trained):
    for key in ODD_KEYS[3:]:
        storage.remove(f"{tables}/{key}.parquet")
    words = ("predict", tables, "--model", trained, "--output", f"{bucket}/out", *NO_RAY)
    first = nanograd(*words)
    storage.commit(f"{tables}/new.parquet", storage.read(f"{tables}/a b.parquet"))
    grown = nanograd(*words)
    sink = pa.BufferOutputStream()
    digit = pq.read_table(pa.BufferReader(storage.read(f"{tables}/a b.parquet")))
    pq.write_table(pa.concat_tables([digit] * 7), sink)
    storage.commit(f"{tables}/c#d.parquet", bytes(sink.getvalue()))
    storage.remove(f"{tables}/e?f.parquet")
    changed, synced, complete = nanograd(*words), nanograd(*words, "--sync"), nanograd(*words)
    storage.move(f"{tables}/c#d.parquet", f"{tables}/z.parquet")
    renamed = nanograd(*words)

    assert (renamed.code, "z.parquet" in str(renamed.last)) == (73, True)
    rows = [each.last.get("rows") for each in (first, grown, synced, complete)]
    assert rows == [4, 5, 10, 10], grown.stderr + synced.stderr
    assert "4 of 5 parts are done already" in grown.stderr
    assert (changed.code, "c#d.parquet" in changed.last["reason"]) == (73, True)
    assert "3 of 4 parts are done already" in synced.stderr
    assert "nothing to do" in complete.stderr


@every_server
@pytest.mark.parametrize("when", ["before", "in"])
def test_file_of_the_same_size_rewritten_in_the_same_second_ends_the_job(
    tables, bucket, trained, when, monkeypatch
):
    place, read_rows = f"{tables}/c#d.parquet", reader.read_rows
    storage.commit(place, one_row(100))
    job, work = plan([tables], PredictSpec(model=trained, output=f"{bucket}/out"))
    [part] = [part for part in job.parts if part.files[0] == place]

    def rewrite(*what: Any) -> Iterator[Any]:
        yield from read_rows(*what)
        storage.commit(place, one_row(200))

    if when == "before":
        storage.commit(place, one_row(200))
    else:
        monkeypatch.setattr(reader, "read_rows", rewrite)
    with pytest.raises(DataError, match=r"c#d\.parquet was changed after the job began"):
        work(part)


def test_path_of_a_row_is_a_key_of_the_root_and_no_request_to_another_host(
    nanograd, bucket, pictures, trained
):
    name = next(name for name in storage.names(f"{pictures}/3") if name[0].isdigit())
    data = storage.read(f"{pictures}/3/{name}")
    paths = [f"3/{name}", f"{pictures}/3/{name}", "3/odd #?%27.png"]
    storage.commit(f"{pictures}/{paths[2]}", data)
    paths.append(f"{pictures.replace('s3', 's3a', 1)}/3/{name}")
    paths += [f"3/{name}?endpoint_override=127.0.0.1:1", f"{bucket}/labels/x?scheme=http"]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.table({"image": pa.array([{"path": path} for path in paths], struct)})
    pq.write_table(rows, "rows.parquet")

    done = nanograd(
        "predict", "rows.parquet", "--model", trained, "--output", "out", *NO_RAY,
        "--image-root", f"{pictures}/",
    )  # fmt: skip

    assert done.code == 0, done.stderr
    assert done.last["predicted"] == 4
    assert done.last["reasons"] == {"no_file": 1, "outside_root": 1}


def test_files_that_may_be_read_but_not_listed_are_read(nanograd, store, pictures, trained, sample):
    digits = [name for name in storage.names(f"{pictures}/3") if name[0].isdigit()]
    image = [{"path": f"3/{name}"} for name in (*digits, "gone.png")]
    pq.write_table(pa.table({"image": image}), "rows.parquet")
    files = "rows.parquet", f"{pictures}/rows.parquet"
    storage.commit(files[1], Path("rows.parquet").read_bytes())
    words = ("predict", *files, "--model", trained, *NO_RAY, "--image-root", pictures)
    rows = pd.DataFrame(sample.test.images[:70]).add_prefix("pixel")
    data = rows.assign(label=sample.test.labels[:70]).to_csv(index=False)
    storage.commit(f"{pictures}/rows.csv", data.encode())

    with store.reader() as variables:
        done = nanograd(*words, **variables)
        measured = nanograd("evaluate", "--data", f"{pictures}/rows.csv", **variables)

    assert done.code == 0, done.stderr
    assert measured.last["images"] == 70, measured.stderr
    assert (done.last["predicted"], done.last["reasons"]) == (2 * len(digits), {"no_file": 2})


def test_csv_files_in_the_store_are_predicted_as_those_in_a_folder(
    nanograd, bucket, sample, trained, tmp_path
):
    (tmp_path / "csv" / "below").mkdir(parents=True)
    digits = pd.DataFrame(sample.test.images[:120]).add_prefix("pixel").assign(id="row, 7")
    digits[:60].to_csv("csv/a.csv", index=False)
    digits[60:].to_csv("csv/below/b.csv.gz", index=False)
    for name in ("a.csv", "below/b.csv.gz"):
        storage.commit(f"{bucket}/csv/{name}", Path("csv", name).read_bytes())
    words = ("--model", trained, "--rows-per-file", "25", "--keep", "id", *NO_RAY)
    for source, output in (("csv/**/*.csv*", "disk"), (f"{bucket}/csv/", "store")):
        done = nanograd("predict", source, *words, "--output", output)
        assert done.code == 0, done.stderr

    on_disk, in_store = (
        sorted((Path(row.pop("source_file")).name, *row.values()) for row in rows.to_pylist())
        for table in map(pq.read_table, ("disk/predictions", "store/predictions"))
        for rows in [table.drop_columns(["path"])]
    )
    assert on_disk == in_store
    assert len(on_disk) == 120


# Files and folders


@every_server
def test_content_is_what_was_written_and_two_may_remove_it_at_once(bucket):
    data = gzip.compress(b"data")
    places = [f"{bucket}/{number}{end}" for number in range(5) for end in (".csv.gz", ".bz2", "")]
    for place in places:
        storage.commit(place, data)
        with storage.open_file(place) as stream:
            assert stream.read() == storage.read(place) == data
    assert storage.read(places[0], max_bytes=3) == data[:3]

    with ThreadPoolExecutor(8) as pool:
        for place in places:
            list(pool.map(storage.remove, [place] * 8))

    assert storage.names(bucket) == []


FILES = ["", "/a", "/a/b", "/a b", "/ö#?%41", "/empty", "/deep/er/x"]


@every_server
def test_files_are_moved_and_folders_removed_with_their_markers_and_nothing_else(bucket):
    filesystem, path = storage.arrow_filesystem(bucket)
    for name in FILES:
        storage.commit(f"{bucket}/old{name}/file", name.encode())
    for beside in ("run2/file", "run.txt", "other"):
        storage.commit(f"{bucket}/{beside}", b"")

    for name in FILES:
        storage.move(f"{bucket}/old{name}/file", f"{bucket}/run{name}/file")
    moved = {storage.read(f"{bucket}/run{name}/file").decode() for name in FILES}
    left = storage.files_below(f"{bucket}/old")
    storage.remove(f"{bucket}/old")
    filesystem.create_dir(f"{path}/run/marked/deeper", recursive=True)
    storage.remove(f"{bucket}/run/a")
    rest = {
        file.removeprefix(f"{bucket}/run") for file, _, _ in storage.files_below(f"{bucket}/run/")
    }
    storage.remove(f"{bucket}/run/")

    assert moved == set(FILES)
    assert left == []
    assert rest == {f"{name}/file" for name in FILES if not name.startswith("/a/") and name != "/a"}
    assert storage.names(bucket) == ["other", "run.txt", "run2"]


@every_server
def test_prefix_that_is_also_the_name_of_an_object_is_a_file_and_a_folder(bucket):
    for name in ("run", "run/a", "run/b/c"):
        storage.commit(f"{bucket}/{name}", name.encode())

    listed = sorted(file for file, _, _ in storage.files_below(bucket))
    names = storage.names(f"{bucket}/run")
    storage.remove(f"{bucket}/run")

    assert listed == [f"{bucket}/{name}" for name in ("run", "run/a", "run/b/c")]
    assert names == ["a", "b"]
    assert storage.read(f"{bucket}/run/b/c") == b"run/b/c"


@only_swift  # which lists 20 files in a reply
def test_folder_of_more_files_than_a_reply_lists_is_listed_and_removed_whole(bucket):
    places = [f"{bucket}/many/{number:04}" for number in range(53)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda place: storage.commit(place, b""), places))

    names = storage.names(f"{bucket}/many")
    listed = sorted(storage.files_below(f"{bucket}/many"))
    storage.remove(f"{bucket}/many")

    assert names == [place.rpartition("/")[2] for place in places]
    assert [(place, size) for place, size, _ in listed] == [(place, 0) for place in places]
    assert storage.names(bucket) == []


# Runs and errors


@every_server
def test_run_is_found_under_each_name_of_the_scheme(nanograd, bucket):
    first = nanograd(*TRAIN, *NO_RAY, "--output", f"{bucket}/run/")

    again = nanograd(*TRAIN, *NO_RAY, "--output", f"{bucket.replace('s3', 's3a', 1)}/run")

    assert (first.code, again.code) == (0, 0), first.stderr + again.stderr
    assert "complete; --overwrite trains it again" in again.stderr


NO_BUCKET = ("s3://no-such-bucket/run", {}, "bucket does not exist")
SWIFT_REFUSES = (
    NO_BUCKET,
    ("{}/run", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "ACCESS_DENIED|SIGNATURE_DOES_NOT_MATCH"),
    ("{}/run", {CHECKSUMS: "when_supported"}, "refuses checksums; set AWS_REQUEST_CHECKSUM_"),
)


@pytest.mark.parametrize(
    ("store", "place", "variables", "reason"),
    [
        ("moto", *NO_BUCKET),
        *(pytest.param("swift", *each, marks=pytest.mark.hosts) for each in SWIFT_REFUSES),
    ],
    indirect=["store"],
)
def test_refusal_of_the_store_is_74_and_one_sentence(nanograd, bucket, place, variables, reason):
    done = nanograd(*TRAIN, *NO_RAY, "--output", place.format(bucket), **variables)

    assert done.code == 74, done.stderr
    assert re.search(reason, done.last["reason"])
    assert "\n" not in done.last["reason"]


def test_server_that_is_no_store_is_named_as_the_likely_cause(nanograd, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, args=(0.05,)).start()
        url = f"http://127.0.0.1:{server.server_port}"
        done = nanograd(*TRAIN, *NO_RAY, "--output", "s3://bucket/run", AWS_ENDPOINT_URL=url)
        server.shutdown()

    assert done.code == 74, done.stderr
    assert "AWS_ENDPOINT_URL is not the address of one" in done.last["reason"]


@pytest.mark.slow
def test_pipeline_in_the_store_has_the_bytes_of_a_local_folder(
    nanograd_process, head, bucket, png_folder, tmp_path
):
    """Train through a kill, then ingest and predict 20 pictures, then 40."""
    pictures, places, results = tmp_path / "pictures", (f"{tmp_path}/disk", bucket), []
    (pictures / "3").mkdir(parents=True)
    two, sums = ("--workers", "2"), set()
    for place in places:
        words = ("train", "--data", "sample", "--epochs", "40", "--hidden", "33", *two)
        words += ("--output", f"{place}/run")
        killed = start(*words, **head.joining)
        wait_for(lambda at=place: storage.names(f"{at}/run/checkpoints"), "nothing was saved")
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
        done = nanograd_process(*words, **head.joining)
        assert done.code == 0, done.stderr
        assert "continuing after" in done.stderr
        sums.add((done.last["params_sha256"], storage.read(f"{place}/run/model/model.safetensors")))
    for number in (20, 40):
        for file in sorted((png_folder / "3").iterdir())[:number]:
            copyfile(file, pictures / "3" / file.name)
        for place in places:
            ingest = ("ingest", str(pictures), "--output", f"{place}/rows", "--part-rows", "7")
            predict = ("predict", f"{place}/rows", "--model", f"{place}/run/model")
            for words in (ingest, (*predict, "--output", f"{place}/read", "--rows-per-file", "9")):
                done = nanograd_process(*words, *two, **head.joining)
                assert done.code == 0, done.stderr
            results.append(
                [rows_of(f"{place}/read/predictions", place), untimed_contents(f"{place}/rows")]
            )

    assert len(sums) == 1
    assert results[0] == results[1]
    assert results[2] == results[3]
    assert [len(rows) for rows, _ in results] == [20, 20, 40, 40]
    assert [storage.leases(f"{bucket}/{name}") for name in ("run", "rows", "read")] == [[], [], []]


def rows_of(folder: str, place: str) -> list[dict[str, Any]]:
    """Return the rows of all files of a folder, the place of their sources left out."""
    data = [storage.read(file) for file, *_ in storage.files_below(folder)]
    rows = [
        {**row, **{name: row[name].removeprefix(place) for name in ("path", "source_file")}}
        for each in data
        for row in pq.read_table(pa.BufferReader(each)).to_pylist()
    ]
    return sorted(rows, key=lambda row: (row["source_file"], row["source_row"]))


def test_corrections_in_the_store_survive_a_kill(nanograd, bucket, pictures, trained):
    out, file = f"{bucket}/out", f"{bucket}/out/_corrections.pq"
    words = ("--model", trained, "--output", out, "--review-share", "1", *NO_RAY)
    assert nanograd("predict", pictures, *words).code == 0
    reviewer = Reviewer(out)
    for row, label in enumerate((3, None, 8)):
        assert reviewer.send(row=row, label=label)[0] == 200
    reviewer.kill()

    again = Reviewer(out)
    assert [again.page()[name] for name in ("row", "decided")] == [3, 3]
    assert again.send(row=2)[0] == 200
    line, _ = again.end()

    assert [line[name] for name in ("reviewed", "no_digit", "corrections")] == [2, 1, file]
    assert nanograd("evaluate", "--model", trained, "--data", file).last["images"] == 1
    assert "nothing to do" in nanograd("predict", pictures, *words).stderr
