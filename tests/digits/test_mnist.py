import gzip
import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nanograd.digits import mnist
from nanograd.errors import DataError, StorageError, UnavailableError, UsageError
from nanograd.runtime import storage
from nanograd.runtime.events import Level
from scripts.make_sample import format_idx

# What `fetch` downloads here: small stand-ins with their true checksums.
CONTENT = {name: f"the content of {name}".encode() * 99 for name in ("one", "two", "three")}
FILES = {name: sha256(content).hexdigest() for name, content in CONTENT.items()}
SERVED = {f"/{name}.gz": gzip.compress(content) for name, content in CONTENT.items()}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@contextmanager
def mirror(
    served: dict[str, bytes], *, missing_bytes: int = 0, gate: Event | None = None
) -> Iterator[tuple[str, Counter[str]]]:
    """Run a local web server: (its URL, number of requests of each path).

    It leaves out the last bytes of each file, and does not answer before the gate is open.
    """
    requests: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests[self.path] += 1
            if gate:
                gate.wait()
            data = served.get(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write((data or b"")[: len(data or b"") - missing_bytes])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetch(cache: Path, *mirrors: str) -> list[tuple[Level, str]]:
    messages = list[tuple[Level, str]]()
    files = mnist.fetch(
        str(cache), mirrors, lambda event: messages.append((event.level, str(event))), FILES
    )
    assert files == CONTENT
    return messages


def fetched(cache: Path) -> dict[str, bytes]:
    return {file.name: gzip.decompress(file.read_bytes()) for file in cache.iterdir()}


COMPLETE = {f"{name}.gz": content for name, content in CONTENT.items()}


def test_fetch_completes_the_cache_and_replaces_a_damaged_file(cache):
    with mirror(SERVED) as (url, requests):
        messages = fetch(cache, url)
        again = fetch(cache, url)
        (cache / "two.gz").write_bytes(SERVED["/two.gz"][:-9])
        repaired = fetch(cache, url)

    assert fetched(cache) == COMPLETE
    assert messages == [(Level.INFO, f"downloading {url}/{name}.gz") for name in CONTENT]
    assert again == []
    assert requests == {"/one.gz": 1, "/two.gz": 2, "/three.gz": 1}
    [warning] = [text for level, text in repaired if level == Level.WARNING]
    assert warning.startswith(f"{cache}/two.gz is damaged")


@pytest.mark.parametrize(
    ("served", "missing_bytes", "reason", "error"),
    [
        ({}, 0, ".*404", DataError),
        (dict.fromkeys(SERVED, gzip.compress(b"else")), 0, "wrong checksum", DataError),
        (dict.fromkeys(SERVED, b"<html>Sign in to the hotel</html>"), 0, "wrong checks", DataError),
        (SERVED, 5, "the mirror closed early, after", UnavailableError),
    ],
    ids=["404", "other-content", "html", "closes-early"],
)
def test_fetch_from_a_bad_mirror_fails_or_continues_with_the_next(
    cache, served, missing_bytes, reason, error
):
    with (
        mirror(served, missing_bytes=missing_bytes) as (bad, requests),
        mirror(SERVED) as (good, _),
    ):
        with pytest.raises(error, match=rf"one cannot be downloaded \({bad}/one\.gz: {reason}"):
            fetch(cache, bad)
        left = fetched(cache)
        messages = fetch(cache, bad, good)

    assert left == {}
    assert fetched(cache) == COMPLETE
    [warning] = [text for level, text in messages if level == Level.WARNING]
    assert re.match(f"{bad}/one.gz: {reason}", warning)
    assert requests == {"/one.gz": 2}


def test_fetch_gives_up_on_a_silent_mirror(cache, monkeypatch):
    monkeypatch.setattr(mnist, "TIMEOUT_S", 0.1)
    gate = Event()
    with mirror(SERVED, gate=gate) as (url, _):
        with pytest.raises(UnavailableError, match="timed out"):
            fetch(cache, url)
        gate.set()

    with pytest.raises(UnavailableError, match="Connection refused"):
        fetch(cache, url)
    assert fetched(cache) == {}


def test_two_processes_download_once(cache):
    program = (
        "import json, sys; from nanograd.digits.mnist import fetch;"
        "fetch(sys.argv[1], [sys.argv[2]], print, json.loads(sys.argv[3]))"
    )
    gate = Event()
    with mirror(SERVED, gate=gate) as (url, requests):
        command = [sys.executable, "-u", "-c", program, str(cache), url, json.dumps(FILES)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in "ab"]
        first_messages = {process.stdout.readline().split()[0] for process in processes}
        gate.set()
        for process in processes:
            process.communicate()

    assert first_messages == {"downloading", "another"}
    assert [process.returncode for process in processes] == [0, 0]
    assert requests == dict.fromkeys(SERVED, 1)


@pytest.mark.parametrize("mirrors", [[], ["/some/folder"], ["ftp://host/mnist"]])
def test_fetch_refuses_other_mirrors_and_caches(cache, mirrors, monkeypatch):
    with pytest.raises(UsageError, match="mirror"):
        fetch(cache, *mirrors)
    assert not cache.exists()
    cache.touch()
    with pytest.raises(StorageError, match="set NANOGRAD_CACHE"):
        fetch(cache / "below", "file:///nowhere/at/all")
    monkeypatch.setenv("NANOGRAD_CACHE", "s3://bucket/cache")
    with pytest.raises(UsageError, match="local folder"):
        mnist.cache_folder()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "/home/ada/.cache/nanograd"),
        ({"XDG_CACHE_HOME": "/fast"}, "/fast/nanograd"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/ada/.cache/nanograd"),
        ({"XDG_CACHE_HOME": ""}, "/home/ada/.cache/nanograd"),
        ({"XDG_CACHE_HOME": "/fast", "NANOGRAD_CACHE": "~/mine"}, "/home/ada/mine"),
    ],
)
def test_cache_folder_follows_the_environment(monkeypatch, environment, expected):
    for name in ("XDG_CACHE_HOME", "NANOGRAD_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/ada", **environment}.items():
        monkeypatch.setitem(os.environ, name, value)

    assert mnist.cache_folder() == expected


