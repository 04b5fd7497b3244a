import json
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import nanograd
from nanograd.images import sources
from nanograd.images.writers import write_pictures
from nanograd.models import model as model_io
from nanograd.models.model import BUILT_IN
from scripts.make_model import FOLDER, PARAMS_SHA256, find_problems
from tests.helpers.models import some_model


def test_model_is_the_one_that_the_script_makes():
    model = nanograd.load_model()

    assert find_problems(model) == []
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    assert manifest["params_sha256"] == PARAMS_SHA256
    assert manifest["data"] == "mnist"


def test_model_of_another_recipe_or_with_other_bits_is_a_problem():
    about = nanograd.load_model().about
    other = {**about, "identity": {**about["identity"], "seed": 1}}

    [seed, params] = find_problems(model_io.Model(**{**vars(some_model()), "about": other}))

    assert seed.startswith("seed")
    assert params.startswith("params_sha256")


def test_package_names_no_place_of_the_machine_that_made_the_model():
    folder = resources.files("nanograd.models").joinpath("digits")
    names = {each.name for each in folder.iterdir()}

    assert names == {"README.md", "config.json", "manifest.json", "model.safetensors"}
    for name in names:
        data = folder.joinpath(name).read_bytes()
        assert not any(word in data for word in (b"/tmp", b"/work", b"/home", b"/root", b"/Users"))


def test_model_classifies_mnists_test_images_as_its_card_says(mnist_place):
    model, test = nanograd.load_model(), sources.load_test([mnist_place])

    right = np.mean(model.predict(test.images) == test.labels)

    assert right == pytest.approx(model.about["test_accuracy"])
    assert right > 0.995


def test_model_is_the_default_of_every_command(nanograd_, tmp_path, sample):
    write_pictures(sample.test.take(slice(0, 7)), "pictures")
    shutil.copytree(FOLDER, "runs/1/model")
    outputs = {}
    for name, words in {"own": [], "run": ["--model", "runs/1"]}.items():
        done = [
            nanograd_("predict", "pictures", "--output", f"{name}/read", *words),
            nanograd_("inspect", "pictures", "--output", f"{name}/sheet.png", *words),
            nanograd_("evaluate", "--data", "sample", *words),
            nanograd_("export", "--output", f"{name}/model.onnx", *words),
        ]
        assert [each.code for each in done] == [0] * 4, done
        table = pq.read_table(f"{name}/read/predictions").to_pylist()
        results = [each["prediction"] for each in done[1].last["results"]]
        assert results == [
            row["prediction"] for row in sorted(table, key=lambda row: row["source_file"])
        ]
        outputs[name] = (table, done[2].last["accuracy"], done[3].last["params_sha256"])
    assert outputs["own"] == outputs["run"]
    assert json.loads(Path("own/read/_summary.json").read_text())["model"] == BUILT_IN
    assert BUILT_IN in Path("own/read/report.html").read_text()

    rows = {"image": sample.test.images[:7].reshape(7, 28, 28)}
    found = nanograd.Predictor()(rows)["prediction"]
    assert found.tolist() == nanograd.load_model("runs/1").predict(rows["image"]).tolist()
    assert nanograd.evaluate(data="sample").accuracy == outputs["own"][1]
