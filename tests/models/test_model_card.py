from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from nanograd.models.model import Model, save
from tests.helpers.models import some_ensemble, some_model


def card(tmp_path: Path, model: Model, **about: Any) -> tuple[dict[str, Any], str]:
    """Return the metadata and the text of the card of a model."""
    save(replace(model, about=about), str(tmp_path / "model"))
    _, front, text = (tmp_path / "model" / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_card_has_the_metadata_that_hugging_face_reads(tmp_path: Path) -> None:
    metadata, text = card(
        tmp_path, some_ensemble(), data="mnist", test_accuracy=0.9903, val_accuracy=None
    )

    assert (metadata["license"], metadata["library_name"]) == ("mit", "nanograd")
    assert (metadata["datasets"], metadata["metrics"]) == (["ylecun/mnist"], ["accuracy"])
    assert metadata["pipeline_tag"] == "image-classification"
    assert "handwritten-digits" in metadata["tags"]
    [index] = metadata["model-index"]
    [result] = index["results"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"type": "ylecun/mnist", "name": "MNIST", "split": "test"}
    assert result["metrics"][0]["value"] == 0.9903
    assert "The mean of the scores of 3 nets." in text
    assert "784-9-10" in text


def test_card_names_no_test_set_that_was_not_used(tmp_path: Path) -> None:
    bare, _ = card(tmp_path, some_model(), data="/my/digits: #1")
    metadata, _ = card(tmp_path, some_model(), data="sample", test_accuracy=0.9)

    assert metadata["datasets"] == ["ylecun/mnist"]
    assert metadata["model-index"][0]["results"][0]["dataset"]["type"] == "custom"
    assert {"datasets", "model-index"}.isdisjoint(bare)
