"""A private Ray leaves the process as it was, and its logs after a failure."""

import json
import shutil
from pathlib import Path

from tests.helpers.head import Head
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
