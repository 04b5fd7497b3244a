"""Change the code on purpose, one place at a time, and check that tests fail.

    python -m scripts.mutants [AREA ...] [--only TEXT]

`tests/mutants/AREA.toml` holds the changes of an area:

    [[mutant]]
    name = "hosts whose totals have arrived are not counted"
    file = "nanograd/distributed/all_reduce.py"
    old = "inbox.totals.add(header.sender)"
    new = "pass"
    tests = ["tests/distributed/test_mesh.py"]

`old` must occur once in the file. Each mutant is applied to a copy of the repository, in which its
tests run. The mutant is found if one of its tests fails, or if they do not end. The exit code is 1
if tests fail without a mutant, or pass with one. If they pass with a mutant, either a test is
missing, or the changed code has no effect and can be removed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "tests/mutants"
# Tests that run for more seconds count as hanging. The tests of one mutant need a few seconds.
TIMEOUT_S = 300
# Exit code of pytest if a test failed; other codes above 0 mean that tests could not run.
_FAILED = 1
_NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "demo")


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A change that tests must find."""

    area: str  # the name of its table
    name: str  # the wrong behaviour, as a sentence
    file: str  # relative to the repository
    old: str  # occurs once in the file
    new: str
    tests: Sequence[str]  # files or names of tests, for pytest

    def apply(self, root: Path) -> None:
        """Change the file below a folder.

        Raises:
            ValueError: `old` does not occur, or more than once.
        """
        path = root / self.file
        text = path.read_text()
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.area}: {self.name}: `old` occurs {count} times in {self.file}")
        path.write_text(text.replace(self.old, self.new))


def read_tables(areas: Iterable[str] = ()) -> list[Mutant]:
    """Return the mutants of some areas, of all by default.

    Raises:
        FileNotFoundError: there is no such area.
    """
    paths = [TABLES / f"{area}.toml" for area in areas] or sorted(TABLES.glob("*.toml"))
    return [
        Mutant(area=path.stem, **fields)
        for path in paths
        for fields in tomllib.loads(path.read_text())["mutant"]
    ]


def run_tests(root: Path, tests: Sequence[str]) -> int | None:
    """Run tests in a copy of the repository; return pytest's exit code, None if they do not end."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    variables = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(  # noqa: S603 - our own tests
            command, cwd=root, env=variables, capture_output=True, timeout=TIMEOUT_S, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return None


def survivors(mutants: Sequence[Mutant], root: Path) -> Iterator[Mutant]:
    """Yield the mutants that the tests do not find, and print the outcome of every mutant.

    Args:
        mutants: the mutants to try.
        root: a copy of the repository, which is restored after each mutant.
    """
    for mutant in mutants:
        path, began = root / mutant.file, monotonic()
        text = path.read_text()
        mutant.apply(root)
        code = run_tests(root, mutant.tests)
        path.write_text(text)
        results = {None: "found, by a hang", _FAILED: "found", 0: "SURVIVES"}
        result = results.get(code, f"NO TEST RAN (pytest's exit code {code})")
        seconds = f"{monotonic() - began:.0f} s"
        sys.stdout.write(f"{result:16} {mutant.area}: {mutant.name} ({seconds})\n")
        sys.stdout.flush()
        if code not in (None, _FAILED):
            yield mutant


def main() -> int:
    """Try all mutants of the areas; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("areas", nargs="*", metavar="AREA", help="default: all")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose name contains it")
    arguments = parser.parse_args()
    mutants = [each for each in read_tables(arguments.areas) if arguments.only in each.name]
    with TemporaryDirectory(prefix="nanograd-mutants-") as folder:
        root = Path(folder) / "copy"
        shutil.copytree(ROOT, root, ignore=_NOT_COPIED)
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        if run_tests(root, tests) != 0:
            sys.stderr.write(f"the tests fail without any change: pytest {' '.join(tests)}\n")
            return 1
        remaining = list(survivors(mutants, root))
    sys.stdout.write(f"{len(mutants) - len(remaining)} of {len(mutants)} found\n")
    return 1 if remaining or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
