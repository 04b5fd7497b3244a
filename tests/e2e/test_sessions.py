"""A private Ray leaves the process as it was, and its logs after a failure."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanograd.digits.dataset import Mnist
from nanograd.models import model as model_io
from tests.conftest import environment_without_ray
from tests.helpers.head import Head
from tests.helpers.models import some_model
from tests.helpers.processes import run_python

PROGRAM = """
import json, os, sys
import ray
from nanograd.distributed.cluster import session
from nanograd.errors import InternalError

before = dict(os.environ)
with session("local", 1):
    token = os.environ["RAY_AUTH_TOKEN"]
between = dict(os.environ)
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": sys.argv[1]}
with session(sys.argv[2]):
    cpus = ray.cluster_resources()["CPU"]
del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"]
try:
    with session("local", 1):
        again = os.environ["RAY_AUTH_TOKEN"]
        raise InternalError("mine")
except InternalError as error:
    notes = error.__notes__
changed = {name for name in before | between if before.get(name) != between.get(name)}
print(json.dumps([sorted(changed), token != again, cpus, notes]))
"""


def test_command_runs_in_the_folder_above_a_clone(tmp_path: Path, sample: Mnist) -> None:
    """Ray puts it on the path of workers, where the clone's folder hides the package."""
    (tmp_path / "nanograd" / "docs").mkdir(parents=True)
    model_io.save(some_model(), str(tmp_path / "model"))
    images = [image.tobytes() for image in sample.test.images[:7]]
    pq.write_table(pa.table({"image": images}), tmp_path / "rows.parquet")
    words = ["predict", "rows.parquet", "--model", "model", "--output", "out", "--workers", "1"]

    done = subprocess.run(
        [Path(sys.executable).with_name("nanograd"), *words], cwd=tmp_path,
        env=environment_without_ray(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["predicted"] == 7


def test_private_ray_leaves_the_environment_and_after_a_failure_its_logs(head: Head) -> None:
    token = head.environment["RAY_AUTH_TOKEN_PATH"]
    program = PROGRAM.replace("sys.argv[1]", repr(token)).replace("sys.argv[2]", repr(head.address))

    done = run_python(program)

    assert done.returncode == 0, done.stderr
    changed, is_new, cpus, [note] = json.loads(done.stdout)
    assert (changed, is_new, cpus) == ([], True, 4)
    kept = Path(note.removeprefix("Ray's logs are in "))
    assert list(kept.glob("*/gcs_server.out"))
    shutil.rmtree(kept)
