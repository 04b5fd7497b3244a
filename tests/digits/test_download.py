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

import pytest

from nanograd.digits import mnist
from nanograd.errors import DataError, StorageError, UsageError
from nanograd.runtime.events import Level

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
    ("served", "missing_bytes", "reason"),
    [
        ({}, 0, ".*404"),
        (dict.fromkeys(SERVED, gzip.compress(b"else")), 0, "wrong checksum"),
        (dict.fromkeys(SERVED, b"<html>Sign in to the hotel's network</html>"), 0, "wrong checks"),
        (SERVED, 5, "the mirror closed early, after"),
    ],
    ids=["404", "other-content", "html", "closes-early"],
)
def test_fetch_from_a_bad_mirror_fails_or_continues_with_the_next(
    cache, served, missing_bytes, reason
):
    with (
        mirror(served, missing_bytes=missing_bytes) as (bad, requests),
        mirror(SERVED) as (good, _),
    ):
        with pytest.raises(DataError, match=rf"one cannot be downloaded \({bad}/one\.gz: {reason}"):
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
        with pytest.raises(DataError, match="timed out"):
            fetch(cache, url)
        gate.set()

    with pytest.raises(DataError, match="Connection refused"):
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
