"""MNIST over the network: verified, downloaded once, and never half there.

The cache is a local folder with the four files as `<name>.gz`. Every read from it checks the
SHA-256 of the decompressed bytes, so a damaged file is noticed and fetched again.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from nanograd.data.idx import decompress
from nanograd.errors import DataError, StorageError, UsageError
from nanograd.runtime import storage

Say = Callable[[str], None]

# SHA-256 of the decompressed files: mirrors compress differently, the content is one.
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

_ANSWER_S = 5.0  # to connect, and between two pieces of an answer
_TRANSFER_S = 300.0  # for one file as a whole: 10 MB at 33 kB/s
_PROGRESS_S = 3.0
_PIECE_BYTES = 1 << 18
_LARGEST_BYTES = 64 << 20  # MNIST's largest file is 47 MB uncompressed
_NO_ANSWER = f"no answer within {_ANSWER_S:.0f} s"
_FAILURES = (OSError, HTTPException, ValueError)


def cache_folder() -> str:
    """Where downloads are kept: NANOGRAD_CACHE, or `nanograd` in the user's cache folder.

    Raises:
        UsageError: NANOGRAD_CACHE names an object store.

    References:
        XDG Base Directory Specification 0.8: relative values are to be ignored.
    """
    chosen = os.environ.get("NANOGRAD_CACHE")
    if chosen and storage.is_remote(chosen):
        raise UsageError(f"NANOGRAD_CACHE={chosen}: the cache must be a local folder")
    if chosen:
        return storage.absolute(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return str((base if base.is_absolute() else Path.home() / ".cache") / "nanograd")


def cached(cache: str, name: str, sha256: str) -> bytes | None:
    """The decompressed file `name` from the cache; None if it is absent or damaged.

    Raises:
        StorageError: the file is there but cannot be read.
    """
    place = cached_place(cache, name)
    try:
        raw = decompress(storage.read(place), place)
    except DataError:
        return None
    return raw if storage.checksum(raw) == sha256 else None


def cached_place(cache: str, name: str) -> str:
    """Where the cache keeps the file `name`."""
    return storage.join(cache, f"{name}.gz")


def fetch(cache: str, mirrors: Sequence[str], say: Say, files: Mapping[str, str] = FILES) -> None:
    """Complete the cache: download what is absent or damaged, once for all processes.

    Args:
        cache: a local folder, made if need be.
        mirrors: base URLs (http, https, file) of `<name>.gz`, tried in turn.
        say: gets a sentence for each step, warning and sign of progress.
        files: SHA-256 of the decompressed bytes by name.

    Raises:
        DataError: no mirror served a file, or none the right bytes.
        StorageError: the cache cannot be written.
        UsageError: a mirror is no http, https or file URL, or there is none.
    """
    _check_mirrors(mirrors)
    if _missing(cache, files):
        with _lock(cache, say):
            # Asked again, for another process may have been here while this one waited.
            for name in _missing(cache, files):
                mirrors = _fetch_file(cache, name, files[name], mirrors, say)
    say(f"MNIST is complete and verified in {cache}")


def _fetch_file(
    cache: str, name: str, sha256: str, mirrors: Sequence[str], say: Say
) -> Sequence[str]:
    """Put one file into the cache; returns the mirrors, the one that served it first."""
    place = cached_place(cache, name)
    trouble = f"MNIST's file {name}"
    if storage.exists(place):
        trouble = f"{place} is damaged (wrong SHA-256) and"
        say(f"{place} is damaged (wrong SHA-256), fetching it again")
    mirror, data = _from_any(mirrors, name, sha256, say, trouble)
    storage.commit(place, data)
    # A mirror that failed once would cost its timeout again for every further file.
    return sorted(mirrors, key=lambda other: other != mirror)


def _missing(cache: str, files: Mapping[str, str]) -> list[str]:
    return [name for name, sha256 in files.items() if cached(cache, name, sha256) is None]


def _check_mirrors(mirrors: Sequence[str]) -> None:
    if not mirrors:
        raise UsageError("there is no mirror to download from; give one with --mirror URL")
    for mirror in mirrors:
        if not mirror.startswith(("http://", "https://", "file://")):
            raise UsageError(
                f"mirror {mirror}: give a URL that starts http://, https:// or file://"
            )


def _from_any(
    mirrors: Sequence[str], name: str, sha256: str, say: Say, trouble: str
) -> tuple[str, bytes]:
    """The first mirror that serves the right bytes, and its bytes as served."""
    reasons = []
    for mirror in mirrors:
        url = storage.join(mirror, f"{name}.gz")
        try:
            return mirror, _verified(_get(url, say), url, sha256)
        except (*_FAILURES, DataError) as error:
            reasons.append(_reason(error, url))
            say(reasons[-1])
    raise DataError(
        f"{trouble} cannot be downloaded ({'; '.join(reasons)}); use --data PATH if you have it, "
        "--data sample if not, or another mirror: nanograd data fetch --mirror URL"
    )


def _verified(data: bytes, url: str, sha256: str) -> bytes:
    found = storage.checksum(decompress(data, url))
    if found != sha256:
        raise DataError(f"{url}: wrong checksum, SHA-256 {found[:12]}... is not MNIST's")
    return data


def _get(url: str, say: Say) -> bytes:
    say(f"downloading {url}")
    begin = told = monotonic()
    data = bytearray()
    with _open(url) as response:
        size = int(response.headers.get("Content-Length") or 0)
        # read1 returns what has arrived: a server that drips cannot hold us past the deadline.
        while piece := response.read1(_PIECE_BYTES):
            data += piece
            now = monotonic()
            if now - begin > _TRANSFER_S or len(data) > _LARGEST_BYTES:
                raise ConnectionError(f"gave up after {now - begin:.0f} s and {len(data)} bytes")
            if now - told > _PROGRESS_S:
                told = now
                say(f"{url}: {len(data) / 1e6:.1f} MB" + (f" of {size / 1e6:.1f}" if size else ""))
    if len(data) < size:
        raise ConnectionError(f"the mirror closed early, after {len(data)} of {size} bytes")
    return bytes(data)


def _open(url: str) -> Any:
    # In a thread: urlopen's timeout covers neither name resolution nor a host's many addresses.
    answers: SimpleQueue[Any] = SimpleQueue()

    def attempt() -> None:
        try:
            answers.put(urlopen(url, timeout=_ANSWER_S))  # noqa: S310 - see _check_mirrors
        except _FAILURES as error:
            answers.put(error)

    Thread(target=attempt, name="nanograd-download", daemon=True).start()
    try:
        answer = answers.get(timeout=_ANSWER_S)
    except Empty:
        raise TimeoutError(_NO_ANSWER) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _reason(error: Exception, url: str) -> str:
    """One clause that names the URL."""
    if isinstance(error, DataError):
        return str(error).split("; ", maxsplit=1)[0]
    if isinstance(error, HTTPError):
        error.close()
        return f"{url}: HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"{url}: {_NO_ANSWER}"
    return f"{url}: {getattr(cause, 'strerror', None) or cause or type(cause).__name__}"


@contextmanager
def _lock(cache: str, say: Say) -> Iterator[None]:
    """Hold the cache for this process alone; the kernel lets go if the process dies."""
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
        file = (Path(cache) / ".lock").open("w")
    except OSError as error:
        raise StorageError(
            f"cannot use the cache {cache}: {error.strerror}; set NANOGRAD_CACHE to a folder you "
            "can write to"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is downloading MNIST, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
