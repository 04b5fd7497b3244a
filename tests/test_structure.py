"""The shape of the package: sizes and names; pyproject.toml has contracts about imports."""

import ast
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

PACKAGE = ROOT / "nanograd"
MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted({file.parent for file in MODULES})

MAX_TOP_MODULES, MAX_MODULES = 9, 11
MIN_MODULE_LINES, MAX_MODULE_LINES = 60, 450
# Modules outside the limits of lines, each with the reason.
OTHER_SIZES: dict[str, str] = {
    "nanograd/nn/schedules.py": "a topic of its own in every training library",
    "nanograd/runtime/arrays.py": "the one place where dtypes have names",
    "nanograd/runtime/randomness.py": "the one place where random streams are keyed",
}

# Decisions taken on what a message says.
MESSAGE_TESTS = {
    r" in (trouble|reason|sentence|message|error)\b(?! is)": "a message is searched for a word",
    r"\bin str\((error|exception|cause)\)": "an exception's text is searched for a word",
    r"\.(starts|ends)with\(f?[\"'][^\"']*[a-z] [^\"']*[\"']": "a sentence is compared",
    r"\.(starts|ends)with\((WARNING|ERROR)\b": "a message's prefix stands for its severity",
    r"[=!]= f?[\"'][^\"']*[a-z] [a-z][^\"']*[\"']": "a sentence is compared",
}


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def num_lines(file: Path) -> int:
    return len(file.read_text().splitlines())


@pytest.mark.parametrize("package", PACKAGES, ids=name)
def test_package_has_few_modules(package):
    modules = {file.stem for file in package.glob("*.py")}

    if package == PACKAGE:
        assert len(modules) <= MAX_TOP_MODULES, modules
    else:
        assert len(modules - {"__init__"}) <= MAX_MODULES, modules


def test_modules_are_neither_tiny_nor_huge():
    sizes = {name(file): num_lines(file) for file in MODULES if file.stem[:2] != "__"}

    outside = {
        file: size for file, size in sizes.items()
        if not MIN_MODULE_LINES <= size <= MAX_MODULE_LINES
    }  # fmt: skip
    assert {file: outside[file] for file in outside if file not in OTHER_SIZES} == {}
    assert OTHER_SIZES.keys() <= outside.keys()


def test_nothing_is_decided_by_the_text_of_a_message():
    found = [
        f"{name(file)}:{number}: {why}: {line.strip()}"
        for file in MODULES
        for number, line in enumerate(file.read_text().splitlines(), 1)
        for pattern, why in MESSAGE_TESTS.items()
        if not line.lstrip().startswith((">>>", "#")) and re.search(pattern, line)
    ]

    assert found == []


def test_private_names_of_ray_are_few_and_in_one_module_and_ray_is_of_a_known_version():
    found = {
        (name(file), each.name)
        for file in MODULES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and re.match(r"ray\.(_|core\b)", node.module or "")
        for each in node.names
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [wanted] = [Requirement(each) for each in project["dependencies"] if each.startswith("ray")]

    assert len(found) <= 3
    assert {file for file, _ in found} == {"nanograd/distributed/cluster.py"}
    assert version("ray") in wanted.specifier


def test_every_file_of_the_package_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["nanograd"]
    listed = {file for pattern in patterns for file in PACKAGE.glob(pattern)}

    files = {file for file in PACKAGE.rglob("*") if file.is_file() and file.suffix != ".pyc"}
    assert sorted(map(name, files - listed - set(MODULES))) == []
