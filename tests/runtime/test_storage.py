import os
import socket
from pathlib import Path

import pytest

from nanograd.errors import DataError, StorageError, UsageError
from nanograd.runtime import storage
from tests.helpers.folders import contents

CHECKSUMS = "AWS_REQUEST_CHECKSUM_CALCULATION"


@pytest.mark.parametrize("data", [b"", bytes(range(193))])
@pytest.mark.parametrize("prefix", ["", "file://"])
def test_commit_makes_data_the_whole_content(tmp_path, data, prefix):
    place = storage.join(f"{prefix}{tmp_path}", "new", "folder", "file")

    storage.commit(place, b"something longer that was there before" * 7)
    storage.commit(place, data)

    assert storage.read(place) == data
    for most in (0, 1, 192, 193, 194, 10**9):
        assert storage.read(place, most) == data[:most]
    assert contents(tmp_path) == {"new/folder/file": data}
    for name in ("b", ".hidden"):
        storage.commit(storage.join(f"{prefix}{tmp_path}", name), data)
    assert storage.names(f"{prefix}{tmp_path}") == [".hidden", "b", "new"]
    for name in ("b", "new", "missing", ".hidden"):
        storage.remove(storage.join(f"{prefix}{tmp_path}", name))
    assert storage.names(f"{prefix}{tmp_path}") == storage.names(place) == []
    assert storage.exists(f"{prefix}{tmp_path}")


def test_pipe_socket_or_device_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for place in (str(tmp_path / "pipe"), f"file://{tmp_path}/socket", "/dev/zero"):
        for most in (None, 4):
            with pytest.raises(DataError, match=f"{place}: this is a pipe or device, no file"):
                storage.read(place, most)


def test_committed_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        storage.commit(str(tmp_path / "file"), b"data")
        after = os.umask(0o027)
    finally:
        os.umask(before)

    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert after == 0o027


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("folder", DataError),
        ("n" * 256, StorageError),
        ("file/below", StorageError),
        ("file/below/it", StorageError),
    ],
)
def test_commit_that_fails_leaves_nothing_behind(tmp_path, name, error):
    storage.commit(str(tmp_path / "folder" / "inside"), b"kept")
    storage.commit(str(tmp_path / "file"), b"kept")

    with pytest.raises(error, match=name):
        storage.commit(str(tmp_path / name), b"data")

    assert storage.names(str(tmp_path)) == ["file", "folder"]
    assert contents(tmp_path) == {"folder/inside": b"kept", "file": b"kept"}


