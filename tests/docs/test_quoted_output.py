"""Messages, codes, functions and places named in the documentation are those of the program."""

import re
from dataclasses import replace
from importlib import import_module

from nanograd.console.log_lines import TextLog
from nanograd.console.results import Prediction, describe_demo
from nanograd.errors import Reason
from nanograd.runtime.events import SENTENCES, changed
from simulators.places import PLACES
from tests.conftest import ROOT
from tests.helpers.events import ROUNDS, ROWS
from tests.places.test_places import ENDS, OK


def page(name: str) -> str:
    return (ROOT / name).read_text()


def test_pages_quote_failures_progress_and_summaries_as_logged():
    shards = "shard 4 now on worker 1; shard 5 now on worker 3"
    failed = changed("lost", rank=2, round=340, how="killed", shards=shards)
    joined = changed("joined", rank=2, round=400)
    predicted = Prediction(predicted=1000, accuracy=0.987)
    progress = [TextLog(print).line(each) for each in (replace(ROUNDS, workers={}), ROWS)]
    [summary, _] = describe_demo("demo", predicted).strip().split("\nnext: ")

    assert f"```\n{failed}\n{joined}\n```\n" in page("README.md")
    assert f"```\n{summary}\n```\n" in page("README.md")
    assert "```\n{}\n{}\n```\n".format(*progress) in page("docs/report.md")


def test_cluster_page_quotes_messages_of_the_program():
    quoted = re.findall(r"^\| (?:code 69, )?`([^`]+)` \|", page("docs/cluster.md"), re.MULTILINE)
    texts = [file.read_text() for file in (ROOT / "nanograd/distributed").glob("*.py")]
    facts = {"rank": 2, "host": "north", "how": "killed", "round": 340, "seconds": 3, "copy": 300}
    facts |= {"waits_for": "host north", "reason": "", "shards": ""}
    names = ("lost", "server_lost", "host_lost", "waiting")
    texts += [SENTENCES[name].format(**facts) for name in names]

    for message in quoted:
        pieces = [each.strip() for each in re.split(r"\.\.\.|\d+-\d+", message) if each.strip()]
        assert any(all(piece in text for piece in pieces) for text in texts), message
    assert len(quoted) == 11


def test_reasons_on_the_ingest_page_exist():
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", page("docs/ingest.md"), re.MULTILINE)
    codes = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)}
    codes -= {"folder", "name", "none"}  # where labels come from

    assert codes <= set(Reason)
    assert len(codes) == 12


def test_functions_on_the_handwriting_page_exist():
    lines = re.findall(r"^\d+\. .*$", page("docs/handwriting.md"), re.MULTILINE)
    names = re.findall(r"`([a-z]+)\.([a-z_]+)`", "".join(lines))

    packages = {"form": "nanograd.digits"}
    for module, function in names:
        found = import_module(f"{packages.get(module, 'nanograd.pictures')}.{module}")
        assert callable(getattr(found, function))
    assert len(names) == 19


def test_page_lists_every_place_with_its_exit_codes():
    lines = page("docs/places.md").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:2] == "| "]

    listed = {name: cells for name, *cells in rows if name in PLACES}
    assert listed.keys() == PLACES.keys()
    for name, cells in listed.items():
        for cell, (code, _) in zip(cells, ENDS.get(name, (OK, OK)), strict=True):
            assert cell.startswith(str(code) if code else "result"), name
