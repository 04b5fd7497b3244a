import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nanograd.errors import DataError, StorageError, UsageError
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(some_model(), str(tmp_path / "model"))
    return tmp_path / "model"


@pytest.mark.parametrize("model", [some_model(1), some_ensemble()], ids=["1", "ensemble"])
def test_loaded_model_has_the_bits_of_the_saved_one_and_is_read_only(tmp_path, model):
    images = some_images(193)

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


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "model.safetensors"])
def test_flipped_bytes_are_detected(folder, name):
    whole, passed = (folder / name).read_bytes(), []
    step = 579 if name == "model.safetensors" else 7
    model = load(str(folder))

    for position in [*range(0, min(320, len(whole)), 7), *range(320, len(whole), step)]:
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
def test_short_or_missing_file_is_named_but_the_card_may_be_edited(folder, name):
    (folder / "README.md").write_text("# Our model\n")
    assert load(str(folder)).sha256() == some_model().sha256()
    data = (folder / name).read_bytes()
    for length in (0, 193):
        (folder / name).write_bytes(data[:length])
        with pytest.raises(DataError, match=f"{name} is damaged"):
            load(str(folder))
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: there is no such file"):
        load(str(folder))


def test_folder_without_a_manifest_is_no_model_directory_but_a_run_has_one(folder):
    assert load(str(folder.parent)).sha256() == some_model().sha256()  # a run directory
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"is not a model directory: there is no manifest\.json"):
        load(str(folder))
    with pytest.raises(DataError, match="/nowhere does not exist: "):
        load(str(folder / "nowhere"))


def of_net(part: str, **values: object) -> Change:
    return lambda config: config["nets"][0][part].update(values)


TEXTS = {str(text): text for text in (b"", b"[]", b"null", b"{}", b"\xff")}
CONFIGS: dict[str, Change] = {
    "a later preparation": of_net("preparation", version=2),
    "a version as text": of_net("preparation", version="1"),
    "another preparation": of_net("preparation", name="other"),
    "another activation": of_net("architecture", activation="swish"),
    "another loss": of_net("architecture", loss="hinge"),
    **{
        f"{hidden!r} hidden units": of_net("architecture", hidden=hidden)
        for hidden in (0, 6, 8, -1, 7.5, "7", None, 10**12)
    },
    "no reference": lambda config: config.pop("reference"),
    "no nets": lambda config: config["nets"].clear(),
    "a net that is a number": lambda config: config.update(nets=[7]),
    "a temperature": lambda config: config.update(temperature=0.5),
    "layers": of_net("architecture", layers=2),
    "inputs": of_net("architecture", inputs=784),
    "blur": of_net("preparation", blur=1),
    "dropout": lambda config: config["nets"][0].update(dropout=0.1),
}
TENSORS: dict[str, Change] = {
    "missing": lambda t: t.pop("0.b1"),
    "transposed": lambda t: t.update({"0.w1": t["0.w1"].T.copy()}),
    "too short": lambda t: t.update({"0.b1": t["0.b1"][:6].copy()}),
    "another rank": lambda t: t.update({"0.b1": t["0.b1"].reshape(1, 7)}),
    "float64": lambda t: t.update({"0.w2": t["0.w2"].astype(np.float64)}),
    "float16": lambda t: t.update({"0.w2": t["0.w2"].astype(np.float16)}),
    "not a number": lambda t: t["0.w1"].__setitem__((7, 1), np.nan),
    "infinite": lambda t: t["0.b2"].__setitem__(7, -np.inf),
    "a layer more": lambda t: t.update({"0.w3": t["0.w2"]}),
    "a net more": lambda t: t.update({"1.w1": t["0.w1"]}),
}
# What a later version may have added.
ADDITIONS = {"temperature", "layers", "inputs", "blur", "dropout", "a layer more", "a net more"}


@pytest.mark.parametrize("name", [*TEXTS, *CONFIGS, *TENSORS])
def test_model_that_this_version_does_not_know_is_refused(folder, name):
    if name in TEXTS:
        forge(folder, "config.json", TEXTS[name])
    elif name in CONFIGS:
        config = json.loads((folder / "config.json").read_bytes())
        CONFIGS[name](config)
        forge(folder, "config.json", json.dumps(config).encode())
    else:
        tensors = load_tensors((folder / "model.safetensors").read_bytes())
        TENSORS[name](tensors)
        forge(folder, "model.safetensors", save_tensors(tensors))

    is_addition = name.removeprefix("a ") in ADDITIONS or name in ADDITIONS
    message = "an entry .* does not know" if is_addition else "cannot be read as a model"
    with pytest.raises(DataError, match=message):
        load(str(folder))


