"""The folder of a private Ray: whose it is follows from its lock, not from numbers of processes."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from nanograd.distributed import cluster
from nanograd.errors import StorageError

PROGRAM = (
    "import sys; from nanograd.distributed import cluster\n"
    "folder, lock = cluster._make_folder(); print(folder, flush=True); sys.stdin.read()"
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@contextmanager
def session_folder(*prefix: str) -> Iterator[Path]:
    """The folder of a process that ends with the block, without removing it."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        folder = process.stdout.readline().strip()
        if not folder:
            pytest.skip("needs namespaces")
        yield Path(folder)


@pytest.mark.parametrize("prefix", [(), ("unshare", "--pid", "--fork", "--mount-proc")])
def test_folder_is_removed_once_its_process_has_ended_and_not_before(
    temporary: Path, prefix: tuple[str, ...]
) -> None:
    with session_folder(*prefix) as folder, cluster._make_folder()[1]:
        kept = folder.is_dir()
    with cluster._make_folder()[1]:
        removed = not folder.exists()

    assert folder.parent == temporary
    assert (kept, removed) == (True, True)


def test_simultaneous_starts_remove_each_stale_folder_once(temporary: Path) -> None:
    for number in range(200):
        (temporary / f"nanograd-{number}" / "deep").mkdir(parents=True)
        (temporary / f"nanograd-{number}" / "lock").touch()

    with ThreadPoolExecutor(7) as pool:
        made = [folder for folder, _ in pool.map(lambda _: cluster._make_folder(), range(7))]

    assert all(folder.is_dir() for folder in made)
    assert not list(temporary.glob("nanograd-*/deep"))


def test_folder_without_a_lock_is_left_alone(temporary: Path) -> None:
    (temporary / "nanograd-mine").mkdir()

    cluster._make_folder()

    assert (temporary / "nanograd-mine").is_dir()


def test_missing_temporary_folder_is_a_storage_error(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))

    with pytest.raises(StorageError, match=r"^cannot make a folder for Ray .*; set TMPDIR"):
        cluster._make_folder()
