"""Figures on pages are those of benchmarks/results, and both readmes have the same."""

import re
from pathlib import Path

import pytest

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


def test_newest_figure_is_found_with_its_source_and_links_to_other_processors(
    tmp_path, monkeypatch
):
    for cpu, date in (("New(R)", "2026-01-03"), ("New(R)", "2026-01-02"), ("Old", "2026-01-01")):
        table = (
            "| what | seconds | metres |\n| --- | --- | --- |\n"
            f"| a round | **{date[-2:]} s** |  |\n| an hour | **60 s** |  |\n"
        )
        machine = f"\n| cpu | cores |\n| --- | --- |\n| {cpu} Chip | 2 |\n"
        (tmp_path / f"speed_{cpu[:3]}_{date}.md").write_text(table + machine)
    monkeypatch.setattr(figures, "RESULTS", tmp_path)

    found = figures.find("speed", what="a r*")
    text = figures.render(["speed", "what;", "seconds"])
    some = figures.render(["speed", "(what=an", "hour|a", "r*);", "seconds"])

    assert (found.number("seconds"), found.source.place) == ("03", "New Chip, 2026-01-03")
    assert "| a round | **03 s** |\n| an hour | **60 s** |" in text
    assert "\n| seconds |\n|---|\n| **03 s** |\n| **60 s** |\n" in some
    links = re.findall(r"\(.*/(.*)\)", text)
    assert links == ["speed_New_2026-01-03.md", "speed_Old_2026-01-01.md"]
    with pytest.raises(LookupError, match="speed_"):
        figures.find("speed", what="another")
    for words, message in (
        ("what; hours", "no column 'hours'"),
        ("what=a day; seconds", "no row with 'a day'"),
        ("what; cores", "no column 'cores'"),  # of another table
        ("what; seconds; metres", "nothing in the column 'metres'"),
    ):
        with pytest.raises(SystemExit, match=message):
            figures.render(["speed", *words.split(" ")])
