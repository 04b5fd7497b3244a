"""The notebooks run from top to bottom, and show what they were committed with, but for figures."""

import json
import re
from typing import Any

import pytest

from scripts.run_notebook import execute
from tests.conftest import ROOT
from tests.docs.test_docs import name_of, resolves


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


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.ipynb")), ids=name_of)
def test_notebook_has_jupyters_form_and_shows_what_it_was_committed_with(
    file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    notebook, text = json.loads(file.read_text()), ""
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        is_code = cell["cell_type"] == "code"
        more = {"execution_count", "outputs"} if is_code else set()
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | more
        text += "" if is_code else "".join(cell["source"])
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not resolves(file, link)] == []
    assert file.stat().st_size < 50_000

    again = execute(notebook)

    assert shown(again) == shown(notebook)
