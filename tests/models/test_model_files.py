import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nanograd.errors import DataError
from nanograd.models.model import Model, load, save
from nanograd.runtime import json_files, process, storage
from tests.helpers.models import ABOUT, some_ensemble, some_images, some_model

Change = Callable[[dict[str, Any]], object]


def forge(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and its checksum, so that only its content can be refused."""
    (folder / name).write_bytes(data)
    manifest = json_files.read_manifest(str(folder / "manifest.json"))
    manifest["files"][name] = storage.checksum(data)
    json_files.commit_manifest(str(folder / "manifest.json"), manifest)


def forge_config(folder: Path, part: str, **values: object) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    config["nets"][0][part].update(values)
    forge(folder, "config.json", json.dumps(config).encode())


def forge_tensors(folder: Path, change: Change) -> None:
    tensors = load_tensors((folder / "model.safetensors").read_bytes())
    change(tensors)
    forge(folder, "model.safetensors", save_tensors(tensors))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model directory."""
    save(some_model(), str(tmp_path / "model"))
    return tmp_path / "model"


@pytest.mark.parametrize(
    "model",
    [some_model(1), some_model(7), some_model(193), some_ensemble()],
    ids=["1", "7", "193", "ensemble"],
)
@pytest.mark.parametrize("writeable", [True, False])
def test_loaded_model_has_the_bits_of_the_saved_one_and_is_read_only(
    tmp_path: Path, model: Model, writeable: bool
) -> None:
    images = some_images(193)
    for net in model.nets:
        net.params.vector.flags.writeable = writeable

    save(model, str(tmp_path))
    again = load(str(tmp_path))

    for net, other in zip(model.nets, again.nets, strict=True):
        assert other.params.vector.dtype == np.float32
        assert other.params.vector.tobytes() == net.params.vector.tobytes()
        assert not other.params.vector.flags.writeable
        assert other.config() == net.config()
    with process.one_thread():
        assert again.probabilities(images).tobytes() == model.probabilities(images).tobytes()
    assert again.params_sha256() == model.params_sha256()
    assert again.sha256() == model.sha256()
    assert again.about == ABOUT


def test_model_directory_holds_the_documented_files(folder: Path) -> None:
    manifest = json_files.read_manifest(str(folder / "manifest.json"))

    files = {"config.json", "model.safetensors"}
    assert set(storage.names(str(folder))) == files | {"README.md", "manifest.json"}
    assert set(manifest["files"]) == files
    assert manifest["params_sha256"] == some_model().params_sha256()


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "model.safetensors"])
def test_flipped_bytes_are_detected(folder: Path, name: str) -> None:
    whole, passed = (folder / name).read_bytes(), []
    step = 193 if name == "model.safetensors" else 1
    model = load(str(folder))

    for position in [*range(min(320, len(whole))), *range(320, len(whole), step), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        (folder / name).write_bytes(damaged)
        try:
            loaded = load(str(folder))
        except DataError as error:
            assert str(folder) in str(error)
        else:
            assert (loaded.params_sha256(), loaded.about) == (model.params_sha256(), ABOUT)
            passed.append(position)

    assert all(chr(whole[position]) in " \n" for position in passed)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("length", [0, 1, 193, None])
def test_short_or_missing_file_is_named(folder: Path, name: str, length: int | None) -> None:
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    if length is not None:
        (folder / name).write_bytes(data[:length])
    fault = ": there is no such file" if length is None else " is damaged"

    with pytest.raises(DataError, match=f"{name}{fault}"):
        load(str(folder))


def test_model_card_may_be_edited_or_removed(folder: Path) -> None:
    (folder / "README.md").write_text("# Our model\n")
    edited = load(str(folder))
    (folder / "README.md").unlink()
    bare = load(str(folder))

    assert edited.sha256() == bare.sha256() == some_model().sha256()


def test_model_without_a_reference_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    del config["reference"]
    forge(folder, "config.json", json.dumps(config).encode())

    with pytest.raises(DataError, match="cannot be read as a model"):
        load(str(folder))


def test_folder_without_a_manifest_is_no_model_directory(folder: Path) -> None:
    (folder / "manifest.json").unlink()

    with pytest.raises(DataError, match=r"is not a model directory: it has no manifest\.json"):
        load(str(folder))
    with pytest.raises(DataError, match="/nowhere does not exist; check the path"):
        load(str(folder / "nowhere"))


def test_run_directory_is_refused_with_a_hint_to_its_model(folder: Path) -> None:
    model = folder.rename(folder.parent / "model")

    with pytest.raises(DataError, match=re.escape(f"; use {model}")):
        load(str(model.parent))


def test_unknown_format_is_refused(folder: Path) -> None:
    manifest = json_files.read_manifest(str(folder / "manifest.json"))
    json_files.commit_manifest(str(folder / "manifest.json"), {**manifest, "format": "other-2"})

    with pytest.raises(DataError, match=r"has format 'other-2', but nanograd [\d.]+ reads"):
        load(str(folder))


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("preparation", {"version": 2}, "unknown pixel preparation"),
        ("preparation", {"version": "1"}, "unknown pixel preparation"),
        ("preparation", {"name": "other"}, "unknown pixel preparation"),
        ("architecture", {"activation": "swish"}, "unknown activation 'swish'"),
        ("architecture", {"loss": "hinge"}, "or loss 'hinge'"),
        *(
            ("architecture", {"hidden": hidden}, "cannot be read as a model")
            for hidden in (0, 6, 8, -1, 7.5, "7", None, 10**12)
        ),
    ],
)
def test_unknown_setting_value_is_refused(
    folder: Path, section: str, values: dict[str, object], message: str
) -> None:
    forge_config(folder, section, **values)

    with pytest.raises(DataError, match=message):
        load(str(folder))


