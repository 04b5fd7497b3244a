from pathlib import Path

import pytest

from nanograd.errors import DataError
from nanograd.runtime import json_files, storage

MANIFEST = {"rows": 193, "name": "über", "files": {"a": "0f"}, "rate": 0.1, "none": None}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    json_files.commit_manifest(str(tmp_path / "manifest.json"), MANIFEST)
    return tmp_path / "manifest.json"


def test_manifest_with_any_changed_or_missing_byte_is_refused_or_the_same(file):
    whole = file.read_bytes()
    refused = 0
    assert json_files.read_manifest(str(file)) == MANIFEST

    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        try:
            assert json_files.read_manifest(str(file)) == MANIFEST
        except DataError:
            refused += 1
    for length in range(len(whole.rstrip())):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError):
            json_files.read_manifest(str(file))

    whitespace = sum(byte in b" \n" for byte in whole)
    assert refused >= len(whole) - whitespace


@pytest.mark.parametrize("text", ["[]", "7", "null", '"text"', "{}", '{"manifest_sha256": null}'])
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(DataError, match="is damaged"):
        json_files.read_manifest(str(tmp_path / "manifest.json"))


def test_lines_round_trip_gives_the_same_records(tmp_path):
    place, rows = str(tmp_path / "rows.jsonl"), [MANIFEST, {}, {"text": "a\nb\u2028c"}]

    storage.commit(place, json_files.encode_lines(rows))

    assert json_files.read_lines(place) == rows
    assert storage.read(place).count(b"\n") == len(rows)
    storage.commit(place, json_files.encode_lines([]))
    assert json_files.read_lines(place) == json_files.read_lines(f"{place}.missing") == []
