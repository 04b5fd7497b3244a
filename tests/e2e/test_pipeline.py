import json
from pathlib import Path

import pyarrow.parquet as pq

from tests.conftest import Nanograd


def test_whole_pipeline_without_ray_accounts_for_every_picture(
    nanograd: Nanograd, trained: str, png_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mixed").mkdir()
    for name, data in {"7_broken.png": b"no picture", "empty.png": b""}.items():
        (tmp_path / "mixed" / name).write_bytes(data)
    ingested = nanograd("ingest", str(png_folder), "mixed", "--output", "rows", "--workers", "0")
    predicted = nanograd("predict", "rows", "--model", trained, "--output", "out", "--workers", "0")
    evaluated = nanograd("evaluate", "--model", trained, "--data", "sample")

    assert ingested.code == predicted.code == evaluated.code == 0
    assert ingested.last["rows"] == 1002
    assert ingested.last["ingested"] == ingested.last["labelled"] == 1000
    assert ingested.last["reasons"] == {"broken_image": 1, "empty": 1}
    assert predicted.last["rows"] == predicted.last["predicted"] == 1000
    assert predicted.last["accuracy"] == evaluated.last["accuracy"] > 0.8
    quarantine = pq.read_table(tmp_path / "rows" / "_quarantine").to_pylist()
    assert {Path(row["source_file"]).name for row in quarantine} == {"7_broken.png", "empty.png"}
    table = pq.read_table(tmp_path / "out" / "predictions")
    identity = zip(table["source_file"].to_pylist(), table["source_row"].to_pylist(), strict=True)
    assert len(set(identity)) == 1000
    assert (tmp_path / "out" / "_SUCCESS").exists()


def test_default_command_trains_with_ray_to_the_bits_of_one_process(
    nanograd: Nanograd, tmp_path: Path
) -> None:
    settings = ["--data", "sample", "--epochs", "2", "--batch-size", "250"]

    with_ray = nanograd("train", *settings, "--workers", "2", "--output", "two")
    without = nanograd("train", *settings, "--workers", "0", "--output", "none")

    assert with_ray.code == without.code == 0
    assert with_ray.last["workers"] == 2
    assert with_ray.last["params_sha256"] == without.last["params_sha256"]
    assert with_ray.last["val_accuracy"] == without.last["val_accuracy"]
    rows = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2]


def test_predicting_again_does_nothing_and_another_model_is_refused(
    nanograd: Nanograd, trained: str, png_folder: Path
) -> None:
    nanograd("ingest", str(png_folder / "3"), "--output", "rows", "--workers", "0")
    nanograd("train", "--data", "sample", "--workers", "0", "--epochs", "1", "--output", "other")
    words = ["predict", "rows", "--output", "out", "--workers", "0", "--model"]
    first = nanograd(*words, trained)

    again = nanograd(*words, trained)
    other = nanograd(*words, "other/model")
    replaced = nanograd(*words, "other/model", "--overwrite")

    assert first.code == again.code == replaced.code == 0
    assert "nothing to do" in again.stderr
    assert again.last["predicted"] == first.last["predicted"] == 100
    assert other.code == 73
    assert other.last["event"] == "error"


def test_evaluate_verbose_prints_a_line_an_image_then_time_and_accuracy(
    nanograd: Nanograd, trained: str
) -> None:
    done = nanograd("evaluate", "--model", trained, "--data", "sample", "--verbose")

    lines = done.stdout.strip().splitlines()
    label, scores, best, class_ = (
        lines[0].replace("[", "|").replace("]", "|").split("|")[0:1]
        + [part.strip() for part in lines[0].replace("[", "|").replace("]", "|").split("|")[1:2]]
        + lines[0].rsplit(maxsplit=2)[1:]
    )
    assert len(lines) == 1001
    assert label.strip().isdigit()
    assert len(scores.split()) == 10
    assert float(best) == max(float(score) for score in scores.split())
    assert scores.split()[int(class_)] == best
    assert "accuracy:" in done.stderr


def test_settings_take_precedence_flag_environment_file_preset(
    nanograd: Nanograd, tmp_path: Path
) -> None:
    (tmp_path / "my.toml").write_text(
        'preset = "classic"\nepochs = 3\nbatch_size = 200\nseed = 5\n'
    )
    words = ["train", "--data", "sample", "--workers", "0", "--config", "my.toml"]

    done = nanograd(
        *words,
        "--seed",
        "7",
        "--warmup",
        "5",
        "--output",
        "run",
        NANOGRAD_TRAIN_EPOCHS="1",
        NANOGRAD_TRAIN_SEED="6",
    )

    stored = (tmp_path / "run" / "config.toml").read_text()
    assert done.code == 0
    assert "epochs = 1\n" in stored
    assert "seed = 7\n" in stored
    assert "batch_size = 200\n" in stored
    assert 'loss = "mse"\n' in stored
