"""Committed files, on a local disk or in an object store.

A place is a path or a URI (`s3://bucket/key`, `gs://...`, `file:///...`). In the URI of a store,
the text after the bucket is the key, so spaces, `?`, `#` and `%27` are part of the key. In a
`file:` URI, `%27` is an apostrophe. A commit writes a whole file or nothing: on a local disk by a
temporary file, fsync, a rename and fsync of the folder; in an object store by one upload, which
becomes visible when it is complete.
"""

import errno
import gzip
import io
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from nanograd.errors import DataError, OutputExistsError, StorageError, UsageError
from nanograd.runtime import machine

_TEMPORARY, LEASE = ".nanograd-tmp", ".nanograd-lease"  # suffixes of files that hold no data
# Errors for paths of no file: circular links and names that are too long, too.
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_BYTES = 4 << 30  # of a decompressed file; enough for a million images as CSV
NUM_THREADS = 16  # calls of `map_all` at the same time
# The `@` of these addresses names a container, or a user without a password.
_ADDRESS = re.compile(r"((abfs|wasb)s?|hdfs)://[^/:@]*@|gs://anonymous@", re.IGNORECASE)
# Patterns in pyarrow's error messages, and the likely cause; the first match counts.
_CAUSES = {
    "AWS Error UNKNOWN .*checksum": "this store refuses checksums; set "
    "AWS_REQUEST_CHECKSUM_CALCULATION=when_required on every host",
    "AWS Error UNKNOWN ": "this store lacks a part of Amazon's S3, or AWS_ENDPOINT_URL is not the "
    "address of one",
}

R = TypeVar("R")


