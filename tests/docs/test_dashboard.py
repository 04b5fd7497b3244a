"""The dashboard queries exactly the metrics that the code exports."""

import json
import re
from itertools import combinations
from typing import Any

import pytest

from tests.conftest import ROOT

DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
# Ray and Prometheus add a prefix and suffixes to the name of a metric.
EXPORTED_NAME = re.compile(r"ray_(nanograd_\w+?)(?:_total|_bucket|_sum|_count)?\b")


def exported_metrics() -> set[str]:
    source = (ROOT / "nanograd/distributed/prometheus.py").read_text()
    return set(re.findall(r'"(nanograd_\w+)"', source))


def test_dashboard_queries_every_metric_and_no_other() -> None:
    assert {
        name for query in QUERIES for name in EXPORTED_NAME.findall(query)
    } == exported_metrics()


@pytest.mark.parametrize("query", QUERIES)
def test_brackets_of_a_query_are_balanced(query: str) -> None:
    for opening, closing in ("()", "[]", "{}"):
        assert query.count(opening) == query.count(closing)
    assert '{output=~"$output"}' in query


def test_panels_do_not_overlap_and_fit_24_columns() -> None:
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in DASHBOARD["panels"])


def test_panels_have_unique_titles_and_a_description() -> None:
    panels = DASHBOARD["panels"]

    assert len({panel["id"] for panel in panels}) == len({each["title"] for each in panels}) == 9
    assert all(panel["description"] for panel in panels)
