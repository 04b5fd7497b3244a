"""The notebooks run from top to bottom, and show what they were committed with, but for figures."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from scripts.run_notebook import execute
from tests.conftest import ROOT
from tests.docs.test_docs import name_of, resolves

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def shown(notebook: dict[str, Any]) -> list[tuple[str, list[str], str]]:
    """Kind and forms of each output, and its text without figures: those are the machine's."""
    return [
        (
            output["output_type"],
            sorted(output.get("data", ())),
            re.sub(r"[\d.,%]+", "#", "".join(output.get("text", ""))),
        )
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
    ]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=name_of)
def test_notebook_runs_and_shows_what_it_was_committed_with(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    committed = json.loads(file.read_text())

    again = execute(committed)

    assert shown(again) == shown(committed)
    assert file.stat().st_size < 50_000


@pytest.mark.parametrize("file", NOTEBOOKS, ids=name_of)
def test_notebook_has_jupyters_form(file: Path) -> None:
    notebook = json.loads(file.read_text())

    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        wanted = {"cell_type", "id", "metadata", "source"}
        code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == wanted | code


@pytest.mark.parametrize("file", NOTEBOOKS, ids=name_of)
def test_links_of_a_notebook_lead_to_something(file: Path) -> None:
    cells = [c for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "markdown"]
    links = re.findall(r"\]\(([^)]+)\)", "".join(map(source, cells)))

    assert links
    assert [link for link in links if not resolves(file, link)] == []
