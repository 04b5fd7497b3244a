"""The tests that docs/guarantees.md names for its promises."""

import ast
import re

import pytest

from tests.conftest import ROOT

GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()
PROMISES = re.findall(
    r"^- (.*?)(?=\n[-\n])", GUARANTEES.partition("## Not promised")[0], re.M | re.S
)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise[:60])
def test_promise_names_tests_that_exist(promise):
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", promise)

    assert named
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text())
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
