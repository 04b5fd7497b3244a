"""The documentation is correct: links resolve, quotations are exact, tables are current."""

import ast
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import nanograd
from nanograd import commands
from nanograd.images import sources
from nanograd.settings.specs import ExportSpec
from scripts import figures, write_pages
from tests.conftest import ROOT
from tests.helpers.processes import run, run_python

FOLDERS = ("benchmarks", "deploy", "docs", "examples", "nanograd")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(f for name in FOLDERS for f in ROOT.glob(f"{name}/**/*.md"))]
)
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SPANS = re.compile(r"\$\$.*?\$\$|`[^`\n]+`|<!--.*?-->", re.DOTALL)
INLINE_LINK = re.compile(r"\]\(\s*<?([^()\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE_LINK = re.compile(r"^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")
ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)
# Folders outside the checkout, split so that this file does not contain them.
LOCAL_FOLDERS = ("/" + "work/", "../" + "shared")


class Quotation(NamedTuple):
    """A block of code whose info string names its file."""

    document: Path
    file: str
    lines: list[str]


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def prose(file: Path) -> str:
    return FENCE.sub("", file.read_text())


def links(file: Path) -> list[str]:
    text = SPANS.sub("", prose(file))
    found = INLINE_LINK.findall(text) + REFERENCE_LINK.findall(text)
    return [target for target in found if not ELSEWHERE.match(target)]


def anchors(file: Path) -> set[str]:
    """Return GitHub's anchors of a document's headings, and explicit anchors."""
    seen: Counter[str] = Counter()
    found = set(ANCHOR.findall(file.read_text()))
    for heading in HEADING.findall(prose(file)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def resolves(document: Path, target: str) -> bool:
    """Return whether the file of a link exists in the repository and has the anchor."""
    place, _, anchor = target.partition("#")
    file = (document.parent / place).resolve() if place else document.resolve()
    if not (file.exists() and file.is_relative_to(ROOT.resolve())):
        return False
    return not anchor or file.suffix != ".md" or anchor in anchors(file)


def quotations() -> Iterator[Quotation]:
    for document in DOCUMENTS:
        for block in FENCE.finditer(document.read_text()):
            if match := re.search(r"\btitle=(\S+)", block["info"]):
                lines = [line.rstrip() for line in block["text"].splitlines()]
                lines = [line for line in lines if line.strip() not in ("", "...")]
                yield Quotation(document, match[1], lines)


def plain_python(document: Path) -> list[str]:
    """Return a document's blocks of Python that do not quote a file."""
    blocks = FENCE.finditer(document.read_text())
    found = [block["text"] for block in blocks if block["info"] == "python"]
    assert found
    return found


def run_alone(code: str, folder: Path) -> tuple[int, str, str]:
    """Run Python in an empty folder that is also its home; return its exit code and output."""
    folders = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(folder))
    done = run_python(code, folder, PYTHONPATH=str(ROOT), **folders)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_resolve(document):
    broken = [target for target in links(document) if not resolves(document, target)]

    assert broken == []


@pytest.mark.parametrize(
    "quotation", list(quotations()), ids=lambda each: f"{each.document.name}-{each.file}"
)
def test_quoted_lines_exist_in_their_file_in_order_with_their_indentation(quotation):
    source = [line.rstrip() for line in (ROOT / quotation.file).read_text().splitlines()]

    def is_quoted(indent: str) -> bool:
        rest = iter(source)
        return all(indent + line in rest for line in quotation.lines)

    assert quotation.lines
    assert any(is_quoted(" " * 4 * depth) for depth in range(6)), (
        f"{quotation.document} quotes lines that {quotation.file} does not contain"
    )


def test_numerics_quotes_every_module_that_it_derives_and_no_other_python():
    quoted = {each.file for each in quotations() if each.document.name == "numerics.md"}
    infos = [block["info"] for block in FENCE.finditer((ROOT / "docs/numerics.md").read_text())]

    modules = ("mlp", "losses", "activations", "optimizers")
    assert {f"nanograd/nn/{module}.py" for module in modules} <= quoted
    assert [info for info in infos if info.startswith("python") and "title=" not in info] == []


GUARANTEES, _, _ = (ROOT / "docs/guarantees.md").read_text().partition("## Not promised")
PROMISES = re.findall(r"^- (.*?)(?=\n[-\n])", GUARANTEES, re.M | re.S)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise[:60])
def test_promise_names_tests_that_exist(promise):
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", promise)

    assert named
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text())
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_python_of_its_page_runs(tmp_path):
    code, _, stderr = run_alone("\n".join(plain_python(ROOT / "docs/python.md")), tmp_path)

    assert (code, stderr) == (0, "")


