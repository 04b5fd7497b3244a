import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("way", ["shared", "calls"])
def test_lost_host_changes_no_bit_and_a_new_one_takes_its_share(way: str) -> None:
    script = ROOT / "tests" / "helpers" / "node_loss.py"
    environment = {name: value for name, value in os.environ.items() if name[:4] != "RAY_"}

    done = subprocess.run(
        [sys.executable, str(script), way],
        cwd=ROOT,
        env={**environment, "RAY_AUTH_TOKEN": "0" * 64},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["actual"] == outcome["expected"]
    assert outcome["workers"] == 3
    assert {"lost", "server_lost"} & set(outcome["events"])
    assert "joined" in outcome["events"]