def add_setting(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    forge(folder, "config.json", json.dumps({**config, "temperature": 0.5}).encode())


@pytest.mark.parametrize(
    ("change", "addition"),
    [
        (add_setting, "'temperature'"),
        (lambda folder: forge_config(folder, "architecture", layers=2), "'layers'"),
        (lambda folder: forge_config(folder, "architecture", inputs=784), "'inputs'"),
        (lambda folder: forge_config(folder, "preparation", blur=1), "'blur'"),
        (
            lambda folder: forge_tensors(folder, lambda t: t.update({"0.w3": t["0.w2"]})),
            "'0.w3'",
        ),
        (
            lambda folder: forge_tensors(folder, lambda t: t.update({"1.w1": t["0.w1"]})),
            "'1.w1'",
        ),
        (lambda folder: forge(folder, "vocabulary.json", b"{}"), "'vocabulary.json'"),
    ],
)
def test_addition_of_a_later_version_is_refused(
    folder: Path, change: Callable[[Path], None], addition: str
) -> None:
    change(folder)

    with pytest.raises(DataError, match=rf"an entry {addition}, which .* does not know"):
        load(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.pop("0.b1"), id="missing"),
        pytest.param(lambda t: t.update({"0.w1": t["0.w1"].T.copy()}), id="transposed"),
        pytest.param(lambda t: t.update({"0.b1": t["0.b1"][:6].copy()}), id="too short"),
        pytest.param(lambda t: t.update({"0.b1": t["0.b1"].reshape(1, 7)}), id="another rank"),
        pytest.param(lambda t: t.update({"0.w2": t["0.w2"].astype(np.float64)}), id="float64"),
        pytest.param(lambda t: t.update({"0.w2": t["0.w2"].astype(np.float16)}), id="float16"),
        pytest.param(lambda t: t["0.w1"].__setitem__((7, 1), np.nan), id="not a number"),
        pytest.param(lambda t: t["0.b2"].__setitem__(7, -np.inf), id="infinite"),
    ],
)
def test_tensors_that_do_not_match_the_architecture_are_refused(
    folder: Path, change: Change
) -> None:
    forge_tensors(folder, change)

    with pytest.raises(DataError, match="cannot be read as a model"):
        load(str(folder))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{}", b'{"nets": []}', b'{"nets": [7]}', b"\xff"]
)
def test_config_of_another_structure_is_refused(folder: Path, text: bytes) -> None:
    forge(folder, "config.json", text)

    with pytest.raises(DataError, match="cannot be read as a model"):
        load(str(folder))