def test_file_or_format_of_a_later_version_is_refused(folder):
    forge(folder, "vocabulary.json", b"{}")
    with pytest.raises(DataError, match=r"an entry 'vocabulary\.json'"):
        load(str(folder))
    manifest = json_files.read_manifest(str(folder / "manifest.json"))
    json_files.commit_manifest(str(folder / "manifest.json"), {**manifest, "format": "other-2"})
    with pytest.raises(DataError, match="has format 'other-2'"):
        load(str(folder))


def card(tmp_path: Path, model: Model, **about: Any) -> tuple[dict[str, Any], str]:
    save(replace(model, about=about), str(tmp_path / "model"))
    _, front, text = (tmp_path / "model" / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    properties = {**required, **optional}
    return {"type": "object", "required": [*required], "additionalProperties": False,
            "properties": properties}  # fmt: skip


TEXT = {"type": "string", "minLength": 1}
TEXTS_ = {"type": "array", "items": TEXT, "minItems": 1}
DATASET = {"type": "string", "pattern": r"^[\w.-]+(/[\w.-]+)?$"}
# The metadata of a card, as the hub checks them when a model is pushed; hub-docs, modelcard.md.
CARD = _object(
    {"license": {"enum": ["mit"]}, "library_name": TEXT, "tags": TEXTS_, "metrics": TEXTS_,
     "pipeline_tag": {"enum": ["image-classification"]}},
    datasets={"type": "array", "items": DATASET, "minItems": 1},
    **{"model-index": {"type": "array", "minItems": 1, "items": _object({
        "name": TEXT,
        "results": {"type": "array", "minItems": 1, "items": _object({
            "task": _object({"type": TEXT}, name=TEXT),
            "dataset": _object({"type": DATASET, "name": TEXT}, config=TEXT, split=TEXT),
            "metrics": {"type": "array", "minItems": 1, "items": _object(
                {"type": TEXT, "value": {"type": "number"}}, name=TEXT
            )},
        })},
    })}},
)  # fmt: skip


@pytest.mark.parametrize("model", [some_model(), some_ensemble()], ids=["1", "ensemble"])
@pytest.mark.parametrize(
    "about",
    [
        {},
        *({"data": data, "test_accuracy": 0.9903} for data in ("mnist", "sample", "/my: #1 | x")),
        {"data": ["mnist", "/a folder"], "test_accuracy": 1.0, "val_accuracy": None},
        {"data": ["/a", "/b"], "test_accuracy": None, "nets": [{"test_accuracy": 0.9}]},
    ],
)
def test_card_is_valid_on_the_hub_whatever_the_model(tmp_path, model, about):
    metadata, text = card(tmp_path, model, **about)

    jsonschema.validate(metadata, CARD)
    data = about.get("data", "")
    assert ("datasets" in metadata) == ("mnist" in data or data == "sample")
    assert ("model-index" in metadata) == (about.get("test_accuracy") is not None)
    for index in metadata.get("model-index", ()):
        [result] = index["results"]
        assert result["dataset"]["type"] == ("ylecun/mnist" if data == "mnist" else "custom")
        assert result["metrics"][0]["value"] == about["test_accuracy"]
    assert ("The mean of the scores of 3 nets." in text) == (len(model.nets) == 3)
    assert 'nanograd.load_model("THIS_FOLDER")' in text


class Hub:
    """The part of the package huggingface_hub that is used, with one model in its cache."""

    HfHubHTTPError = type("HfHubHTTPError", (OSError,), {})
    RepositoryNotFoundError = type("RepositoryNotFoundError", (HfHubHTTPError,), {})
    RevisionNotFoundError = type("RevisionNotFoundError", (HfHubHTTPError,), {})
    HFValidationError = type("HFValidationError", (ValueError,), {})

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[tuple[str, str | None]]()
        self.utils = self

    def snapshot_download(
        self, name: str, *, revision: str | None, allow_patterns: list[str]
    ) -> str:
        self.asked.append((name, revision))
        if name != "user/name":
            kind = self.RepositoryNotFoundError if name == "user/other" else ConnectionError
            raise kind("404 Client Error\n\nRepository Not Found")
        assert {*allow_patterns} == {"manifest.json", "model.safetensors", "config.json"}
        return str(self.folder)


def test_model_on_the_hub_is_loaded_with_the_package_of_the_hub(folder, monkeypatch):
    hub = Hub(folder)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)  # type: ignore[arg-type]

    found = [load(f"hf://user/name{revision}").sha256() for revision in ("", "@v1")]

    assert found == [some_model().sha256()] * 2
    assert hub.asked == [("user/name", None), ("user/name", "v1")]
    for name, error in {"user/other": DataError, "user/unreachable": StorageError}.items():
        with pytest.raises(error, match=rf"hf://{name}: 404 Client Error Repository Not Found$"):
            load(f"hf://{name}")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="pip install huggingface_hub"):
        load("hf://user/name")
