from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nanograd import commands
from nanograd.data.mnist import Mnist
from nanograd.report import html, plots
from tests.conftest import Nanograd
from tests.helpers.reports import write_training_report
from tests.helpers.runs import train
from tests.report.conftest import Predict


def written(place: Path) -> dict[str, tuple[int, int]]:
    """Return name and size of each PNG file, none of which is blank."""
    sizes = {}
    for file in sorted((place / plots.FOLDER).iterdir()):
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10
            sizes[file.stem] = picture.size
    return sizes


@pytest.mark.parametrize(("validation_split", "num_curves"), [(0.1, 3), (0.0, 2)])
def test_plots_of_a_run_are_png_files(
    few_digits: Mnist, tmp_path: Path, validation_split: float, num_curves: int
) -> None:
    train(few_digits, tmp_path / "run", validation_split=validation_split)

    write_training_report(tmp_path / "run", few_digits.test, as_png=True)

    sizes = written(tmp_path / "run")
    assert sorted(sizes) == ["calibration", "confidence", "confusion", "learning", "speed"]
    assert sizes["learning"] == (num_curves * 624, 480)


@pytest.mark.parametrize(
    ("labelled", "names"), [(0, []), (193, ["calibration", "confusion", "review"])]
)
def test_plots_of_a_prediction_are_png_files(
    predict: Predict, labelled: int, names: list[str]
) -> None:
    out = predict(labelled)

    commands.report(str(out), [], [].append, as_png=True)

    assert sorted(written(out)) == sorted([*names, "confidence", "digits", "speed"])


def test_colours_are_those_of_the_page() -> None:
    light = html.asset("page.css").split("@media")[0]

    for name in ("blue", "orange", "red", "green", "grey", "pale"):
        assert f"--{name}: {getattr(plots, name.upper())};" in light


def test_flag_adds_plots_to_a_finished_run(nanograd: Nanograd, tmp_path: Path) -> None:
    words = ["train", "--data", "sample", "--workers", "0", "--epochs", "2", "--ensemble", "2"]

    for flags in ([], ["--plots"]):
        assert nanograd(*words, "--output", "run", *flags).code == 0
        assert (tmp_path / "run" / plots.FOLDER).exists() == bool(flags)

    assert "confusion" in written(tmp_path / "run")
