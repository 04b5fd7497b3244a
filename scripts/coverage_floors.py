"""Compare the coverage of each package, by the tests without Ray, with its floor.

    python -m scripts.coverage_floors build/coverage.json

A floor is a share of lines and branches in per cent, which was measured once and rounded down.
Raise it when coverage has grown. The exit code is 1 if a package is below its floor.
"""

import json
import sys
from collections import Counter
from pathlib import Path

# `distributed` has tests on Ray, which are not counted. A floor below 85 is the coverage by the
# tests of other packages only.
FLOORS = {
    "console": 51,
    "digits": 92,
    "images": 44,
    "jobs": 60,
    "models": 98,
    "nanograd": 50,
    "nn": 98,
    "pictures": 23,
    "report": 56,
    "runtime": 91,
    "settings": 86,
    "training": 94,
}


def measure(file: Path) -> dict[str, float]:
    """Return the covered share of lines and branches of each package, in per cent.

    Args:
        file: a JSON report of coverage.py, with branches.
    """
    covered, total = Counter[str](), Counter[str]()
    for name, entry in json.loads(file.read_text())["files"].items():
        package, found = Path(name).parent.name, entry["summary"]
        covered[package] += found["covered_lines"] + found["covered_branches"]
        total[package] += found["num_statements"] + found["num_branches"]
    return {package: 100 * covered[package] / total[package] for package in sorted(total)}


def main() -> int:
    """Print the coverage of each package; return the exit code."""
    shares = measure(Path(sys.argv[1]))
    for package, share in shares.items():
        floor = FLOORS.get(package, 0)
        sys.stdout.write(f"{package:12} {share:5.1f} %  floor {floor} %\n")
    below = [package for package in FLOORS if shares.get(package, 0) < FLOORS[package]]
    if below:
        sys.stderr.write(f"below the floor: {', '.join(below)}\n")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
