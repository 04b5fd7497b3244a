"""Photos of every kind, and rows of every kind of input, become what is stored.

So a refactoring changes no pixel and no prediction. To store others, after a change that is meant
to change them:

    .venv/bin/python -m tests.golden.test_stored_outputs
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from nanograd.runtime import kernel
from tests.conftest import ROOT
from tests.helpers.processes import run_python

FOLDER = Path(__file__).parent
SCRIPTS = ("pictures", "predictions")

pytestmark = pytest.mark.skipif(bool(kernel.missing_features()), reason="needs AVX2")


def run_script(name: str, folder: Path) -> dict[str, Any]:
    code = (
        f"import runpy, sys; sys.argv[1:] = [{str(folder)!r}]; "
        f"runpy.run_module('tests.golden.{name}', run_name='__main__')"
    )
    done = run_python(code, ROOT, **kernel.variables())
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_outputs_are_the_stored_ones(name, tmp_path):
    stored = json.loads((FOLDER / f"{name}.json").read_text())

    found = run_script(name, tmp_path)

    if found["versions"] != stored["versions"]:
        pytest.skip(f"stored with {stored['versions']}, these are {found['versions']}")
    assert found["kinds"] == stored["kinds"]


if __name__ == "__main__":
    for script in SCRIPTS:
        with tempfile.TemporaryDirectory() as made:
            text = json.dumps(run_script(script, Path(made)), indent=1)
        (FOLDER / f"{script}.json").write_text(f"{text}\n")
