"""MNIST's files: their format, IDX, and their download into a local cache.

An IDX file is a magic number, the sizes, then one byte per value. Every read from the cache
verifies the SHA-256 of the decompressed bytes, so a damaged file is downloaded again.

References:
    LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section "File formats".
"""

import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPException
from math import prod
from pathlib import Path
from time import monotonic
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray

from nanograd.digits.dataset import Dataset
from nanograd.digits.preparation import labelled_rows
from nanograd.errors import ArgumentError, DataError, StorageError, UnavailableError, UsageError
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, info, warning
from nanograd.runtime.lease import exclusive

# The files of images and labels, by their names. The SHA-256 is of the decompressed bytes, because
# mirrors compress them differently.
_TRAIN = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
}
_TEST = {
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FILES = {"train": _TRAIN, "test": _TEST}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

TIMEOUT_S = 5.0  # maximum time to connect, and to wait for data
_TRANSFER_S = 300.0  # maximum time for a file; enough for 10 MB at 33 kB/s
_PROGRESS_S = 3.0
_CHUNK_BYTES = 1 << 18
_MAX_BYTES = 64 << 20  # MNIST's largest file has 47 MB uncompressed
_MAGIC = b"\0\0\x08"  # for unsigned bytes; the number of dimensions follows


def parse_idx(data: bytes, name: str) -> NDArray[np.uint8]:
    """Parse (N,) labels or (N, rows, columns) images from an IDX file, raw or gzipped; read-only.

    Raises:
        DataError: the file is not IDX, has another type or number of dimensions, is empty, is cut
            short or is too long.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]), "labels").tolist()
    [5, 0, 4]
    """
    raw = storage.decompress(data, name)
    rank = raw[3] if raw.startswith(_MAGIC) and len(raw) > 3 else 0
    if rank not in (1, 3) or len(raw) < 4 + 4 * rank:
        raise DataError(
            f"{name}: this is no IDX file of labels or images in unsigned bytes (it begins with "
            f"0x{raw[:4].hex()}); check the path"
        )
    shape: tuple[int, ...] = struct.unpack_from(f">{rank}I", raw, offset=4)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
    if not len(values) or len(values) != prod(shape):
        raise DataError(
            f"{name}: the header announces {' x '.join(map(str, shape))} bytes of data but "
            f"{len(values)} follow; get the file again"
        )
    return values.reshape(shape)


def find_pair(found: Iterable[str], part: str) -> list[str]:
    """Find the image file and the label file of `train` or `test` among file names; "" for none.

    Names may be in upper or lower case, with a dot before `idx`, and end in `.gz`.

    >>> find_pair(["T10K-images.idx3-ubyte.gz", "notes"], "test")
    ['T10K-images.idx3-ubyte.gz', '']
    """
    # If a file exists raw and gzipped, take the raw one.
    known = {
        name.lower().removesuffix(".gz").replace(".idx", "-idx"): name
        for name in sorted(found, reverse=True)
    }
    return [known.get(name, "") for name in FILES[part]]


def parse_pair(images_file: tuple[bytes, str], labels_file: tuple[bytes, str]) -> Dataset:
    """Parse an image and a label file of 28 x 28 digits, each given as (bytes, name).

    Raises:
        DataError: a file is damaged, the numbers of images and labels differ, or an image has no
            clear scale.
    """
    try:
        return labelled_rows(parse_idx(*images_file), parse_idx(*labels_file))
    except ArgumentError as error:
        raise DataError(f"{images_file[1]} and {labels_file[1]}: {error}") from error


def cache_folder() -> str:
    """Return NANOGRAD_CACHE, or `nanograd` in the user's cache; UsageError if it is remote."""
    chosen = os.environ.get("NANOGRAD_CACHE")
    if chosen and storage.is_remote(chosen):
        raise UsageError(f"NANOGRAD_CACHE={chosen}: the cache must be a local folder")
    if chosen:
        return storage.absolute(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))  # XDG ignores relative values
    return str((base if base.is_absolute() else Path.home() / ".cache") / "nanograd")


