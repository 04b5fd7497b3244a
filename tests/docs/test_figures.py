"""Figures on pages are those of benchmarks/results, and both readmes have the same."""

import re
from pathlib import Path

from scripts import figures
from tests.conftest import ROOT
from tests.docs.test_docs import FENCE

README, CHINESE = ROOT / "README.md", ROOT / "README.zh-TW.md"


def commands(file: Path) -> list[str]:
    blocks = [block["text"] for block in FENCE.finditer(file.read_text()) if block["info"] == "sh"]
    return [re.sub(r"\s*#.*", "", line) for text in blocks for line in text.splitlines()]


def numbers(file: Path) -> list[list[str]]:
    blocks = re.findall(r"<!-- figures: .*?<!-- /figures -->", file.read_text(), re.DOTALL)
    return [re.findall(r"\d[\d.,-]*", block) for block in blocks]


def test_both_readmes_have_the_same_commands_and_figures():
    assert commands(CHINESE) == commands(README)
    assert numbers(CHINESE) == numbers(README)
    assert sum(map(len, numbers(README))) > 30
    assert len(README.read_text().splitlines()) <= 110


def sections(file: Path) -> list[tuple[int, set[str]]]:
    """Number of code blocks and tables, and the links of each section of a page."""
    parts = re.split(r"^## ", file.read_text(), flags=re.MULTILINE)
    return [
        (
            len(re.findall(r"^(?:```|\|---)", part, re.MULTILINE)),
            set(re.findall(r"\]\((.+?)\)", part)),
        )
        for part in parts
    ]


def test_both_readmes_have_the_same_sections_with_the_same_blocks_and_links():
    english, chinese = sections(README), sections(CHINESE)

    assert [count for count, _ in chinese] == [count for count, _ in english]
    for (_, here), (_, there) in zip(chinese[1:], english[1:], strict=True):
        assert here >= there
        assert {link for link in here - there if "numerics.md" not in link} == set()


def test_plots_are_current():
    for name, plot in figures.plots().items():
        assert (ROOT / "docs/pictures" / name).read_text() == plot, name
