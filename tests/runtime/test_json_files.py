import pytest

from nanograd.errors import DataError
from nanograd.runtime import json_files, storage

MANIFEST = {"rows": 193, "name": "über", "files": {"a": "0f"}, "rate": 0.1, "none": None}


@pytest.mark.parametrize(
    "text", ["[]", "7", "null", '"text"', "{}", '{"rows": 193', '{"manifest_sha256": null}']
)
def test_manifest_of_any_values_is_read_and_other_json_is_refused(tmp_path, text):
    place = str(tmp_path / "manifest.json")
    json_files.commit_manifest(place, MANIFEST)
    assert json_files.read_manifest(place) == MANIFEST

    storage.commit(place, text.encode())

    with pytest.raises(DataError, match="is damaged"):
        json_files.read_manifest(place)


def test_lines_round_trip_gives_the_same_records(tmp_path):
    place, rows = str(tmp_path / "rows.jsonl"), [MANIFEST, {}, {"text": "a\nb\u2028c"}]

    storage.commit(place, json_files.encode_lines(rows))

    assert json_files.read_lines(place) == rows
    assert storage.read(place).count(b"\n") == len(rows)
    storage.commit(place, json_files.encode_lines([]))
    assert json_files.read_lines(place) == json_files.read_lines(f"{place}.missing") == []
    for data in (b'{"b', b"3\n", b"[7]\n", b'"text"\n', b"[" * 100_000):
        storage.commit(place, b'{"a": 1}\n' + data)
        with pytest.raises(DataError, match="is damaged: line 2 is no JSON object"):
            json_files.read_lines(place)