def test_documented_code_uses_models_without_nanograd(tmp_path):
    digits = sources.load_test(["sample"])
    run = nanograd.train(
        data="sample", output=tmp_path / "runs/1", pixels="standard", hidden=8, epochs=1, warmup=2
    )
    commands.export(
        spec=ExportSpec(model=f"{run.directory}/model", output=str(tmp_path / "digits.onnx"))
    )
    np.save(tmp_path / "images.npy", digits.images.reshape(-1, 28, 28))
    np.save(tmp_path / "expected.npy", run.model.predict(digits.images))
    code = [
        "import numpy as np",
        "images, expected = np.load('images.npy'), np.load('expected.npy')",
        *plain_python(ROOT / "docs/models.md"),
        "assert (probabilities.argmax(axis=1) == expected).all()",
        "assert (digits == expected).mean() > 0.999",
        "assert list(tensors)[:4] == ['0.b1', '0.b2', '0.w1', '0.w2']",
        "assert all(name.startswith('reference.') for name in list(tensors)[4:])",
    ]

    assert run_alone("\n".join(code), tmp_path) == (0, "", "")


@pytest.mark.parametrize("document", write_pages.documents(ROOT), ids=name_of)
def test_generated_tables_are_current(document):
    assert write_pages.rewrite(document) == document.read_text()


README, CHINESE = ROOT / "README.md", ROOT / "README.zh-TW.md"


def shell_of(file: Path) -> list[str]:
    blocks = [block["text"] for block in FENCE.finditer(file.read_text()) if block["info"] == "sh"]
    return [re.sub(r"\s*#.*", "", line) for text in blocks for line in text.splitlines()]


def figures_of(file: Path) -> list[list[str]]:
    blocks = re.findall(r"<!-- figures: .*?<!-- /figures -->", file.read_text(), re.DOTALL)
    return [re.findall(r"\d[\d.,-]*", block) for block in blocks]


def sections(file: Path) -> list[tuple[int, set[str]]]:
    """Number of code blocks and tables, and the links of each section of a page."""
    return [
        (len(re.findall(r"^(?:```|\|---)", e, re.MULTILINE)), set(re.findall(r"\]\((.+?)\)", e)))
        for e in re.split(r"^## ", file.read_text(), flags=re.MULTILINE)
    ]


def test_both_readmes_have_the_same_commands_figures_blocks_and_links():
    english, chinese = sections(README), sections(CHINESE)

    assert shell_of(CHINESE) == shell_of(README)
    assert figures_of(CHINESE) == figures_of(README)
    assert sum(map(len, figures_of(README))) > 30
    assert len(README.read_text().splitlines()) <= 110
    assert [count for count, _ in chinese] == [count for count, _ in english]
    for (_, here), (_, there) in zip(chinese[1:], english[1:], strict=True):
        assert here >= there
        assert {link for link in here - there if "numerics.md" not in link} == set()


def test_plots_are_current():
    for name, plot in figures.plots().items():
        assert (ROOT / "docs/pictures" / name).read_text() == plot, name


def test_importing_modules_has_no_side_effects(tmp_path):
    """Libraries come first: pyarrow, Ray and SciPy start threads on import."""
    files = sorted(file for name in ("nanograd", "jobs") for file in (ROOT / name).rglob("*.py"))
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    code = f"""
import importlib, os, sys, threading
def load(modules):
    before = len(os.listdir('/proc/self/task')), threading.active_count()
    for module in modules:
        importlib.import_module(module.removesuffix('.__init__'))
    assert (len(os.listdir('/proc/self/task')), threading.active_count()) == before
import numpy, PIL.Image, pyarrow.parquet, pyarrow.fs, sklearn.base, onnx
load({[module for module in modules if ".distributed" not in module]!r})
assert 'ray' not in sys.modules
import ray.data
load({[module for module in modules if ".distributed" in module]!r})
"""

    assert run_alone(code, tmp_path) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_no_tracked_file_names_local_folders():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    names = run("git", "ls-files", folder=ROOT).stdout.splitlines()
    product = [ROOT / name for name in names if not name.startswith(("tests/", ".ci/"))]

    guilty = [
        file
        for file in product
        if file.is_file() and any(each.encode() in file.read_bytes() for each in LOCAL_FOLDERS)
    ]

    assert product
    assert guilty == []
