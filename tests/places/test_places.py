"""Train and predict in places that are poorer than a usual machine: docs/places.md lists them.

Each ends with a result, or with a sentence that names the cause and the documented exit code.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from nanograd.digits.dataset import Mnist
from simulators.places import FOLDER, PLACES, Place
from tests.places.rows import write_rows

pytestmark = pytest.mark.places

TRAIN = ("train", "--data", "sample", "--epochs", "1", "--hidden", "16", "--warmup", "2")
OK = (0, "")
# Place: exit code and reason with --workers 0 and with 2, where they are not 0.
ENDS: dict[str, tuple[tuple[int, str], tuple[int, str]]] = {
    "a root that is read only, and no folder for temporary files": (OK, (74, "set TMPDIR")),
    "no network, not even with itself": (OK, (69, "Network is unreachable.*; --workers 0 works")),
    "a TMPDIR with a long name": (OK, (69, "path length cannot exceed .*; --workers 0 works")),
}
WARNINGS = {
    "processes hidden from each other": "travel in calls",
    "no anonymous files": "travel in calls",
}


@pytest.fixture(params=PLACES)
def name(request: pytest.FixtureRequest) -> str:
    if reason := PLACES[request.param].unavailable():
        pytest.skip(reason)
    return str(request.param)


def nanograd(place: Place, here: Path, *words: str | bytes) -> tuple[int, dict[str, Any], str]:
    """Run a command; return its exit code, its result line and what it logged."""
    done = place.run(here, "python", "-m", "nanograd", *words)
    assert done.stdout, done.stderr.decode(errors="replace")
    last = json.loads(done.stdout.splitlines()[-1])
    return done.returncode, last, done.stderr.decode(errors="replace")


def test_place_gives_a_result_or_a_reason(name: str, tmp_path: Path, sample: Mnist) -> None:
    place, ends = PLACES[name], ENDS.get(name, (OK, OK))
    write_rows(sample, tmp_path / "rows.parquet")
    folder = os.fsencode(FOLDER) + b"/" + place.folder
    for workers, (code, reason) in zip("02", ends, strict=True):
        run, output = folder + b"/run" + workers.encode(), folder + b"/read" + workers.encode()

        trained = nanograd(place, tmp_path, *TRAIN, "--workers", workers, "--output", run)

        assert trained[0] == code, trained[2]
        if code:
            assert re.search(reason, trained[1]["reason"]), trained[1]
            continue
        words = ("predict", f"{FOLDER}/rows.parquet", "--workers", workers)
        predicted = nanograd(
            place, tmp_path, *words, "--model", run + b"/model", "--output", output
        )
        assert predicted[0] == 0, predicted[2]
        assert predicted[1]["predicted"] == 193
        assert (WARNINGS.get(name, "") in trained[2]) or workers == "0"
