"""The folder of a private Ray: whose it is follows from its lock, not from numbers of processes."""

import os
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from nanograd.distributed import cluster
from nanograd.errors import StorageError

PROGRAM = (
    "import sys; from nanograd.distributed import cluster\n"
    "folder, lock = cluster.make_folder(); print(folder, flush=True); sys.stdin.read()"
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.mark.parametrize("prefix", [(), ("unshare", "--pid", "--fork", "--mount-proc")])
def test_folder_is_removed_once_its_process_has_ended_and_not_before(temporary, prefix):
    (temporary / "nanograd-mine").mkdir()  # without a lock
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        name = process.stdout.readline().strip()
        if not name:
            pytest.skip("needs namespaces")
        folder = Path(name)
        with cluster.make_folder()[1]:
            kept = folder.is_dir()
    with cluster.make_folder()[1]:
        removed = not folder.exists()

    assert folder.parent == temporary
    assert (kept, removed) == (True, True)
    assert (temporary / "nanograd-mine").is_dir()


def test_simultaneous_starts_remove_each_stale_folder_once(temporary):
    for number in range(200):
        (temporary / f"nanograd-{number}" / "deep").mkdir(parents=True)
        (temporary / f"nanograd-{number}" / "lock").touch()

    with ThreadPoolExecutor(7) as pool:
        made = list(pool.map(lambda _: cluster.make_folder(), range(7)))  # it holds the locks

    assert all(folder.is_dir() for folder, _ in made)
    assert not list(temporary.glob("nanograd-*/deep"))


def test_no_other_user_enters_the_folder_of_a_private_ray(ray_cpus):
    name = ray.get_runtime_context().get_session_name()
    [session] = Path(tempfile.gettempdir()).glob(f"nanograd-*/r/{name}")
    folder = session.parents[1]

    assert (folder / "lock").is_file()
    assert folder.parent == Path(tempfile.gettempdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # Of 107 bytes for the path of a socket, 25 are left for the temporary folder.
    longest = "session_2026-11-28_12-34-56_123456_4194304/sockets/plasma_store"
    socket = (session.parent / longest).relative_to(folder.parent)
    assert len(os.fsencode(socket)) <= 107 - 26


def test_missing_temporary_folder_or_working_directory_is_a_storage_error(temporary, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="TMPDIR"):
        patch.setattr(tempfile, "tempdir", str(temporary / "missing"))
        cluster.make_folder()
    (temporary / "gone").mkdir()
    monkeypatch.chdir(temporary / "gone")
    (temporary / "gone").rmdir()

    with pytest.raises(StorageError, match="the working directory is gone"):
        cluster.make_folder()


def test_full_temporary_folder_is_a_storage_error(tmp_path):
    mounted = 'mount -t tmpfs -o size=64k tmpfs "$TMPDIR" && echo mounted && exec "$0" -c "$1"'
    command = ("unshare", "--mount", "sh", "-c", mounted, sys.executable, PROGRAM)
    done = subprocess.run(
        command,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if "mounted" not in done.stdout:
        pytest.skip("needs namespaces")

    assert "StorageError: cannot make a folder for Ray (No space left on device)" in done.stderr
