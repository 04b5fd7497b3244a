"""Committed files, on a local disk or in an object store.

A place is a path or a URI (`s3://bucket/key`, `gs://...`, `file:///...`). What follows the bucket
is the key itself and not parsed: spaces, `?`, `#` and `%27` are part of it. A commit is all or
nothing: locally a temporary file beside the target, fsync, rename, fsync of the folder; in an
object store one upload, which becomes visible when it is complete.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from stat import S_ISDIR
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from nanograd.errors import DataError, OutputExistsError, StorageError, UsageError
from nanograd.runtime import machine

# The ends of names of files that hold no data.
_TEMPORARY, LEASE = ".nanograd-tmp", ".nanograd-lease"
# Removals in an object store that run at once: each takes a few round trips.
_NUM_REQUESTS = 16
# The `@` of these addresses names a container, or a user without a password.
_ADDRESS = re.compile(r"((abfs|wasb)s?|hdfs)://[^/:@]*@|gs://anonymous@", re.IGNORECASE)
# What pyarrow's text of an error says, the first that does, and its likely cause.
_CAUSES = {
    "AWS Error UNKNOWN .*checksum": "this store refuses checksums; set "
    "AWS_REQUEST_CHECKSUM_CALCULATION=when_required on every host",
    "AWS Error UNKNOWN ": "this store lacks a part of Amazon's S3, or AWS_ENDPOINT_URL is not the "
    "address of one",
}


def is_remote(place: str) -> bool:
    """Return whether a place is in an object store.

    >>> is_remote("s3://bucket/runs"), is_remote("runs/a"), is_remote("file:///runs/a")
    (True, False, False)
    """
    return "://" in place and not place.startswith("file://")


def refuse_credentials(place: str) -> None:
    """Raise UsageError for a URI with a key, token or password: files and logs would keep them.

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
    """Return the path of a local place; `~` is the home folder, and a URI's `%20` is a space."""
    if place.startswith("file://"):
        return Path(unquote(place.removeprefix("file://"), errors="surrogateescape"))
    return Path(place).expanduser() if place.startswith("~") else Path(place)


def absolute(place: str) -> str:
    """Return the place independent of the working directory, without a slash at its end.

    >>> absolute("s3a://bucket/runs/")  # Spark's and Hadoop's name
    's3://bucket/runs'
    """
    if not is_remote(place):
        return str(local_path(place).absolute())
    return re.sub(r"^s3[an]?://", "s3://", place, flags=re.IGNORECASE).rstrip("/")


def join(place: str, *names: str) -> str:
    """Return the place `names` below `place`.

    >>> join("s3://bucket/runs/", "a", "model")
    's3://bucket/runs/a/model'
    """
    return "/".join([place.rstrip("/") or "/", *names])


