import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from tests.conftest import Nanograd

NO_RAY = ("--workers", "0")


def test_whole_pipeline_without_ray_accounts_for_every_picture(
    nanograd_process: Nanograd, trained: str, png_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mixed").mkdir()
    for name, data in {"7_broken.png": b"no picture", "empty.png": b""}.items():
        (tmp_path / "mixed" / name).write_bytes(data)
    ingested = nanograd_process("ingest", str(png_folder), "mixed", "--output", "rows", *NO_RAY)
    predicted = nanograd_process("predict", "rows", "--model", trained, "--output", "out", *NO_RAY)
    evaluated = nanograd_process("evaluate", "--model", trained, "--data", "sample")

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
    nanograd: Nanograd, nanograd_process: Nanograd, tmp_path: Path
) -> None:
    settings = ["--data", "sample", "--epochs", "2", "--batch-size", "250"]

    with_ray = nanograd_process("train", *settings, "--workers", "2", "--output", "two")
    without = nanograd("train", *settings, *NO_RAY, "--output", "none")

    assert with_ray.code == without.code == 0
    assert with_ray.last["workers"] == 2
    assert with_ray.last["params_sha256"] == without.last["params_sha256"]
    assert with_ray.last["val_accuracy"] == without.last["val_accuracy"]
    rows = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2]


def test_predicting_twice_does_nothing_and_another_model_is_refused(
    nanograd: Nanograd, trained: str, png_folder: Path
) -> None:
    nanograd("ingest", str(png_folder / "3"), "--output", "rows", *NO_RAY)
    nanograd("train", "--data", "sample", *NO_RAY, "--epochs", "1", "--output", "other")
    words = ["predict", "rows", "--output", "out", *NO_RAY, "--model"]
    first = nanograd(*words, trained)

    again = nanograd(*words, trained)
    other = nanograd(*words, "other/model")
    replaced = nanograd(*words, "other/model", "--overwrite")

    assert first.code == again.code == replaced.code == 0
    assert "nothing to do" in again.stderr
    assert again.last["predicted"] == first.last["predicted"] == 100
    assert other.code == 73
    assert other.last["event"] == "error"


def test_dry_run_describes_the_job_and_the_next_files_are_added(
    nanograd: Nanograd, trained: str, png_folder: Path, tmp_path: Path
) -> None:
    ingest = ["ingest", "in", "--output", "rows", *NO_RAY]
    predict = ["predict", "rows", "--output", "out", "--model", trained, *NO_RAY]
    shutil.copytree(png_folder / "3", tmp_path / "in" / "3")
    tried = nanograd(*ingest, "--dry-run")
    written = [path.name for path in tmp_path.iterdir()]
    nanograd(*ingest)
    tried_too = nanograd(*predict, "--dry-run")
    nanograd(*predict)
    shutil.copytree(png_folder / "8", tmp_path / "in" / "8")
    ingested, predicted = nanograd(*ingest), nanograd(*predict)

    num_first, num_all = (len(list(tmp_path.glob(f"in/{glob}/*"))) for glob in ("3", "*"))
    assert tried.code == tried_too.code == ingested.code == predicted.code == 0
    assert "in" in written
    assert "rows" not in written
    assert f"{num_first} rows to read in 1 of 1 parts; nothing was written" in tried.stderr
    assert "1 files: images in image (struct<" in tried_too.stderr
    assert tried_too.last["rows_to_do"] == num_first
    assert "1 of 2 parts are done already" in ingested.stderr
    assert "1 of 2 parts are done already" in predicted.stderr
    assert predicted.last["rows"] == ingested.last["rows"] == num_all


def test_verbose_evaluation_prints_a_line_an_image_then_time_and_accuracy(
    nanograd: Nanograd, trained: str
) -> None:
    done = nanograd("evaluate", "--model", trained, "--data", "sample", "--verbose")

    *lines, _ = done.stdout.strip().splitlines()
    assert len(lines) == 1000
    for line in lines:
        match = re.fullmatch(r"\d  \[([\d. ]+)\]  ([\d.]+)  (\d)", line)
        assert match
        scores = match[1].split()
        assert len(scores) == 10
        assert scores[int(match[3])] == match[2] == max(scores)
    assert "accuracy:" in done.stderr


def test_settings_take_precedence_flag_environment_file_preset(
    nanograd: Nanograd, tmp_path: Path
) -> None:
    (tmp_path / "my.toml").write_text(
        'preset = "classic"\nepochs = 3\nbatch_size = 200\nseed = 5\n'
    )
    words = ["train", "--data", "sample", *NO_RAY, "--config", "my.toml", "--output", "run"]
    flags = ["--seed", "7", "--warmup", "5"]

    done = nanograd(*words, *flags, NANOGRAD_TRAIN_EPOCHS="1", NANOGRAD_TRAIN_SEED="6")

    stored = (tmp_path / "run" / "config.toml").read_text().splitlines()
    assert done.code == 0
    assert {"epochs = 1", "seed = 7", "batch_size = 200", 'loss = "mse"'} <= {*stored}
