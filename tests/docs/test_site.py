"""The site builds without a warning, with every page in its list, and makes no requests."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.helpers.processes import run

REQUEST = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//[^\s"'>]+|url\(["']?(?:https?:)?//[^)]+|@import\b"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", "."]
    done = run(*build, str(folder), "-d", f"{folder}-doctrees", folder=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_site_makes_no_requests(site):
    files = [file for kind in ("html", "css", "js") for file in site.rglob(f"*.{kind}")]

    found = [
        (file.name, match[0]) for file in files for match in REQUEST.finditer(file.read_text())
    ]

    assert len(files) > 50
    assert found == []


def test_search_finds_pages_with_their_texts_and_no_records_of_decisions(site):
    code = (site / "searchindex.js").read_text()
    index = json.loads(code.removeprefix("Search.setIndex(").removesuffix(")"))
    code = (site / "_static/texts.js").read_text()
    texts = json.loads(code.removeprefix("const TEXTS = ").removesuffix(";\n"))

    found = {index["docnames"][place] for place in np.hstack(list(index["terms"].values()))}
    assert found <= texts.keys()
    assert not any(name.startswith(("docs/decisions", "benchmarks")) for name in found)
    places = index["terms"]["accuraci"]
    assert {"README", "docs/train"} <= {index["docnames"][place] for place in places}
    assert '<section id="data">' in texts["docs/train"]
    assert "deskews the digit" in texts["docs/models"]
    scripts = [
        name for name in ("texts.js", "search.js") if name in (site / "search.html").read_text()
    ]
    assert scripts == ["texts.js", "search.js"]


def test_relative_links_of_the_site_resolve(site):
    broken = [
        (page.name, link)
        for page in site.rglob("*.html")
        for link in re.findall(r'(?:href|src)="([^"#?:]+)(?=["#?])', page.read_text())
        if not (page.parent / link).exists()
    ]

    assert broken == []