def checksum(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return sha256(data).hexdigest()


def read(place: str, max_bytes: int | None = None) -> bytes:
    """Read a file.

    Args:
        place: path or URI.
        max_bytes: bytes to read from its beginning; None for all.

    Raises:
        DataError: the file does not exist.
        StorageError: it cannot be read.
    """
    with _translated("read", place):
        return _store(place).read(max_bytes)


def open_file(place: str) -> Any:
    """Open a file for random access, as a pyarrow file.

    Raises:
        DataError: the file does not exist.
        StorageError: it cannot be opened.
    """
    with _translated("open", place):
        filesystem, path = _pyarrow(place)
        return filesystem.open_input_file(os.fsencode(path))


def commit(place: str, data: bytes) -> None:
    """Replace the whole content of a file atomically; its folder is created.

    Raises:
        StorageError: disk full, no permission, object store unreachable; nothing is left behind.
    """
    with _translated("write", place):
        _store(place).commit(data)


def names(place: str) -> list[str]:
    """List the names of files and folders in a folder, sorted; none if it does not exist.

    Leases and the temporary files of commits are left out.
    """
    with _translated("list", place):
        found = _store(place).names()
        return [name for name in found if not name.endswith((_TEMPORARY, LEASE))]


def files_below(place: str) -> list[tuple[str, int, int]]:
    """List all files in a folder and below, or the file itself.

    Returns:
        Place, size in bytes and time of change in nanoseconds of each.

    Raises:
        DataError: the place does not exist.
    """
    from pyarrow.fs import FileSelector

    with _translated("list", place):
        if not is_remote(place):
            return list(_local_files(place))  # any name, also one that is not UTF-8
        filesystem, path = _pyarrow(place)
        info = filesystem.get_file_info(path)
        below = FileSelector(path, recursive=True)
        found = [info] if info.is_file else filesystem.get_file_info(below)
        return [
            (place.rstrip("/") + f.path.removeprefix(path), f.size, f.mtime_ns or 0)
            for f in found
            if f.is_file
        ]


def _local_files(place: str) -> Iterator[tuple[str, int, int]]:
    """List files; links are followed, and one that leads nowhere is no file."""
    path, seen = local_path(place), set[tuple[int, int]]()
    waiting = [] if path.is_file() else [(place.rstrip("/") or "/", path)]
    if not waiting:
        yield place, (status := path.stat()).st_size, status.st_mtime_ns
    while waiting:
        folder, path = waiting.pop()
        for name in os.listdir(path):  # noqa: PTH208 - the tests' disk fails here
            try:
                status = os.stat(path / name)  # noqa: PTH116 - the same
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP):
                    continue
                raise
            if not S_ISDIR(status.st_mode):
                yield join(folder, name), status.st_size, status.st_mtime_ns
            elif (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                waiting.append((join(folder, name), path / name))


def exists(place: str) -> bool:
    """Return whether a file or folder exists."""
    with _translated("look for", place):
        return _store(place).exists()


def is_file(place: str) -> bool:
    """Return whether a place is a file."""
    with _translated("look for", place):
        return _store(place).is_file()


def refuse_file(place: str) -> None:
    """Raise OutputExistsError if an output, a local folder, would be at or below a file."""
    path = Path() if is_remote(place) else local_path(place)
    if found := next((each for each in (path, *path.parents) if is_file(str(each))), None):
        raise OutputExistsError(f"{found} is a file, no folder; choose another --output or move it")


def remove(place: str) -> None:
    """Remove a file, or a folder and its content, if it exists.

    Raises:
        StorageError: it cannot be removed.
    """
    with _translated("remove", place):
        _store(place).remove()


def move(place: str, target: str) -> None:
    """Rename a file or folder; a folder's target must not exist.

    In an object store each file is copied, then removed.

    Raises:
        StorageError: it cannot be moved.
    """
    with _translated("move", place):
        _store(place).move(target)


def leases(place: str) -> list[str]:
    """List the names of the leases on a folder, which `names` leaves out."""
    with _translated("list", place):
        return [name for name in _store(place).names() if name.endswith(LEASE)]


def remove_leftovers(place: str, *, below: bool = True) -> None:
    """Remove the temporary files of commits whose process has ended.

    Those of leases stay if their process is on another machine: it may be about to claim the place.

    Args:
        place: a folder that this process holds; an object store has no such files.
        below: also in the folders below. Known to belong to this program: below a folder of the
            user's the commits of other hosts would fail.
    """
    if is_remote(place):
        return
    pattern = f".*{_TEMPORARY}"
    folder = local_path(place)
    with _translated("clean", place):
        for leftover in folder.rglob(pattern) if below else folder.glob(pattern):
            alive = machine.is_alive(leftover.name.split(".")[-3])
            if alive is False or (alive is None and LEASE not in leftover.name):
                leftover.unlink(missing_ok=True)


class _LocalStore:
    """A path on a local disk."""

    def __init__(self, place: str) -> None:
        self._path = local_path(place)

    def read(self, max_bytes: int | None) -> bytes:
        with self._path.open("rb") as file:
            # read(n) allocates n bytes first: 35 us for half a megabyte.
            whole = max_bytes is None or os.fstat(file.fileno()).st_size <= max_bytes
            return file.read(None if whole else max_bytes)

    def commit(self, data: bytes) -> None:
        folder = self._path.parent
        _make_folder(folder)
        unique = f"{machine.owner()}.{os.urandom(8).hex()}"
        temporary = folder / f".{self._path.name}.{unique}{_TEMPORARY}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(folder)

    def names(self) -> list[str]:
        return sorted(p.name for p in self._path.iterdir()) if self._path.is_dir() else []

    def exists(self) -> bool:
        return self._path.exists()

    def is_file(self) -> bool:
        return self._path.is_file()

    def remove(self) -> None:
        if self._path.is_dir():
            shutil.rmtree(self._path)
        elif self._path.exists() or self._path.is_symlink():
            self._path.unlink(missing_ok=True)
        else:
            return
        _sync_folder(self._path.parent)  # or a power failure could bring it back

    def move(self, target: str) -> None:
        self._path.replace(local_path(target))
        _sync_folder(local_path(target).parent)


class _RemoteStore:
    """A key in an object store, or the keys below it."""

    def __init__(self, place: str) -> None:
        self._place, (self._filesystem, self._path) = place, _pyarrow(place)

    def read(self, max_bytes: int | None) -> bytes:
        with self._filesystem.open_input_stream(self._path, compression=None) as stream:
            return bytes(stream.read(max_bytes))

    def commit(self, data: bytes) -> None:
        # In a thread of its own: an exception in this one, such as that of SIGTERM, would close the
        # stream before all data is in it, and to close it is what makes it visible.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self._upload, data).result()

    def names(self) -> list[str]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._path, allow_not_found=True)
        return sorted(info.base_name for info in self._filesystem.get_file_info(selector))

    def exists(self) -> bool:
        return self._kind() != "NotFound"

    def is_file(self) -> bool:
        return self._kind() == "File"

    def remove(self) -> None:
        kind = self._kind()
        if kind == "Directory":
            self._remove_folder()
        elif kind == "File":
            self._remove_file(self._path)

    def move(self, target: str) -> None:
        _, target_path = _pyarrow(target)
        for file, _, _ in files_below(self._place):
            name = file.removeprefix(self._place)
            self._filesystem.copy_file(self._path + name, target_path + name)
            self._filesystem.delete_file(self._path + name)

    def _remove_folder(self) -> None:
        """Remove the files one by one, then the markers of folders.

        Amazon's client sends a checksum with each request to remove many, whatever its settings,
        and some other stores refuse such a request.
        """
        from pyarrow.fs import FileSelector

        below = self._filesystem.get_file_info(FileSelector(self._path, recursive=True))
        with ThreadPoolExecutor(_NUM_REQUESTS) as pool:
            list(pool.map(self._remove_file, [each.path for each in below if each.is_file]))
        folders = [each.path for each in below if not each.is_file]
        for folder in [*sorted(folders, reverse=True), self._path]:
            with suppress(FileNotFoundError):
                self._filesystem.delete_dir(folder)

    def _remove_file(self, path: str) -> None:
        with suppress(FileNotFoundError):  # another process removed it meanwhile
            self._filesystem.delete_file(path)

    def _upload(self, data: bytes) -> None:
        with self._filesystem.open_output_stream(self._path, compression=None) as stream:
            stream.write(data)

    def _kind(self) -> str:
        return str(self._filesystem.get_file_info(self._path).type.name)


