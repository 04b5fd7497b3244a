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


def test_newest_figure_is_found_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = "\n| cpu | cores |\n| --- | --- |\n| Fast(R) Chip | 2 |\n"
    for date, seconds in (("2026-01-02", "1.5"), ("2026-01-01", "9")):
        table = f"| what | seconds |\n| --- | --- |\n| a round | **{seconds} s** |\n"
        (tmp_path / f"start_chip_{date}.md").write_text(table + machine)
    monkeypatch.setattr(figures, "RESULTS", tmp_path)

    found = figures.find("start", what="a r")

    assert (found.number("seconds"), found.source.place) == ("1.5", "Fast Chip, 2026-01-02")
    with pytest.raises(LookupError, match="start_"):
        figures.find("start", what="another")


def test_block_has_the_newest_table_and_links_to_other_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cpu, date in (("New", "2026-01-03"), ("New", "2026-01-02"), ("Old", "2026-01-01")):
        table = f"| what | seconds |\n| --- | --- |\n| a round | {date} |\n"
        machine = f"\n| cpu | cores |\n| --- | --- |\n| {cpu} | 2 |\n"
        (tmp_path / f"speed_{cpu}_{date}.md").write_text(table + machine)
    monkeypatch.setattr(figures, "RESULTS", tmp_path)

    text = figures.render(["speed", "what;", "seconds"])

    assert "| a round | 2026-01-03 |" in text
    links = re.findall(r"\(.*/(.*)\)", text)
    assert links == ["speed_New_2026-01-03.md", "speed_Old_2026-01-01.md"]
    with pytest.raises(SystemExit, match="no column 'hours'"):
        figures.render(["speed", "what;", "hours"])