def fetch(
    cache: str, mirrors: Sequence[str], listener: Listener, files: Mapping[str, str]
) -> dict[str, bytes]:
    """Return decompressed files from the cache; download missing and damaged files first.

    If several processes call it at the same time, one of them downloads and the others wait. The
    mirrors are base URLs (http, https, file) of `<name>.gz`, tried one after another. `files` has
    the SHA-256 of the decompressed bytes of each file, by name.

    Raises:
        DataError: no mirror served a file with the right checksum.
        UnavailableError: as for DataError, but a mirror did not answer, so a later try may help.
        StorageError: the cache cannot be read or written.
        UsageError: there are no mirrors, or one is not an http, https or file URL.
    """
    if not mirrors or not all(re.match("(https?|file)://", each) for each in mirrors):
        given = ", ".join(mirrors) or "none"
        raise UsageError(f"mirrors are URLs with http://, https:// or file://, not {given}")
    found = {name: _cached(cache, name, sha256) for name, sha256 in files.items()}
    if None in found.values():
        waiting = info("another process is downloading MNIST; waiting for it")
        order = list(mirrors)
        try:
            with exclusive(cache, listener, wait=lambda: listener(waiting)):
                for name, sha256 in files.items():
                    found[name] = _cached(cache, name, sha256) or _fetch_file(
                        cache, name, sha256, order, listener
                    )
        except StorageError as error:
            hint = "set NANOGRAD_CACHE to a folder that you can write to"
            raise StorageError(f"{error}; {hint}") from error
    return {name: data for name, data in found.items() if data is not None}


def _cached(cache: str, name: str, sha256: str) -> bytes | None:
    """Return a decompressed file from the cache; None if it is missing or damaged."""
    place = storage.join(cache, f"{name}.gz")
    try:
        raw = storage.decompress(storage.read(place), place, _MAX_BYTES)
    except DataError:
        return None
    return raw if storage.checksum(raw) == sha256 else None


def _fetch_file(
    cache: str, name: str, sha256: str, mirrors: list[str], listener: Listener
) -> bytes:
    """Download a file into the cache; move mirrors that fail to the end of the list."""
    place, failures, is_down = storage.join(cache, f"{name}.gz"), list[str](), False
    if storage.exists(place):
        listener(warning(f"{place} is damaged (wrong SHA-256); downloading it again"))
    for mirror in tuple(mirrors):
        url = storage.join(mirror, f"{name}.gz")
        try:
            data = _download(url, listener)
            raw = storage.decompress(data, url, _MAX_BYTES)
            if (found := storage.checksum(raw)) != sha256:
                raise ValueError(f"wrong checksum, SHA-256 {found[:12]}... is not MNIST's")
        except (OSError, HTTPException, ValueError, DataError) as error:
            if isinstance(error, HTTPError):
                error.close()
            failures.append(f"{url}: {str(error) or type(error).__name__}")
            is_served = isinstance(error, ValueError | DataError) or url.startswith("file:")
            is_down |= not is_served and getattr(error, "code", 500) >= 500
            listener(warning(failures[-1]))
            # Otherwise every further file would wait for its timeout again.
            mirrors.append(mirrors.pop(mirrors.index(mirror)))
        else:
            storage.commit(place, data)
            return raw
    raise (UnavailableError if is_down else DataError)(
        f"{name} cannot be downloaded ({'; '.join(failures)}); use --data PATH if you have it, "
        "--data sample if not, or another mirror: nanograd data fetch --mirror URL"
    )


def _download(url: str, listener: Listener) -> bytes:
    listener(info(f"downloading {url}"))
    began = reported = monotonic()
    data = bytearray()
    with urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 - fetch checks the scheme
        size = int(response.headers.get("Content-Length") or 0)
        # read1 returns what has arrived, so that a slow server cannot exceed the deadline.
        while chunk := response.read1(_CHUNK_BYTES):
            data += chunk
            now = monotonic()
            if now - began > _TRANSFER_S or len(data) > _MAX_BYTES:
                raise ConnectionError(f"gave up after {now - began:.0f} s and {len(data)} bytes")
            if now - reported > _PROGRESS_S:
                reported = now
                of = f" of {size / 1e6:.1f}" if size else ""
                listener(info(f"{url}: {len(data) / 1e6:.1f}{of} MB"))
    if len(data) < size:
        raise ConnectionError(f"the mirror closed early, after {len(data)} of {size} bytes")
    return bytes(data)