def _store(place: str) -> _LocalStore | _RemoteStore:
    return _RemoteStore(place) if is_remote(place) else _LocalStore(place)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, safe from a power failure."""
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


def _pyarrow(place: str) -> tuple[Any, str]:
    # Imported here: half of all commands never touch an object store, and it takes 0.1 s.
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" in place:
        refuse_credentials(place)
    if is_remote(place):
        scheme, _, rest = absolute(place).partition("://")
        bucket, _, key = rest.strip("/").partition("/")
        uri = f"{scheme}://{bucket}"
        if scheme == "s3" and not _is_amazons(uri):
            # Before the client is made, which since 2025 adds checksums that other stores refuse.
            os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        filesystem, root = FileSystem.from_uri(uri)
        path = f"{root.rstrip('/')}/{key}" if key else root
        return filesystem, path.removeprefix("/") if scheme.startswith("abfs") else path
    return LocalFileSystem(), str(local_path(place))


def _is_amazons(uri: str) -> bool:
    """Return whether the S3 service of a URI is Amazon's."""
    variables = (os.environ.get(f"AWS_ENDPOINT_URL{end}") for end in ("_S3", ""))
    endpoints = [*parse_qs(urlsplit(uri).query).get("endpoint_override", []), *variables]
    endpoint = next(filter(None, endpoints), "")
    host = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").hostname or ""
    return not host or host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


@contextmanager
def _translated(verb: str, place: str) -> Iterator[None]:
    """Translate exceptions of file systems into errors that name the place."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        if verb in ("write", "remove", "clean"):
            raise StorageError(f"cannot {verb} {place}: {error.strerror}") from error
        raise DataError(f"{place}: there is no such file; check the path") from error
    except IsADirectoryError as error:
        raise DataError(f"{place}: this is a folder where a file is expected") from error
    except OSError as error:
        reason = error.strerror or _explained(str(error))
        raise StorageError(f"cannot {verb} {place}: {reason}") from error
    except ValueError as error:  # pyarrow's ArrowInvalid: a URI it does not know
        raise DataError(f"{place}: {error}") from error


def _explained(text: str) -> str:
    """Add the likely cause to an answer that Amazon's client could not read."""
    causes = (cause for pattern, cause in _CAUSES.items() if re.search(pattern, text))
    return ": ".join([text.strip().rstrip(":"), *islice(causes, 1)])
