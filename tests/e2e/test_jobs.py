"""The programs of jobs/ under `ray job submit`, on a head that requires a token."""

import re
import shlex
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
# A driver of another version of Ray.
PRETEND = """
import sys, ray
from nanograd.cli import main
ray.__version__ = "2.59.0"
main(sys.argv[1:])
"""
Ended = dict[str, "Future[tuple[int, str]]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def ended(head: Head, png_folder: Path, rows: Path, trained: str, folder: Path) -> Iterator[Ended]:
    """Jobs, and commands that may not join; they run at the same time, because most only wait."""
    (folder / "token").write_text("0" * 64)
    token = {**head.environment, "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    none = {name: head.environment[name] for name in head.environment if name[:8] != "RAY_AUTH"}
    # Together at most the four CPUs of the head: a job waits only ten seconds for its CPUs.
    train = ("python", "jobs/train.py", "--workers", "2", "--epochs", "2", "--data")
    ingest = ("python", "jobs/ingest.py", str(png_folder / "4"), "--output", f"{folder}/rows")
    inputs = map(str, sorted(rows.iterdir())[:3])
    predict = ("python", "jobs/predict.py", *inputs, "--model", trained, "--output")
    commands = (
        (*ingest, "--workers", "1"),
        (*predict, f"{folder}/out", "--workers", "1"),
        (*train, "/no/data", "--output", f"{folder}/bad"),
    )

    def join(*program: str, environment: dict[str, str]) -> tuple[int, str]:
        words = ["train", "--data", "sample", "--output", "/no/run", "--address", head.address]
        done = subprocess.run(
            [sys.executable, *program, *words], env=environment, text=True, timeout=60,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    with ThreadPoolExecutor(3) as pool:
        yield {
            "train": pool.submit(
                head.submit, *train, "sample", *PORTABLE, "--output", f"{folder}/run"
            ),
            "ingest, predict, bad path": pool.submit(
                head.submit, "sh", "-c", " && ".join(map(shlex.join, commands))
            ),
            "wrong token": pool.submit(join, "-m", "nanograd", environment=token),
            "no token": pool.submit(
                join, "-m", "nanograd", environment={**none, "HOME": str(folder)}
            ),
            "other version": pool.submit(join, "-c", PRETEND, environment=head.environment),
        }


def test_jobs_train_ingest_and_predict_and_one_with_a_bad_path_fails_and_names_it(ended, folder):
    code, log = ended["train"].result()
    failed, logs = ended["ingest, predict, bad path"].result()

    assert code == 0, log
    assert failed != 0
    [trained] = events(log)
    ingested, predicted, error, *_ = events(logs)  # the log of a job that failed comes twice
    # Progress and the last sentence are in the job's log, without a terminal's escapes.
    for line in (
        r"^train  epoch 2/2  round \d+/\d+  .* rounds/s  .*validation [\d.]+ %",
        r"^ingest  part (\d+)/\1  row 100/100  .* rows/s  0 quarantined$",
        r"^predict  part (\d+)/\1  row 63/63  .* rows/s  3 quarantined$",
    ):
        assert re.search(line, log + logs, re.MULTILINE), log + logs
    assert len(set(re.findall(r"^next: .*", log + logs, re.MULTILINE))) == 3
    assert "\x1b[?25" not in log + logs
    assert trained["workers"] == 2
    assert ingested["ingested"] == 100
    assert predicted["predicted"] == len(pq.read_table(f"{folder}/out/predictions")) == 60
    assert trained["report"] == f"{folder}/run/report.html"
    assert predicted["report"] == f"{folder}/out/report.html"
    assert error["code"] == 65
    assert "/no/data" in error["reason"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("wrong token", ["token"]),
        ("no token", ["token"]),
        ("other version", [f"Ray: {ray.__version__} Python: ", "Ray: 2.59.0 Python: "]),
    ],
)
def test_wrong_token_or_version_is_refused(ended, case, words):
    code, output = ended[case].result()

    assert code == 69, output
    assert "gcs_client" not in output
    assert [word for word in words if word not in events(output)[-1]["reason"]] == []
