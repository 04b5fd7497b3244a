"""Train and predict in places that are poorer than a usual machine: docs/places.md lists them.

Each ends with a result, or with a sentence that names the cause and the documented exit code.
"""

import json
import os
import re
from typing import Any

import pytest

from simulators.places import FOLDER, PLACES
from tests.places.test_versions import NUM_ROWS, TRAIN, write_rows

pytestmark = pytest.mark.places

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


@pytest.mark.parametrize("name", PLACES)
def test_place_gives_a_result_or_a_reason(name, tmp_path, sample):
    place, ends = PLACES[name], ENDS.get(name, (OK, OK))
    if reason := place.unavailable():
        pytest.skip(reason)
    write_rows(sample, tmp_path / "rows.parquet")
    folder = os.fsencode(FOLDER) + b"/" + place.folder

    def nanograd(*words: str | bytes) -> tuple[int, dict[str, Any], str]:
        """Run a command; return its exit code, its result line and what it logged."""
        done = place.run(tmp_path, "python", "-m", "nanograd", *words)
        logged = done.stderr.decode(errors="replace")
        assert done.stdout, logged
        return done.returncode, json.loads(done.stdout.splitlines()[-1]), logged

    for workers, (code, reason) in zip("02", ends, strict=True):
        run, output = folder + b"/run" + workers.encode(), folder + b"/read" + workers.encode()

        trained = nanograd(*TRAIN, "--workers", workers, "--output", run)

        assert trained[0] == code, trained[2]
        if code:
            assert re.search(reason, trained[1]["reason"]), trained[1]
            continue
        rows = ("predict", f"{FOLDER}/rows.parquet", "--workers", workers)
        predicted = nanograd(*rows, "--model", run + b"/model", "--output", output)
        assert predicted[0] == 0, predicted[2]
        assert predicted[1]["predicted"] == NUM_ROWS
        assert (WARNINGS.get(name, "") in trained[2]) or workers == "0"
