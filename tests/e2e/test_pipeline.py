"""Whole commands, from pictures or data to predictions, without Ray and with a private one."""

import json
import re
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq

from simulators.own_numbers import draw_numbers
from tests.helpers.folders import untimed_contents
from tests.helpers.processes import finish, run, run_python, start

NO_RAY = ("--workers", "0")


def test_whole_pipeline_without_ray_accounts_for_every_picture(
    nanograd, trained, png_folder, tmp_path
):
    (tmp_path / "mixed").mkdir()
    for name, data in {"7_broken.png": b"no picture", "empty.png": b""}.items():
        (tmp_path / "mixed" / name).write_bytes(data)
    ingested = nanograd("ingest", str(png_folder), "mixed", "--output", "rows", *NO_RAY)
    predicted = nanograd("predict", "rows", "--model", trained, "--output", "out", *NO_RAY)
    evaluated = nanograd("evaluate", "--model", trained, "--data", "sample", "--verbose")

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
    # Verbose: label, scores, highest score and prediction of each image.
    *lines, _ = evaluated.stdout.strip().splitlines()
    assert len(lines) == 1000
    for line in lines:
        match = re.fullmatch(r"\d  \[([\d. ]+)\]  ([\d.]+)  (\d)", line)
        assert match
        scores = match[1].split()
        assert len(scores) == 10
        assert scores[int(match[3])] == match[2] == max(scores)
    assert "accuracy:" in evaluated.stderr


def test_default_command_trains_with_ray_to_the_bits_of_one_process(nanograd, tmp_path):
    """Above a clone, whose folder could hide the package, and without standard streams."""
    (tmp_path / "nanograd" / "docs").mkdir(parents=True)
    settings = ["--data", "sample", "--epochs", "2", "--batch-size", "250", "--hidden", "32"]
    words = [str(Path(sys.executable).with_name("nanograd")), "train", *settings]

    shell = ("/bin/sh", "-c", 'exec "$@" 0<&- 2>&-', "sh")
    with_ray = run(*shell, *words, "--workers", "2", "--output", "two", folder=tmp_path)
    without = nanograd("train", *settings, *NO_RAY, "--output", "none")

    assert (with_ray.returncode, without.code) == (0, 0), with_ray.stdout
    result = json.loads(with_ray.stdout.splitlines()[-1])
    assert result["workers"] == 2
    for name in ("params_sha256", "val_accuracy"):
        assert result[name] == without.last[name]
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


SESSIONS = """
import json, os, sys
import ray
from nanograd.distributed.cluster import session
from nanograd.errors import InternalError

with session(None):
    cpus = ray.cluster_resources()["CPU"]
for name in JOINING:
    del os.environ[name]
before = dict(os.environ)
try:
    with session("local", 1):
        token = os.environ["RAY_AUTH_TOKEN"]
        raise InternalError("mine")
except InternalError as error:
    notes = error.__notes__
print(json.dumps([before == dict(os.environ), token, cpus, notes]))
"""


def test_private_ray_after_another_one_leaves_the_environment_and_after_a_failure_its_logs(head):
    done = run_python(f"JOINING = {[*head.joining]}\n{SESSIONS}", **head.joining)

    assert done.returncode == 0, done.stderr
    is_same, token, cpus, [note] = json.loads(done.stdout)
    assert (is_same, cpus) == (True, 4)
    assert token != Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    kept = Path(note.removeprefix("Ray's logs are in "))
    assert list(kept.glob("*/gcs_server.out"))
    shutil.rmtree(kept)


def test_numbers_are_the_same_bytes_with_ray_and_without(nanograd, tmp_path, head):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (_, picture) in enumerate(draw_numbers(9, 3)):
        picture.convert("L").save(folder / f"{number}.png")
    (folder / "none.png").write_bytes(b"no picture")
    command = ["predict", str(folder), "--digits", "many", "--rows-per-file", "3", "--workers"]

    without = nanograd(*command, "0", "--output", "0")
    result, _ = finish(start(*command, "2", "--output", str(tmp_path / "2"), **head.joining))

    assert without.code == 0, without.stderr
    assert untimed_contents(tmp_path / "2") == untimed_contents(tmp_path / "0")
    assert (result["rows"], result["quarantined"]) == (10, 1)
    assert len(list((tmp_path / "0" / "numbers").glob("part-*.parquet"))) > 1


def test_demo_replaces_no_run_of_somebody_else(nanograd, tmp_path):
    words = ("--data", "sample", "--hidden", "8", "--epochs", "1", "--warmup", "1", *NO_RAY)
    mine = nanograd("train", *words, "--output", "here/run").last["params_sha256"]

    done = nanograd("demo", "--output", "here")

    assert (done.code, done.last["command"]) == (73, "demo")
    assert "here/run contains a run with" in done.last["reason"]
    assert nanograd("train", *words, "--output", "here/run").last["params_sha256"] == mine
