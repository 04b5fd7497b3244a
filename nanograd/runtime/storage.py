"""Committed files, on a local disk or in an object store.

A place is a path or a URI (`s3://bucket/key`, `gs://...`, `file:///...`). A commit is all or
nothing: locally a temporary file beside the target, fsync, rename, fsync of the folder; in an
object store one upload, which becomes visible when it is complete.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from nanograd.errors import DataError, OutputExistsError, StorageError

_TEMPORARY = ".nanograd-tmp"


def is_remote(place: str) -> bool:
    """Return whether a place is in an object store.

    >>> is_remote("s3://bucket/runs"), is_remote("runs/a"), is_remote("file:///runs/a")
    (True, False, False)
    """
    return "://" in place and not place.startswith("file://")


def local_path(place: str) -> Path:
    """Return the path of a local place; `~` is the home folder."""
    return Path(place.removeprefix("file://")).expanduser()


def absolute(place: str) -> str:
    """Return the place independent of the working directory."""
    return place if is_remote(place) else str(local_path(place).absolute())


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
    """Read a file, or at most max_bytes from its beginning.

    Raises:
        DataError: the file does not exist.
        StorageError: it cannot be read.
    """
    with _translated("read", place):
        if is_remote(place):
            filesystem, path = _pyarrow(place)
            with filesystem.open_input_stream(path) as stream:
                return bytes(stream.read(max_bytes))
        with local_path(place).open("rb") as file:
            # read(n) allocates n bytes first: 35 us for half a megabyte.
            whole = max_bytes is None or os.fstat(file.fileno()).st_size <= max_bytes
            return file.read(None if whole else max_bytes)


def open_file(place: str) -> Any:
    """Open a file for random access, as a pyarrow file.

    Raises:
        DataError: the file does not exist.
        StorageError: it cannot be opened.
    """
    with _translated("open", place):
        filesystem, path = _pyarrow(place)
        return filesystem.open_input_file(path)


def commit(place: str, data: bytes) -> None:
    """Replace the whole content of a file atomically; its folder is created.

    Raises:
        StorageError: disk full, no permission, object store unreachable; nothing is left behind.
    """
    with _translated("write", place):
        if is_remote(place):
            filesystem, path = _pyarrow(place)
            with filesystem.open_output_stream(path) as stream:
                stream.write(data)
        else:
            _commit_local(local_path(place), data)


def names(place: str) -> list[str]:
    """List the names of files and folders in a folder, sorted; none if it does not exist."""
    with _translated("list", place):
        if is_remote(place):
            from pyarrow.fs import FileSelector

            filesystem, path = _pyarrow(place)
            selector = FileSelector(path, allow_not_found=True)
            return sorted(info.base_name for info in filesystem.get_file_info(selector))
        folder = local_path(place)
        return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


def files_below(place: str) -> list[tuple[str, int, int]]:
    """List all files in a folder and below, or the file itself.

    Returns:
        Place, size in bytes and time of change in nanoseconds of each.

    Raises:
        DataError: the place does not exist.
    """
    from pyarrow.fs import FileSelector

    with _translated("list", place):
        filesystem, path = _pyarrow(place)
        info = filesystem.get_file_info(path)
        below = FileSelector(path, recursive=True)
        found = [info] if info.is_file else filesystem.get_file_info(below)
        start = place.removesuffix(path)
        return [(start + f.path, f.size, f.mtime_ns or 0) for f in found if f.is_file]


def exists(place: str) -> bool:
    """Return whether a file or folder exists."""
    with _translated("look for", place):
        if is_remote(place):
            return bool(_info(place).type.name != "NotFound")
        return local_path(place).exists()


def is_file(place: str) -> bool:
    """Return whether a place is a file."""
    with _translated("look for", place):
        return bool(_info(place).is_file) if is_remote(place) else local_path(place).is_file()


def remove(place: str) -> None:
    """Remove a file, or a folder and its content, if it exists."""
    with _translated("remove", place):
        if is_remote(place):
            filesystem, path = _pyarrow(place)
            info = filesystem.get_file_info(path)
            if info.is_file:
                filesystem.delete_file(path)
            elif info.type.name == "Directory":
                filesystem.delete_dir(path)
        elif local_path(place).is_dir():
            shutil.rmtree(local_path(place))
        else:
            local_path(place).unlink(missing_ok=True)


def move(place: str, target: str) -> None:
    """Rename a file or folder; a folder's target must not exist.

    In an object store each file is copied, then removed.
    """
    with _translated("move", place):
        if not is_remote(place):
            local_path(place).replace(local_path(target))
            _sync_folder(local_path(target).parent)
            return
        filesystem, path = _pyarrow(place)
        _, target_path = _pyarrow(target)
        for file, _, _ in files_below(place):
            name = file.removeprefix(place)
            filesystem.copy_file(path + name, target_path + name)
            filesystem.delete_file(path + name)


@contextmanager
def exclusive(place: str, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Lock a local folder, which is created, for this process.

    An object store has no locks: the user must not start two writers.

    Args:
        place: the folder.
        wait: called before waiting for another process; None raises instead.

    Raises:
        OutputExistsError: another process holds the lock.
    """
    if is_remote(place):
        yield
        return
    with _translated("create", place):
        local_path(place).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(local_path(place), os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if wait is None:
                raise OutputExistsError(
                    f"{place} is being written by another process; wait for it or choose another "
                    "--output"
                ) from error
            wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        for leftover in local_path(place).glob(f".*{_TEMPORARY}"):
            leftover.unlink(missing_ok=True)  # of a killed commit
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(place: str) -> None:
    """Remove the temporary files of killed commits in a local folder and below.

    Args:
        place: locked, and known to belong to this program: below a folder of the user's the
            commits of other processes would fail.
    """
    if not is_remote(place):
        for leftover in local_path(place).rglob(f".*{_TEMPORARY}"):
            leftover.unlink(missing_ok=True)


def _commit_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.urandom(8).hex()}{_TEMPORARY}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pyarrow(place: str) -> tuple[Any, str]:
    # Imported here: half of all commands never touch an object store, and it takes 0.1 s.
    from pyarrow.fs import FileSystem, LocalFileSystem

    if is_remote(place):
        filesystem, path = FileSystem.from_uri(place)
        return filesystem, path
    return LocalFileSystem(), str(local_path(place))


def _info(place: str) -> Any:
    filesystem, path = _pyarrow(place)
    return filesystem.get_file_info(path)


@contextmanager
def _translated(verb: str, place: str) -> Iterator[None]:
    """Translate exceptions of file systems into errors that name the place."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        if verb in ("write", "create"):
            raise StorageError(f"cannot {verb} {place}: {error.strerror}") from error
        raise DataError(f"{place}: there is no such file; check the path") from error
    except IsADirectoryError as error:
        raise DataError(f"{place}: this is a folder where a file is expected") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot {verb} {place}: {reason}") from error
    except ValueError as error:  # pyarrow's ArrowInvalid: a URI it does not know
        raise DataError(f"{place}: {error}") from error
