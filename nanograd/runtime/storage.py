"""Files that are committed, not just written: on a local disk or in an object store.

A place is a path or a URI (`s3://bucket/key`, `gs://...`, `file:///...`). A commit is all or
nothing: locally a temporary file beside the target, fsync, rename, fsync of the folder; in an
object store one upload, which becomes visible when it is complete.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from nanograd.errors import DataError, OutputExistsError, StorageError

_TEMPORARY = ".nanograd-tmp"


def is_remote(place: str) -> bool:
    """Whether the place is in an object store.

    >>> is_remote("s3://bucket/runs"), is_remote("runs/a"), is_remote("file:///runs/a")
    (True, False, False)
    """
    return "://" in place and not place.startswith("file://")


def local_path(place: str) -> Path:
    """The path of a local place; `~` is the home folder."""
    return Path(place.removeprefix("file://")).expanduser()


def absolute(place: str) -> str:
    """The same place, meaningful from any working directory."""
    return place if is_remote(place) else str(local_path(place).absolute())


def join(place: str, *names: str) -> str:
    """The place `names` below `place`.

    >>> join("s3://bucket/runs/", "a", "model")
    's3://bucket/runs/a/model'
    """
    return "/".join([place.rstrip("/") or "/", *names])


def checksum(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return sha256(data).hexdigest()


def read(place: str, most: int | None = None) -> bytes:
    """The bytes of a file.

    Args:
        place: path or URI.
        most: so many bytes from its beginning suffice.

    Raises:
        DataError: there is no such file.
        StorageError: it cannot be read.
    """
    with _failures("read", place):
        if not is_remote(place):
            with local_path(place).open("rb") as file:
                # Room for `most` bytes would be made first: 35 us for half a megabyte.
                whole = most is None or os.fstat(file.fileno()).st_size <= most
                return file.read(None if whole else most)
        filesystem, path = _filesystem(place)
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read(most))


def open_file(place: str) -> Any:
    """A file for reading at random, as pyarrow takes it.

    Raises:
        DataError: there is no such file.
        StorageError: it cannot be opened.
    """
    from pyarrow.fs import LocalFileSystem

    with _failures("open", place):
        if is_remote(place):
            filesystem, path = _filesystem(place)
            return filesystem.open_input_file(path)
        return LocalFileSystem().open_input_file(str(local_path(place)))


def commit(place: str, data: bytes) -> None:
    """Make `data` the file's whole content, at once or not at all.

    Raises:
        StorageError: disk full, no permission, object store gone; nothing is left behind.
    """
    with _failures("write", place):
        if is_remote(place):
            filesystem, path = _filesystem(place)
            with filesystem.open_output_stream(path) as stream:
                stream.write(data)
        else:
            _commit_local(local_path(place), data)


def names(place: str) -> list[str]:
    """Names of the files and folders directly in a folder, sorted; none if it is not there."""
    with _failures("list", place):
        if not is_remote(place):
            path = local_path(place)
            return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
        from pyarrow.fs import FileSelector

        filesystem, path_in_store = _filesystem(place)
        selector = FileSelector(path_in_store, allow_not_found=True)
        return sorted(info.base_name for info in filesystem.get_file_info(selector))


def files_below(place: str) -> list[tuple[str, int, int]]:
    """All files in a folder of an object store and below, or the file itself.

    Returns:
        Place, size in bytes and time of change in nanoseconds of each.

    Raises:
        DataError: there is neither such a folder nor such a file.
    """
    from pyarrow.fs import FileSelector

    with _failures("list", place):
        filesystem, path = _filesystem(place)
        found = [filesystem.get_file_info(path)]
        if not found[0].is_file:
            found = filesystem.get_file_info(FileSelector(path, recursive=True))
        start = place.removesuffix(path)
        return [
            (start + each.path, each.size, each.mtime_ns or 0) for each in found if each.is_file
        ]


def exists(place: str) -> bool:
    """Whether a file or a folder is there."""
    with _failures("look for", place):
        if not is_remote(place):
            return local_path(place).exists()
        from pyarrow.fs import FileType

        filesystem, path = _filesystem(place)
        return bool(filesystem.get_file_info(path).type != FileType.NotFound)


def is_file(place: str) -> bool:
    """Whether a file, no folder, is there."""
    with _failures("look for", place):
        if not is_remote(place):
            return local_path(place).is_file()
        filesystem, path = _filesystem(place)
        return bool(filesystem.get_file_info(path).is_file)


def remove(place: str) -> None:
    """Remove a file, or a folder with all it holds; nothing there is fine."""
    with _failures("remove", place):
        if not is_remote(place):
            path = local_path(place)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            return
        from pyarrow.fs import FileType

        filesystem, path_in_store = _filesystem(place)
        kind = filesystem.get_file_info(path_in_store).type
        if kind == FileType.Directory:
            filesystem.delete_dir(path_in_store)
        elif kind == FileType.File:
            filesystem.delete_file(path_in_store)


def move(place: str, target: str) -> None:
    """Give a file or a folder another name; nothing may be there yet if it is a folder.

    In an object store each file is copied, then removed.

    Raises:
        StorageError: it cannot be moved.
    """
    with _failures("move", place):
        if not is_remote(place):
            local_path(place).replace(local_path(target))
            _sync_folder(local_path(target).parent)
            return
        for file, _, _ in files_below(place):
            filesystem, path = _filesystem(file)
            below = file.removeprefix(place)
            filesystem.copy_file(path, _filesystem(target + below)[1])
            filesystem.delete_file(path)


@contextmanager
def exclusive(place: str) -> Iterator[None]:
    """Hold a local folder for this process alone; it is made if need be.

    An object store has no locks: there, two writers must be kept apart by who starts them.

    Raises:
        OutputExistsError: another process holds it.
    """
    if is_remote(place):
        yield
        return
    with _failures("create", place):
        local_path(place).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(local_path(place), os.O_RDONLY)
    try:
        _lock(descriptor, place)
        for leftover in local_path(place).glob(f".*{_TEMPORARY}"):
            leftover.unlink(missing_ok=True)  # of a commit that was killed
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(place: str) -> None:
    """Remove what killed commits left in a local folder and below.

    Args:
        place: held by this process alone and known to be its own: commits of others, below a folder
            that merely was named, would fail.
    """
    if not is_remote(place):
        for leftover in local_path(place).rglob(f".*{_TEMPORARY}"):
            leftover.unlink(missing_ok=True)


def _lock(descriptor: int, place: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputExistsError(
            f"{place} is being written by another process; wait for it or choose another --output"
        ) from error


def _commit_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _umask() -> int:
    # There is no way to read it without setting it; mkstemp made the file readable to us alone.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _filesystem(place: str) -> tuple[Any, str]:
    # Imported here: half of all commands never touch an object store, and it takes 0.1 s.
    from pyarrow.fs import FileSystem

    filesystem, path = FileSystem.from_uri(place)
    return filesystem, path


@contextmanager
def _failures(verb: str, place: str) -> Iterator[None]:
    """Turn the many exceptions of file systems into two that name the place."""
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
