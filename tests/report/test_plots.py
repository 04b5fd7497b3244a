import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nanograd import cli, commands
from nanograd.config.train_config import TrainConfig
from nanograd.data.mnist import Mnist
from nanograd.errors import UsageError
from nanograd.report import plots, training_report
from tests.helpers.runs import train
from tests.report.test_prediction_report import Predict, model, predict

__all__ = ["model", "predict"]


def written(place: Path) -> dict[str, tuple[int, int]]:
    """Name and size of each PNG file that has something in it."""
    sizes = {}
    for file in sorted((place / plots.FOLDER).iterdir()):
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10
            sizes[file.stem] = picture.size
    return sizes


def test_plots_of_a_run_are_png_files(few_digits: Mnist, tmp_path: Path) -> None:
    train(few_digits, tmp_path / "run")

    training_report.write(str(tmp_path / "run"), few_digits.test, as_png=True)

    sizes = written(tmp_path / "run")
    assert sorted(sizes) == ["calibration", "confusion", "learning", "speed"]
    assert sizes["learning"] == (3 * 624, 480)


def test_run_without_validation_has_plots_without_it(few_digits: Mnist, tmp_path: Path) -> None:
    train(few_digits, tmp_path / "run", validation_split=0.0)

    training_report.write(str(tmp_path / "run"), few_digits.test, as_png=True)

    assert written(tmp_path / "run")["learning"] == (2 * 624, 480)


@pytest.mark.parametrize(
    ("labelled", "names"),
    [(0, ["digits", "speed"]), (193, ["calibration", "confusion", "digits", "speed"])],
)
def test_plots_of_a_prediction_are_png_files(
    predict: Predict, labelled: int, names: list[str]
) -> None:
    out = predict(labelled)

    commands.report(str(out), None, [].append, as_png=True)

    assert sorted(written(out)) == names


def test_missing_extra_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    config = TrainConfig(data="sample", workers=0, plots=True, output=str(tmp_path / "run"))

    with pytest.raises(UsageError, match=r"pip install 'nanograd\[plots\]'"):
        commands.train(config, [].append)

    assert not (tmp_path / "run").exists()


def test_plots_are_written_of_a_run_that_is_complete(tmp_path: Path) -> None:
    without = TrainConfig(data="sample", workers=0, epochs=1, output=str(tmp_path / "run"))
    commands.train(without, [].append)

    commands.train(replace(without, plots=True), [].append)

    assert "confusion" in written(tmp_path / "run")


def test_flag_of_the_command_line_writes_plots(tmp_path: Path) -> None:
    words = ["--data", "sample", "--workers", "0", "--epochs", "2", "--committee", "2"]

    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", *words, "--plots", "--output", str(tmp_path / "run")])

    assert exit_.value.code == 0
    assert "speed" in written(tmp_path / "run")