@pytest.mark.parametrize(
    "name", ["{}/missing", "{}/missing/deeper", "{}/file/below", "{}", "nowhere://bucket/key"]
)
def test_place_without_a_file_is_a_data_error(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    place = name.format(tmp_path)

    for use in (storage.read, storage.open_file)[: 1 if name == "{}" else 2]:
        with pytest.raises(DataError, match=place):
            use(place)


HUB = "hf://datasets/user/name"
CREDENTIALS = (
    "s3://KEY:SECRET@bucket/key", "s3a://KEY@bucket", "s3://KEY@bucket", "GS://a:b@c/d",
    "abfs://:SECRET@account.dfs.core.windows.net/runs", "hdfs://user:SECRET@host/runs",
    "gs://KEY@bucket",
)  # fmt: skip
REFUSED = {
    **dict.fromkeys(CREDENTIALS, (UsageError, "credentials")),
    **{
        f"s3://bucket/{key}": (UsageError, r"cannot have a folder \. or \.\.; write it without")
        for key in ("a/../b", "..", "a/./b", "a/..")
    },
    **{
        place: (UsageError, f"^{place} names the host .*; give a path or file:///")
        for place in ("file://there/a", "file://a", "file://localhost", "file://~/a")
    },
    HUB: (UsageError, f"^{HUB}: hf:// is for models alone"),
    "http://host/a": (DataError, r"http://host/a: .*; give a path or a URI as s3://"),
}


@pytest.mark.parametrize("place", REFUSED)
def test_place_that_is_no_path_or_uri_of_a_store_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error, text = REFUSED[place]

    for use in (storage.read, storage.names, storage.files_below, storage.exists, commit_nothing):
        with pytest.raises(error, match=text) as raised:
            use(place)
        assert "SECRET" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def commit_nothing(place: str) -> None:
    storage.commit(place, b"")


def test_removed_working_directory_is_named(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert storage.absolute("/a") == "/a"
    with pytest.raises(StorageError, match=r"^a: the working directory is gone"):
        storage.absolute("a")


@pytest.mark.parametrize("prefix", ["", "file://", "file://localhost"])
def test_files_below_lists_a_folder_or_the_file_itself(tmp_path, prefix):
    for name in ("a", "b/c", "b/d/e"):
        storage.commit(str(tmp_path / "in" / name), name.encode())
    place = f"{prefix}{tmp_path}/in"

    found = sorted(storage.files_below(place))

    assert [(file, size) for file, size, _ in found] == [
        (f"{place}/{name}", len(name)) for name in ("a", "b/c", "b/d/e")
    ]
    assert found[:1] == storage.files_below(f"{place}/a")
    assert found[0][2] == (tmp_path / "in" / "a").stat().st_mtime_ns
    with pytest.raises(DataError, match="there is no such file"):
        storage.files_below(f"{place}/missing")


def test_files_below_follows_links_and_ends(tmp_path):
    storage.commit(str(tmp_path / "elsewhere" / "a"), b"a")
    folder = tmp_path / "in"
    folder.mkdir()
    for name, target in (("linked", "../elsewhere"), ("loop", "loop"), ("up", "."), ("none", "no")):
        (folder / name).symlink_to(target)
    storage.commit(str(folder / "l\udce4ufe"), b"b")

    found = {file.removeprefix(f"{folder}/") for file, _, _ in storage.files_below(str(folder))}

    assert {name for name in found if not name.startswith("up/")} == {"linked/a", "l\udce4ufe"}
    assert len(found) <= 4


def test_files_and_folders_are_synced_in_order(tmp_path, monkeypatch):
    synced, fsync = list[str](), os.fsync

    def record(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    storage.commit(str(tmp_path / "a" / "b" / "file"), b"data")
    *folders, file, last = synced
    # Each new folder into the one above it, the file, then its folder.
    assert [*folders, last] == [str(tmp_path / below) for below in ("", "a", "a/b")]
    assert Path(file).name.startswith(".file.")

    synced.clear()
    for name in ("a/b/file", "a", "nothing"):
        storage.remove(str(tmp_path / name))
    assert synced == [str(tmp_path / "a/b"), str(tmp_path)]


def test_tilde_is_the_home_of_a_user_or_a_name(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")

    assert storage.absolute("~/a") == "/home/ada/a"
    for name in ("~$a.png", "~no user/a"):
        assert storage.absolute(name) == str(Path.cwd() / name)


def test_place_above_another_is_named_as_itself(tmp_path, monkeypatch):
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    monkeypatch.chdir(tmp_path / "in")

    assert storage.absolute("../in/a") == storage.absolute("a/../a") == f"{tmp_path}/in/a"
    assert storage.absolute("..") == storage.absolute("../in/..") == str(tmp_path)
    assert storage.absolute("../link/../deep/new") == f"{tmp_path}/far/deep/new"
    assert storage.absolute("../link/new") == f"{tmp_path}/link/new"


def test_address_with_a_container_or_a_user_holds_no_credentials():
    for place in (
        "abfs://container@account.dfs.core.windows.net/runs",
        "ABFSS://container@account.dfs.core.windows.net",
        "wasbs://container@account.blob.core.windows.net/runs",
        "hdfs://user@host:8020/runs",
        "gs://anonymous@bucket/runs",
        "s3://bucket/user@home",
    ):
        storage.refuse_credentials(place)


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("abfs://runs@account.dfs.core.windows.net/a/b", "runs/a/b"),
        ("abfss://account.dfs.core.windows.net/runs/a", "runs/a"),
        ("s3://bucket/a/", "bucket/a"),
        ("s3a://bucket/a", "bucket/a"),
        ("S3N://bucket", "bucket"),
    ],
)
def test_uri_of_a_store_becomes_a_path_of_its_client(place, path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv(CHECKSUMS, "when_required")

    assert storage.arrow_filesystem(place)[1].rstrip("/") == path


@pytest.mark.parametrize(
    ("uri", "variables", "checksums"),
    [
        ("s3://b?endpoint_override=store.example.com:9000&scheme=http", {}, "when_required"),
        ("s3://b", {"AWS_ENDPOINT_URL": "https://store.example.com"}, "when_required"),
        ("s3a://b", {"AWS_ENDPOINT_URL_S3": "http://[::1]:9000/"}, "when_required"),
        ("s3://b", {"AWS_ENDPOINT_URL": "http://h:1", CHECKSUMS: "when_supported"}, None),
        ("s3://b", {"AWS_ENDPOINT_URL": "https://s3.eu-west-1.amazonaws.com"}, None),
        ("s3://b", {"AWS_ENDPOINT_URL_S3": "https://s3.cn-north-1.amazonaws.com.cn/"}, None),
        ("s3://b?region=eu-west-1", {"AWS_ENDPOINT_URL": ""}, None),
        ("abfs://b@account.dfs.core.windows.net", {"AWS_ENDPOINT_URL": "http://h:1"}, None),
    ],
)  # fmt: skip
def test_checksums_are_left_out_where_the_store_is_not_amazons(
    uri, variables, checksums, monkeypatch
):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", CHECKSUMS):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    storage.arrow_filesystem(f"{uri}/key")

    assert os.environ.get(CHECKSUMS) == variables.get(CHECKSUMS, checksums)
