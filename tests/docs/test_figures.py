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


def test_both_readmes_have_the_same_commands_and_figures() -> None:
    assert commands(CHINESE) == commands(README)
    assert numbers(CHINESE) == numbers(README)
    assert sum(map(len, numbers(README))) > 30
    assert len(README.read_text().splitlines()) <= 110


def test_plots_are_current() -> None:
    for name, plot in figures.plots().items():
        assert (ROOT / "docs/pictures" / name).read_text() == plot, name


def test_newest_figure_is_found_with_its_source_and_links_to_other_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cpu, date in (("New(R)", "2026-01-03"), ("New(R)", "2026-01-02"), ("Old", "2026-01-01")):
        table = f"| what | seconds |\n| --- | --- |\n| a round | **{date[-2:]} s** |\n"
        machine = f"\n| cpu | cores |\n| --- | --- |\n| {cpu} Chip | 2 |\n"
        (tmp_path / f"speed_{cpu[:3]}_{date}.md").write_text(table + machine)
    monkeypatch.setattr(figures, "RESULTS", tmp_path)

    found = figures.find("speed", what="a r")
    text = figures.render(["speed", "what;", "seconds"])

    assert (found.number("seconds"), found.source.place) == ("03", "New Chip, 2026-01-03")
    assert "| a round | **03 s** |" in text
    links = re.findall(r"\(.*/(.*)\)", text)
    assert links == ["speed_New_2026-01-03.md", "speed_Old_2026-01-01.md"]
    with pytest.raises(LookupError, match="speed_"):
        figures.find("speed", what="another")
    with pytest.raises(SystemExit, match="no column 'hours'"):
        figures.render(["speed", "what;", "hours"])