def map_all(function: Callable[..., R], *arguments: Iterable[Any]) -> list[R]:
    """Call a function as `map` does, but several times at once: most calls wait for the storage."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(function, *arguments))


def is_remote(place: str) -> bool:
    """Return whether a place is in an object store.

    >>> is_remote("s3://bucket/runs"), is_remote("runs/a"), is_remote("file:///runs/a")
    (True, False, False)
    """
    return "://" in place and not place.startswith("file://")


def refuse_credentials(place: str) -> None:
    """Raise UsageError for a URI with a key, token or password, which files and logs would keep.

    >>> refuse_credentials("s3://bucket/user@home")
    >>> refuse_credentials("abfs://container@account.dfs.core.windows.net/runs")
    """
    found = re.match(r"([a-z0-9+.-]+://)[^/]*@", place, re.IGNORECASE)
    if found and not _ADDRESS.match(place):
        raise UsageError(
            f"a URI {found[1]}...@... holds credentials, which files and logs would keep; give "
            "them in the environment (AWS_ACCESS_KEY_ID, MLFLOW_TRACKING_PASSWORD)"
        )


def local_path(place: str) -> Path:
    """Return the path of a local place; `~` is the home folder, and `%20` in a URI is a space.

    Raises:
        UsageError: a URI names another host.
    """
    if not place.startswith("file://"):
        return Path(os.path.expanduser(place))  # noqa: PTH111 - Path's raises for an unknown user
    host, slash, path = place.removeprefix("file://").partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise UsageError(f"{place} names the host {host!r}; give a path or file:///FOLDER")
    return Path(unquote(f"/{path}", errors="surrogateescape"))


def absolute(place: str) -> str:
    """Return a place that does not depend on the working directory, without a slash at its end.

    >>> absolute("s3a://bucket/runs/")  # Spark's and Hadoop's name
    's3://bucket/runs'
    """
    if is_remote(place):
        return re.sub(r"^s3[an]?://", "s3://", place, flags=re.IGNORECASE).rstrip("/")
    try:
        path = local_path(place).absolute()
    except FileNotFoundError as error:
        raise StorageError(f"{place}: the working directory is gone; change to another") from error
    # A link may be before `..`, so this part is resolved.
    up = next((each for each in (path, *path.parents) if each.name == ".."), None)
    return str(Path(os.path.realpath(up), path.relative_to(up)) if up else path)


def join(place: str, *names: str) -> str:
    """Return the place that has the path `names` inside `place`.

    >>> join("s3://bucket/runs/", "a", "model")
    's3://bucket/runs/a/model'
    """
    return "/".join([place.rstrip("/") or "/", *names])


def as_text(place: str) -> str:
    """Replace bytes that are not UTF-8 by escapes, because Arrow cannot store them as text."""
    return place.encode(errors="backslashreplace").decode()


def checksum(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return sha256(data).hexdigest()


@contextmanager
def accessing(place: str, how: Literal["read", "write"]) -> Iterator[None]:
    """Convert errors of reading or writing inside a with block into errors that name the place.

    Raises:
        DataError: the file to read does not exist, it is a folder, or the kind of URI is unknown.
        StorageError: any other failure, such as a full disk or an unreachable object store.
    """
    try:
        yield
    except IsADirectoryError as error:
        raise DataError(f"{place}: this is a folder where a file is expected") from error
    except OSError as error:
        if how == "read" and (isinstance(error, FileNotFoundError) or error.errno in _MISSING):
            raise DataError(f"{place}: there is no such file; check the path") from error
        if not (reason := error.strerror):  # an error of pyarrow, which may name no cause
            text = str(error)
            causes = (cause for pattern, cause in _CAUSES.items() if re.search(pattern, text))
            reason = ": ".join([text.strip().rstrip(":"), *islice(causes, 1)])
        raise StorageError(f"cannot {how} {place}: {reason}") from error
    except ValueError as error:  # pyarrow's ArrowInvalid for an unknown kind of URI
        raise DataError(f"{place}: {error}; give a path or a URI as s3://bucket/key") from error


def read(place: str, max_bytes: int | None = None) -> bytes:
    """Read a file, or at most `max_bytes` from its beginning; see `accessing` for the errors."""
    with accessing(place, "read"):
        if is_remote(place):
            filesystem, path = arrow_filesystem(place)
            with filesystem.open_input_stream(path, compression=None) as stream:
                return bytes(stream.read(max_bytes))
        status = (local := local_path(place)).stat()
        if not S_ISREG(status.st_mode) and not S_ISDIR(status.st_mode):  # it may have no end
            raise DataError(f"{place}: this is a pipe or device, no file; check the path")
        with local.open("rb", 0) as file:
            # read(n) allocates n bytes first, which takes 35 us for half a megabyte.
            whole = max_bytes is None or status.st_size <= max_bytes
            return file.read(None if whole else max_bytes)


def decompress(data: bytes, name: str, max_bytes: int = _MAX_BYTES) -> bytes:
    """Decompress a gzip file, known by its magic number; return other data unchanged.

    Raises:
        DataError: the gzip stream is cut short, is damaged or has more than `max_bytes` bytes.
    """
    if not data.startswith(_GZIP_MAGIC):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            raw = file.read(max_bytes + 1)
    except (EOFError, OSError, zlib.error) as error:
        text = f"{name}: the gzip file is damaged or cut short ({error}); get it again"
        raise DataError(text) from error
    if len(raw) > max_bytes:
        raise DataError(f"{name}: the gzip file holds more than {max_bytes:,} bytes")
    return raw


def open_file(place: str) -> Any:
    """Open a file for random access, as a pyarrow file."""
    import pyarrow as pa

    with accessing(place, "read"):
        if not is_remote(place):
            return pa.OSFile(os.fsencode(local_path(place)))
        filesystem, path = arrow_filesystem(place)
        return filesystem.open_input_file(os.fsencode(path))


def commit(place: str, data: bytes, *, fsync: bool = True) -> None:
    """Replace the whole content of a file atomically; create its folder.

    A failed commit leaves no temporary file. Without `fsync`, a power failure can damage the file.
    """

    def upload() -> None:
        filesystem, path = arrow_filesystem(place)
        with filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(data)

    with accessing(place.rpartition("/")[0] if place.endswith(LEASE) else place, "write"):
        if is_remote(place):
            # Upload in another thread. An exception in this thread, for example after SIGTERM,
            # would close the stream early, and closing makes the incomplete file visible.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(upload).result()
            return
        path = local_path(place)
        _make_folder(path.parent)
        unique = f"{machine.owner()}.{os.urandom(8).hex()}"
        temporary = path.parent / f".{path.name}.{unique}{_TEMPORARY}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                if fsync:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if fsync:
            _sync_folder(path.parent)


def names(place: str) -> list[str]:
    """List the names of files and folders in a folder, sorted; none if it does not exist.

    Leases and the temporary files of commits are left out.
    """
    return [name for name in _all_names(place) if not name.endswith((_TEMPORARY, LEASE))]


def leases(place: str) -> list[str]:
    """List the names of the leases on a folder."""
    return [name for name in _all_names(place) if name.endswith(LEASE)]


def _all_names(place: str) -> list[str]:
    with accessing(place, "read"):
        if is_remote(place):
            return sorted(info.base_name for info in _listed(place, allow_not_found=True))
        folder = local_path(place)
        return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


def _listed(place: str, **options: bool) -> Any:
    """List a folder of an object store, as file infos of pyarrow."""
    from pyarrow.fs import FileSelector

    filesystem, path = arrow_filesystem(place)
    return filesystem.get_file_info(FileSelector(path, **options))


def files_below(place: str) -> list[tuple[str, int, int]]:
    """List place, size in bytes and modification time in ns of a file, or of all below a folder.

    Links are followed; links to nothing are left out. Names need not be UTF-8 on a local disk.
    """
    with accessing(place, "read"):
        if is_remote(place):
            filesystem, path = arrow_filesystem(place)
            info = filesystem.get_file_info(path)
            return [
                (place.rstrip("/") + each.path.removeprefix(path), each.size, each.mtime_ns or 0)
                for each in ([info] if info.is_file else _listed(place, recursive=True))
                if each.is_file
            ]
        top, seen, found = local_path(place), set[tuple[int, int]](), list[tuple[str, int, int]]()
        if top.is_file():
            return [(place, (status := top.stat()).st_size, status.st_mtime_ns)]
        waiting = [(place.rstrip("/") or "/", top)]
        while waiting:
            place_of_folder, folder = waiting.pop()
            for name in os.listdir(folder):  # noqa: PTH208 - the tests' disk fails here
                try:
                    status = os.stat(folder / name)  # noqa: PTH116 - the same
                except OSError as error:
                    if error.errno in _MISSING:
                        continue
                    raise
                each = join(place_of_folder, name)
                if not S_ISDIR(status.st_mode):
                    found.append((each, status.st_size, status.st_mtime_ns))
                elif (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    waiting.append((each, folder / name))
        return found


def exists(place: str) -> bool:
    """Return whether a file or folder exists."""
    return _kind(place) != "NotFound"


def is_file(place: str) -> bool:
    """Return whether a place is a file."""
    return _kind(place) == "File"


def _kind(place: str) -> str:
    with accessing(place, "read"), suppress(FileNotFoundError, NotADirectoryError):
        if is_remote(place):
            filesystem, path = arrow_filesystem(place)
            return str(filesystem.get_file_info(path).type.name)
        return "File" if S_ISREG(local_path(place).stat().st_mode) else "Directory"
    return "NotFound"


def refuse_file(place: str) -> None:
    """Raise OutputExistsError if a local output folder, or a parent of it, is no folder."""
    path = Path() if is_remote(place) else Path(absolute(place))
    for each in (path, *path.parents):
        with accessing(str(each), "write"):
            is_folder = each.is_dir() or not os.path.lexists(each)
        if not is_folder:  # a file, a device or a broken link
            kind = "a file" if each.is_file() else "no folder"
            raise OutputExistsError(f"{each} is {kind}; choose another --output or move it")


def remove(place: str) -> None:
    """Remove a file, or a folder and its content, if it exists.

    Files are removed one by one, because some object stores refuse to remove many at once. Then the
    empty objects that mark folders are removed.
    """
    with accessing(place, "write"):
        if is_remote(place):
            filesystem, path = arrow_filesystem(place)

            def remove_file(file: str) -> None:
                with suppress(FileNotFoundError):  # another process removed it meanwhile
                    filesystem.delete_file(file)

            kind = filesystem.get_file_info(path).type.name
            if kind == "File":
                remove_file(path)
            if kind != "Directory":
                return
            below = _listed(place, recursive=True)
            map_all(remove_file, [each.path for each in below if each.is_file])
            folders = [each.path for each in below if not each.is_file]
            for folder in [*sorted(folders, reverse=True), path]:
                with suppress(FileNotFoundError):
                    filesystem.delete_dir(folder)
            return
        found = local_path(place)
        if found.is_dir():
            shutil.rmtree(found)
        elif found.exists() or found.is_symlink():
            found.unlink(missing_ok=True)
        else:
            return
        _sync_folder(found.parent)  # otherwise the file may come back after a power failure


def move(place: str, target: str) -> None:
    """Rename a file, and create its new folder. In an object store, copy it, then remove it."""
    with accessing(place, "write"):
        if is_remote(place):
            (filesystem, path), (_, target_path) = arrow_filesystem(place), arrow_filesystem(target)
            filesystem.copy_file(path, target_path)
            filesystem.delete_file(path)
            return
        folder = local_path(target).parent
        _make_folder(folder)
        local_path(place).replace(local_path(target))
        _sync_folder(folder)


def remove_leftovers(place: str, *, below: bool = True) -> None:
    """Remove temporary files of interrupted commits from a folder that this process holds.

    Temporary files of leases from other machines stay, because their processes may be about to
    claim the folder. Subfolders are cleaned, too, if only this program writes to them (`below`).
    """
    if is_remote(place):
        return  # there are no such files
    pattern, folder = f".*{_TEMPORARY}", local_path(place)
    with accessing(place, "write"):
        for leftover in folder.rglob(pattern) if below else folder.glob(pattern):
            alive = machine.is_alive(leftover.name.split(".")[-3])
            if alive is False or (alive is None and LEASE not in leftover.name):
                leftover.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, so that they survive a power failure."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def arrow_filesystem(place: str) -> tuple[Any, str]:
    """Return pyarrow's file system of a place, and the path in it.

    Raises:
        UsageError: the URI has credentials or a folder `..`, or is `hf://`, which only models use.
    """
    # Imported here, because it takes 0.1 s and half of the commands never need it.
    from pyarrow.fs import FileSystem, LocalFileSystem

    refuse_credentials(place)
    if not is_remote(place):
        return LocalFileSystem(), str(local_path(place))
    scheme, _, rest = absolute(place).partition("://")
    bucket, _, key = rest.strip("/").partition("/")
    if {".", ".."} & {*key.split("/")}:  # clients write to another key than they list
        raise UsageError(f"{place}: a URI cannot have a folder . or ..; write it without")
    if scheme == "hf":
        raise UsageError(f"{place}: hf:// is for models alone; get other files by `hf download`")
    uri = f"{scheme}://{bucket}"
    if scheme in ("gs", "gcs") and "?" not in bucket:
        uri += "?retry_limit_seconds=100"  # by default, the client repeats a request for 15 minutes
    if scheme == "s3":
        variables = (os.environ.get(f"AWS_ENDPOINT_URL{end}") for end in ("_S3", ""))
        endpoints = [*parse_qs(urlsplit(uri).query).get("endpoint_override", []), *variables]
        endpoint = next(filter(None, endpoints), "")
        host = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").hostname or ""
        if host and not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            # Set this before the client is made. Since 2025 Amazon's client adds checksums that
            # other stores refuse.
            os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    filesystem, root = FileSystem.from_uri(uri)
    path = f"{root.rstrip('/')}/{key}" if key else root
    return filesystem, path.removeprefix("/") if scheme.startswith("abfs") else path
