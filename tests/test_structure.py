"""The shape of the package: sizes, names, imports and words."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "nanograd"
MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted({file.parent for file in MODULES})
TEXTS = [
    *MODULES,
    *(file for kind in ("js", "css", "html") for file in sorted(PACKAGE.rglob(f"*.{kind}"))),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]

# Raised from 12,900 and 16,000 for servers on every host, leases, one rule for the pixels of all
# kinds of columns, outputs that grow, portable bits, pages that do not fit into memory, files of an
# output cut by rows and values, faults at each request to a store, pages whose blocks all run,
# rows, pictures and CSV files as input of every command, pictures as people take them, allographs,
# probabilities, what is unfamiliar, rows to review, pale pens in shadow, blank sheets, pages
# whose probabilities are Python's, and sheets, boards and boxes around a digit. Lower them whenever
# something can go.
MAX_LINES = {"nanograd": 21_240, "tests": 25_790}
MAX_TOP_MODULES, MAX_MODULES = 9, 11
MIN_MODULE_LINES, MAX_MODULE_LINES = 60, 450
# Modules outside the limits of lines, each with the reason.
OTHER_SIZES: dict[str, str] = {
    "nanograd/models/model_card.py": "its text is in model_card.md",
    "nanograd/nn/schedules.py": "a topic of its own in every training library",
    "nanograd/runtime/randomness.py": "the one place where random streams are keyed",
    "nanograd/training/recipe.py": "everything that determines the bits, and nothing else",
}

# Decisions taken on what a message says.
MESSAGE_TESTS = {
    r" in (trouble|reason|sentence|message|error)\b(?! is)": "a message is searched for a word",
    r"\bin str\((error|exception|cause)\)": "an exception's text is searched for a word",
    r"\.(starts|ends)with\(f?[\"'][^\"']*[a-z] [^\"']*[\"']": "a sentence is compared",
    r"\.(starts|ends)with\((WARNING|ERROR)\b": "a message's prefix stands for its severity",
    r"[=!]= f?[\"'][^\"']*[a-z] [a-z][^\"']*[\"']": "a sentence is compared",
}

# Words that technical English has better ones for, and those.
JARGON = {
    r"houses?|rooms?": "project, package, module, space",
    r"walls?|doors?|journeys?": "boundary, entry point, data flow",
    r"floors?|ground": "layer, base layer, lower bound",
    r"mend(s|ed|ing)?": "fix, repair",
    r"anew": "again",
    r"whoever|somebody|someone|nobody": "the thing by its name",
    r"(is|are|was|were) (not )?there(?! (a|an|any|no|are|is)\b)": "exists",
    r"look(s|ed|ing)? at": "inspect, query",
    r"(tells?|told) (of|in|about)|is told|are told": "log, emit, report",
    r"def _?(say|tell|ask|look_at|show)": "log, emit, query, inspect, render",
    r"how far": "progress",
    r"who (does|do|computes|reads|holds|takes|hangs)": "the thing by its name",
    r"set upright|leans?|leaning": "deskew, slant",
    r"misread|read(s|ing)? (the |a |of )?digits?|digits? (is|are) read": "classify, predict",
    r"(workers?|servers?|actors?|hosts?|nodes?) (is |are |was |were )?lost": "failed",
    r"lost (workers?|servers?|actors?|hosts?|nodes?)": "failed",
    r"hung|hangs": "unresponsive",
    r"stretch(es)? of rounds|(a|each|next) stretch": "segment of rounds",
    r"committees?": "ensemble",
    r"(other|redrawn|written) styles?|styles": "handwriting variants",
}
# Names that other programs depend on, terms of the field, and titles of papers.
TERMS = [
    r"\bground truth\b",
    r"\bmisread\.py\b",
    r"\b(np|math)\.floor\b|\bfloor\(|\bimport .*\bfloor\b|\"Floor\"",
    r"[\"'`](lost|hung)[\"'`]|\"lost\":",
    r"\bStyles of the marks\b|\bstyles, by\b",
    r"--styles\b|[\"'`]styles[\"'`]|\bstyles ?[=:]|\.styles\b",
    r"--committee\b|[\"'`]committee[\"'`]|\bcommittee ?[=:]|\.committee\b|_COMMITTEE\b",
    r"[^.]*\bcommittee[^.]*Meier|Meier[^.]*\bcommittee[^.]*",
]


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def num_lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def repeated(names: Iterator[str]) -> list[str]:
    return sorted(each for each, count in Counter(names).items() if count > 1)


def dotted(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {dotted(file): file for file in MODULES}


def imported(file: Path, *, in_functions: bool) -> set[str]:
    """Modules of the package that a file imports, those for type checkers left out."""
    found: set[str] = set()
    queue: list[ast.AST] = [ast.parse(file.read_text())]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{each.name}" for each in node.names} & FILES.keys()
            found |= below or {node.module}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            queue += node.orelse
        elif in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            queue += ast.iter_child_nodes(node)
    return found & FILES.keys() - {"nanograd"}


def package_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("folder", MAX_LINES)
def test_lines_of_python_stay_within_the_limit(folder: str) -> None:
    assert sum(map(num_lines, (ROOT / folder).rglob("*.py"))) <= MAX_LINES[folder]


@pytest.mark.parametrize("package", PACKAGES, ids=name)
def test_package_has_few_modules(package: Path) -> None:
    modules = {file.stem for file in package.glob("*.py")}

    if package == PACKAGE:
        assert len(modules) <= MAX_TOP_MODULES, modules
    else:
        assert len(modules - {"__init__"}) <= MAX_MODULES, modules


def test_modules_are_neither_tiny_nor_huge() -> None:
    sizes = {name(file): num_lines(file) for file in MODULES if file.stem[:2] != "__"}

    outside = {
        file: size for file, size in sizes.items()
        if not MIN_MODULE_LINES <= size <= MAX_MODULE_LINES
    }  # fmt: skip
    assert {file: outside[file] for file in outside if file not in OTHER_SIZES} == {}
    assert OTHER_SIZES.keys() <= outside.keys()


def test_names_of_modules_and_packages_are_unique() -> None:
    modules = (file.stem for file in MODULES if file.stem[:2] != "__")
    packages = (package.name for package in PACKAGES)

    assert repeated(each for names in (modules, packages) for each in names) == []


def test_names_of_public_classes_are_unique() -> None:
    classes = (
        node.name
        for file in MODULES
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )

    assert repeated(classes) == []


def test_imports_between_files_have_no_cycle() -> None:
    graph = {module: imported(file, in_functions=False) for module, file in FILES.items()}

    TopologicalSorter(graph).prepare()  # raises CycleError


def test_imports_between_packages_have_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for module, file in FILES.items():
        if module != "nanograd":  # its names are imported where they are used
            here = package_of(module)
            used = {package_of(each) for each in imported(file, in_functions=True)}
            graph.setdefault(here, set()).update(used - {here})

    TopologicalSorter(graph).prepare()


def test_nothing_is_decided_by_the_text_of_a_message() -> None:
    found = [
        f"{name(file)}:{number}: {why}: {line.strip()}"
        for file in MODULES
        for number, line in enumerate(file.read_text().splitlines(), 1)
        for pattern, why in MESSAGE_TESTS.items()
        if not line.lstrip().startswith((">>>", "#")) and re.search(pattern, line)
    ]

    assert found == []


@pytest.mark.parametrize("file", TEXTS, ids=name)
def test_words_are_those_of_the_field(file: Path) -> None:
    text = re.sub("|".join(TERMS), lambda term: "\n" * term[0].count("\n"), file.read_text())

    found = [
        f"{number}: {match[0]!r}, better {better}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, better in JARGON.items()
        for match in re.finditer(rf"\b({pattern})\b", line, re.IGNORECASE)
    ]
    assert found == []
