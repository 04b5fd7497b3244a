"""Photos of every kind become the stored 28 x 28 images, so a refactoring changes no pixel.

To store others, after a change that is meant to change pixels:

    .venv/bin/python -m tests.golden.test_pictures
"""

import json
from pathlib import Path
from typing import Any

import pytest

from nanograd.runtime import kernel
from tests.helpers.processes import run_python

FILE = Path(__file__).parent / "pictures.json"

pytestmark = pytest.mark.skipif(bool(kernel.missing_features()), reason="needs AVX2")


def normalise_photos() -> dict[str, Any]:
    done = run_python(
        "import runpy; runpy.run_module('tests.golden.pictures', run_name='__main__')",
        **kernel.variables(),
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_photos_of_every_kind_become_the_stored_images() -> None:
    stored, found = json.loads(FILE.read_text()), normalise_photos()
    if found["versions"] != stored["versions"]:
        pytest.skip(f"stored with {stored['versions']}, these are {found['versions']}")

    assert found["kinds"] == stored["kinds"]


if __name__ == "__main__":
    FILE.write_text(json.dumps(normalise_photos(), indent=1) + "\n")
