from dataclasses import replace
from pathlib import Path

import yaml

from nanograd.models.model import save
from tests.helpers.models import some_ensemble, some_model


def test_card_has_the_metadata_that_hugging_face_reads(tmp_path: Path) -> None:
    about = {"data": "mnist", "test_accuracy": 0.9903, "val_accuracy": None}
    save(replace(some_ensemble(), about=about), str(tmp_path / "model"))

    _, front, text = (tmp_path / "model" / "README.md").read_text().split("---\n", 2)

    metadata = yaml.safe_load(front)
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


def test_card_does_not_name_the_sample_as_mnists_test_set(tmp_path: Path) -> None:
    save(replace(some_model(), about={"data": "sample", "test_accuracy": 0.9}), str(tmp_path / "m"))

    metadata = yaml.safe_load((tmp_path / "m" / "README.md").read_text().split("---\n")[1])

    assert metadata["datasets"] == ["ylecun/mnist"]
    assert metadata["model-index"][0]["results"][0]["dataset"]["type"] == "custom"


def test_card_of_other_data_names_no_data_set_and_no_missing_accuracy(
    tmp_path: Path,
) -> None:
    save(replace(some_model(), about={"data": "/my/digits: #1"}), str(tmp_path / "model"))

    front = (tmp_path / "model" / "README.md").read_text().split("---\n")[1]

    assert {"datasets", "model-index"}.isdisjoint(yaml.safe_load(front))
