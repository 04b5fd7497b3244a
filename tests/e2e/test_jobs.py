"""The three jobs under `ray job submit`, on a head of our own that requires a token."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import ray.util

from tests.helpers.head import Head, running_head


def last_event(output: str) -> dict[str, Any]:
    """The JSON line that the job's own output ends with."""
    lines = [line for line in output.splitlines() if line.startswith('{"event"')]
    event: dict[str, Any] = json.loads(lines[-1])
    return event


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head in our own environment."""
    with (
        tempfile.TemporaryDirectory(prefix="ng-", ignore_cleanup_errors=True) as folder,
        running_head(Path(sys.executable).parent, Path(folder)) as running,
    ):
        yield running


def test_three_jobs_train_ingest_and_predict(head: Head, png_folder: Path, tmp_path: Path) -> None:
    run, rows, out = (str(tmp_path / name) for name in ("run", "rows", "out"))

    trained = head.submit(
        "python", "jobs/train.py", "--data", "sample", "--epochs", "2", "--output", run
    )
    ingested = head.submit("python", "jobs/ingest.py", str(png_folder / "4"), "--output", rows)
    model = f"{run}/model"
    predicted = head.submit("python", "jobs/predict.py", rows, "--model", model, "--output", out)

    assert trained[0] == ingested[0] == predicted[0] == 0, trained[1] + ingested[1] + predicted[1]
    # Progress and last words can be read in the job's log, without a terminal's escapes.
    for output, line in (
        (trained[1], r"^train  epoch 2/2  round \d+/\d+  .* rounds/s  .*validation [\d.]+ %$"),
        (ingested[1], r"^ingest  part (\d+)/\1  row 100/100  .* rows/s  0 quarantined$"),
        (predicted[1], r"^predict  part (\d+)/\1  row 100/100  .* rows/s  0 quarantined$"),
    ):
        assert re.search(line, output, re.MULTILINE), output
        assert re.search(r"^next: ", output, re.MULTILINE)
        assert "\x1b[?25" not in output
    assert last_event(trained[1])["workers"] == 2
    assert last_event(ingested[1])["ingested"] == 100
    assert last_event(predicted[1])["predicted"] == 100
    assert len(pq.read_table(f"{out}/predictions")) == 100


def test_a_job_with_a_bad_path_fails_and_says_why(head: Head, tmp_path: Path) -> None:
    code, output = head.submit(
        "python", "jobs/train.py", "--data", "/no/such/data", "--output", str(tmp_path / "run")
    )

    assert code != 0
    assert last_event(output)["code"] == 65, output
    assert "/no/such/data" in last_event(output)["reason"]


PRETEND = """
import sys, ray
from nanograd.cli import main
ray.__version__ = "2.59.0"
main(sys.argv[1:])
"""


def refusal(head: Head, program: list[str], environment: dict[str, str], tmp_path: Path) -> str:
    """Why training does not join the head, which has to be said with 69 within seconds."""
    words = ["train", "--data", "sample", "--output", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, *program, *words, "--address", head.address],
        env=environment, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 69, done.stdout + done.stderr
    assert "gcs_client" not in done.stderr
    reason: str = last_event(done.stdout)["reason"]
    return reason


def test_a_wrong_token_or_none_is_refused_by_cluster_and_jobs(head: Head, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    others = {**head.environment, "RAY_AUTH_TOKEN_PATH": str(wrong)}
    none = {name: head.environment[name] for name in head.environment if name[:8] != "RAY_AUTH"}

    code, _ = head.submit("true", environment=others)

    assert code != 0
    for environment in (others, {**none, "HOME": str(tmp_path)}):
        reason = refusal(head, ["-m", "nanograd"], environment, tmp_path)
        assert "refuses our token" in reason


def test_other_versions_than_the_clusters_are_told(head: Head, tmp_path: Path) -> None:
    reason = refusal(head, ["-c", PRETEND], head.environment, tmp_path)

    assert f"has Ray {ray.__version__} and Python" in reason
    assert "here are Ray 2.59.0 and Python" in reason
