"""A disk that fails, or loses its power, at a given call of the operating system."""

import builtins
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nanograd.runtime import machine

DEAD_OWNER = f"{machine.owner().split('-')[0]}-{2**22}-7"  # no process has this number
_CALLS = ("mkdir", "replace", "rmdir", "unlink", "listdir", "scandir", "open", "stat")


class Killed(BaseException):
    """The process ends here: no handler runs, and nothing reaches the disk any more."""


class Disk:
    """The calls for files below a folder; at call `fails_at` it fails, or ends the process.

    With `lies`, `fsync` writes nothing.
    """

    def __init__(
        self, folder: Path, fails_at: int | None = None, error: int | None = None, *, lies=False
    ) -> None:
        self._folder, self._fails_at, self._error = str(folder), fails_at, error
        self._lies = lies
        self.calls: list[str] = []
        self._unsynced: list[tuple[str, Callable[[], object]]] = []

    def call(self, name: str, path: Any) -> None:
        if isinstance(path, int) or not os.fspath(path).startswith(self._folder):
            return
        number = len(self.calls)
        self.calls.append(f"{name} {path}")
        if self._fails_at is None or number < self._fails_at:
            return
        if self._error is None:
            raise Killed
        if number == self._fails_at:
            raise OSError(self._error, os.strerror(self._error), str(path))

    def changed(self, path: Any, undo: Callable[[], object]) -> None:
        """Note a change that a power failure may undo until its file or folder is synced."""
        self._unsynced.append((os.fspath(path), undo))

    def synced(self, path: str) -> None:
        if not self._lies:
            self._unsynced = [each for each in self._unsynced if each[0] != path]

    def removed(self, folder: Path) -> None:
        """Note that a folder is gone for good, with its files, once the one above is synced."""
        self._unsynced = [
            (str(folder.parent) if path == str(folder) else path, undo)
            for path, undo in self._unsynced
        ]

    def lose_power(self, pattern: int = -1) -> int:
        """Undo changes that were not synced; return how many there are.

        Args:
            pattern: a bit for each, from the first on, that is set if it is lost; all by default.
        """
        for number, (_, undo) in reversed(list(enumerate(self._unsynced))):
            if pattern >> number & 1:
                undo()
        return len(self._unsynced)

    def end_process(self) -> None:
        """Give what was left behind to a process that has ended."""
        for left in list(Path(self._folder).rglob(f"*{machine.owner()}*")):
            left.rename(left.with_name(left.name.replace(machine.owner(), DEAD_OWNER)))


class _File:
    """A file that is written through the disk."""

    def __init__(self, disk: Disk, file: Any) -> None:
        self._disk, self._file = disk, file

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        name = self._file.name
        self._file.write(data[: len(data) // 2])  # a full disk takes a part of it
        self._disk.call("write", name)
        number = os.fstat(self._file.fileno()).st_ino
        self._disk.changed(name, lambda: _truncate(Path(name).parent, number))
        return int(self._file.write(data[len(data) // 2 :]))


@contextmanager
def failing(disk: Disk) -> Iterator[Disk]:
    real_open = io.open

    def open_file(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        disk.call(f"open {mode}", file)
        opened = real_open(file, mode, *rest, **named)
        return _File(disk, opened) if "x" in mode else opened

    def fsync(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        disk.call("fsync", path)
        disk.synced(path)

    def content(path: Any) -> bytes | None:
        try:
            with real_open(path, "rb") as file:
                return bytes(file.read())
        except (FileNotFoundError, IsADirectoryError):
            return None

    def passed_on(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(path: Any, *rest: Any, **named: Any) -> Any:
            target = rest[0] if name == "replace" else path
            disk.call(name, target)
            before = content(target) if name in ("replace", "unlink") else None
            result = real(path, *rest, **named)
            if name == "mkdir":
                disk.changed(Path(path).parent, lambda: _remove_tree(Path(path)))
            elif name == "rmdir":
                disk.removed(Path(path))
            elif name == "replace":
                undo = partial(_move_back, Path(path), Path(target), before)
                disk.changed(Path(target).parent, undo)
            elif name == "unlink":
                disk.changed(Path(path).parent, lambda: _restore(Path(path), before))
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLS:
            patch.setattr(os, name, passed_on(name))
        # Whole paths, not names in open folders.
        patch.setattr(shutil, "_use_fd_functions", False, raising=False)
        patch.setattr(os, "fsync", fsync)
        for module in (io, builtins):
            patch.setattr(module, "open", open_file)
        yield disk


def _truncate(folder: Path, number: int) -> None:
    """Empty the file with this inode, whatever its name is now."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.stat().st_ino == number:
            os.truncate(file, 0)


def _restore(path: Path, data: bytes | None) -> None:
    """Give a removed file its name again; its folder, too, if that was removed with it."""
    if data is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _move_back(source: Path, target: Path, before: bytes | None) -> None:
    if target.exists():
        source.parent.mkdir(parents=True, exist_ok=True)
        target.rename(source)
    _restore(target, before)


def _remove_tree(folder: Path) -> None:
    for below in sorted(folder.rglob("*"), reverse=True):
        below.rmdir() if below.is_dir() else below.unlink()
    if folder.is_dir():
        folder.rmdir()
