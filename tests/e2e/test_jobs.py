"""The three jobs under `ray job submit`, on a head that requires a token."""

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from nanograd.runtime import kernel
from simulators.clusters import events
from tests.helpers.head import Head

# In a job the driver chooses the code for its actors.
PORTABLE = [] if kernel.missing_features() else ["--kernel", "portable", "--strict"]
Submissions = dict[str, "Future[tuple[int, str]]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def others_environment(head: Head, folder: Path) -> dict[str, str]:
    """The environment of a user with another token."""
    token = folder / "token"
    token.write_text("0" * 64)
    return {**head.environment, "RAY_AUTH_TOKEN_PATH": str(token)}


@pytest.fixture(scope="module")
def submissions(
    head: Head, png_folder: Path, folder: Path, others_environment: dict[str, str]
) -> Iterator[Submissions]:
    """Jobs that run at the same time: `ray job submit` mostly waits."""
    train = ["python", "jobs/train.py", "--workers", "2", "--epochs", "2", "--data"]
    ingest = ["python", "jobs/ingest.py", "--workers", "2", str(png_folder / "4")]
    with ThreadPoolExecutor() as pool:
        yield {
            "train": pool.submit(
                head.submit, *train, "sample", *PORTABLE, "--output", f"{folder}/run"
            ),
            "ingest": pool.submit(head.submit, *ingest, "--output", f"{folder}/rows"),
            "bad path": pool.submit(
                head.submit, *train, "/no/such/data", "--output", f"{folder}/bad"
            ),
            "wrong token": pool.submit(head.submit, "true", environment=others_environment),
        }


def test_three_jobs_train_ingest_and_predict(
    head: Head, submissions: Submissions, folder: Path
) -> None:
    trained, ingested = submissions["train"].result(), submissions["ingest"].result()
    words = [f"{folder}/rows", "--model", f"{folder}/run/model", "--output", f"{folder}/out"]
    predicted = head.submit("python", "jobs/predict.py", *words)

    assert trained[0] == ingested[0] == predicted[0] == 0, trained[1] + ingested[1] + predicted[1]
    # Progress and the last sentence are in the job's log, without a terminal's escapes.
    for output, line in (
        (trained[1], r"^train  epoch 2/2  round \d+/\d+  .* rounds/s  .*validation [\d.]+ %$"),
        (ingested[1], r"^ingest  part (\d+)/\1  row 100/100  .* rows/s  0 quarantined$"),
        (predicted[1], r"^predict  part (\d+)/\1  row 100/100  .* rows/s  0 quarantined$"),
    ):
        assert re.search(line, output, re.MULTILINE), output
        assert re.search(r"^next: ", output, re.MULTILINE)
        assert "\x1b[?25" not in output
    assert events(trained[1])[-1]["workers"] == 2
    assert events(ingested[1])[-1]["ingested"] == 100
    assert events(predicted[1])[-1]["predicted"] == 100
    assert len(pq.read_table(f"{folder}/out/predictions")) == 100


def test_job_with_a_bad_path_fails_and_names_it(submissions: Submissions) -> None:
    code, output = submissions["bad path"].result()

    assert code != 0
    assert events(output)[-1]["code"] == 65, output
    assert "/no/such/data" in events(output)[-1]["reason"]


PRETEND = """
import sys, ray
from nanograd.cli import main
ray.__version__ = "2.59.0"
main(sys.argv[1:])
"""


def refusal(head: Head, program: list[str], environment: dict[str, str]) -> str:
    """The reason for which training does not join the head, given within seconds."""
    words = ["train", "--data", "sample", "--output", "/no/run", "--address", head.address]
    done = subprocess.run(
        [sys.executable, *program, *words],
        env=environment, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 69, done.stdout + done.stderr
    assert "gcs_client" not in done.stderr
    reason: str = events(done.stdout)[-1]["reason"]
    return reason


def test_wrong_token_or_none_is_refused_by_cluster_and_jobs(
    head: Head, submissions: Submissions, others_environment: dict[str, str], tmp_path: Path
) -> None:
    code, _ = submissions["wrong token"].result()
    none = {name: head.environment[name] for name in head.environment if name[:8] != "RAY_AUTH"}

    assert code != 0
    for environment in (others_environment, {**none, "HOME": str(tmp_path)}):
        assert "token" in refusal(head, ["-m", "nanograd"], environment)


def test_other_versions_than_the_clusters_are_named(head: Head) -> None:
    reason = refusal(head, ["-c", PRETEND], head.environment)

    assert f"Ray: {ray.__version__} Python: " in reason
    assert "Ray: 2.59.0 Python: " in reason