def test_gzip_bomb_is_refused_before_it_fills_the_memory(cache, tmp_path):
    (tmp_path / "mirror").mkdir()
    bomb = gzip.compress(bytes(1 << 28), compresslevel=1)
    for name in CONTENT:
        (tmp_path / "mirror" / f"{name}.gz").write_bytes(bomb)
    tracemalloc.start()

    with pytest.raises(DataError, match="the gzip file holds more than"):
        fetch(cache, f"file://{tmp_path}/mirror")

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])
SHAPES = st.one_of(
    st.tuples(st.integers(1, 193)),
    st.tuples(st.integers(1, 7), st.integers(1, 28), st.integers(1, 28)),
)
ARRAYS = SHAPES.flatmap(lambda shape: arrays(np.uint8, shape))
PACKINGS = st.sampled_from([bytes, gzip.compress])


def parses_or_complains(data: bytes) -> bool:
    """Return whether the bytes parse; any exception but DataError fails the test."""
    try:
        array = mnist.parse_idx(data, "some file")
    except DataError as error:
        assert str(error).startswith("some file: ")
        return False
    return array.dtype == np.uint8 and array.size > 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no IDX file"),
        (b"\0\0\x08", "no IDX file"),
        (b"\x89PNG\r\n\x1a\n", "no IDX file .*0x89504e47"),
        (b"\0\0\x0d\x01" + bytes(8), "no IDX file"),
        (b"\0\0\x08\x02" + bytes(12), "no IDX file"),
        (IMAGES[:11], "no IDX file"),
        (IMAGES[:-1], "2 x 1 x 3 bytes of data but 5 follow"),
        (IMAGES + b"\0", "2 x 1 x 3 bytes of data but 7 follow"),
        (b"\0\0\x08\x01" + bytes(4), "0 follow"),
        (b"\0\0\x08\x03\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff", "0 follow"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"few", "3 follow"),  # without allocating 8e28 bytes
        (gzip.compress(IMAGES, mtime=0)[:-3], "gzip file is damaged"),
        (gzip.compress(IMAGES, mtime=0)[:-8] + bytes(8), "gzip file is damaged"),
        (gzip.compress(IMAGES, mtime=0) + b"more", "gzip file is damaged"),
    ],
)
def test_broken_file_is_an_error_that_names_file_and_fault(data, reason):
    with pytest.raises(DataError, match=rf"^here/images: .*{reason}"):
        mnist.parse_idx(data, "here/images")


@given(ARRAYS, PACKINGS, st.data())
def test_file_parses_to_its_array_and_not_if_cut_or_damaged(array, pack, data):
    whole = pack(format_idx(array))
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, min(16, len(whole)) - 1))] ^= data.draw(st.integers(1, 255))

    parsed = mnist.parse_idx(whole, "some file")

    assert parsed.dtype == np.uint8
    assert np.array_equal(parsed, array)
    assert not parses_or_complains(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert not parses_or_complains(format_idx(array) + data.draw(st.binary(min_size=1, max_size=9)))
    parses_or_complains(bytes(damaged))


@pytest.mark.parametrize("members", [1, 3])
def test_gzip_file_grows_no_further_than_allowed(members):
    packed = members * gzip.compress(bytes(1000))

    assert storage.decompress(IMAGES, "f") is IMAGES
    assert storage.decompress(packed, "f", members * 1000) == bytes(members * 1000)
    with pytest.raises(DataError, match=r"^f: the gzip file holds more than "):
        storage.decompress(packed, "f", members * 1000 - 1)
