"""Messages, codes and functions named in the documentation are those of the program."""

import re
from dataclasses import replace
from importlib import import_module

import pytest

from nanograd.console.log_lines import TextLog
from nanograd.console.results import Demo
from nanograd.errors import Reason
from nanograd.runtime.events import (
    FailureKind,
    HostFailed,
    RoundWaits,
    ServerFailed,
    WorkerFailed,
    WorkerJoined,
)
from tests.conftest import ROOT
from tests.helpers.events import ROUNDS, ROWS

CLUSTER = (ROOT / "docs/cluster.md").read_text()
INGEST = (ROOT / "docs/ingest.md").read_text()
LABEL_SOURCES = {"folder", "name", "none"}
QUOTED_MESSAGES = re.findall(r"^\| (?:code 69, )?`([^`]+)` \|", CLUSTER, re.MULTILINE)


def test_readme_quotes_failures_as_logged() -> None:
    failed = WorkerFailed(rank=2, round=340, how=FailureKind.KILLED, heirs={1: [4], 3: [5]})
    joined = WorkerJoined(rank=2, round=400)

    assert f"```\n{failed}\n{joined}\n```\n" in (ROOT / "README.md").read_text()


def test_readme_quotes_the_summary_of_the_demo() -> None:
    result = Demo(predicted=1000, test_accuracy=0.98, accuracy=0.987, demo_s=9.0, output="demo")

    [quoted, _] = str(result).strip().split("\nnext: ")
    assert f"```\n{quoted}\n```\n" in (ROOT / "README.md").read_text()


def test_report_page_quotes_progress_as_logged() -> None:
    lines = [TextLog(print).line(each) for each in (replace(ROUNDS, workers={}), ROWS)]

    assert "```\n{}\n{}\n```\n".format(*lines) in (ROOT / "docs/report.md").read_text()


@pytest.mark.parametrize("quoted", QUOTED_MESSAGES)
def test_cluster_page_quotes_messages_of_the_program(quoted: str) -> None:
    sources = [file.read_text() for file in (ROOT / "nanograd/distributed").glob("*.py")]
    events = [
        str(WorkerFailed(rank=2, round=340, how=FailureKind.KILLED, heirs={})),
        str(ServerFailed(round=340, reason="", copy=300)),
        str(HostFailed(host="north", round=340, how=FailureKind.KILLED)),
        str(RoundWaits(round=340, seconds=3, waits_for="host north")),
    ]

    pieces = [each.strip() for each in re.split(r"\.\.\.|\d+-\d+", quoted) if each.strip()]

    assert any(all(piece in text for piece in pieces) for text in [*sources, *events])


def test_cluster_page_quotes_all_kinds_of_messages() -> None:
    assert len(QUOTED_MESSAGES) == 12


def test_reasons_on_the_ingest_page_exist() -> None:
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", INGEST, re.MULTILINE)
    codes = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)} - LABEL_SOURCES

    assert codes <= set(Reason)
    assert len(codes) == 12


def test_functions_on_the_handwriting_page_exist() -> None:
    page = (ROOT / "docs/handwriting.md").read_text()
    names = re.findall(
        r"`([a-z]+)\.([a-z_]+)`", "".join(re.findall(r"^\| .*$", page, re.MULTILINE))
    )

    packages = {"form": "nanograd.digits"}
    for module, function in names:
        found = import_module(f"{packages.get(module, 'nanograd.pictures')}.{module}")
        assert callable(getattr(found, function))
    assert len(names) == 19
