"""The dashboard queries exactly the metrics that the code exports."""

import json
import re
from itertools import combinations

from tests.conftest import ROOT

PANELS = json.loads((ROOT / "deploy/grafana.json").read_text())["panels"]
# Ray and Prometheus add a prefix and suffixes to the name of a metric.
EXPORTED_NAME = re.compile(r"ray_(nanograd_\w+?)(?:_total|_bucket|_sum|_count)?\b")


def test_dashboard_queries_every_metric_and_no_other() -> None:
    source = (ROOT / "nanograd/distributed/prometheus.py").read_text()
    queries = [target["expr"] for panel in PANELS for target in panel["targets"]]

    queried = {name for query in queries for name in EXPORTED_NAME.findall(query)}
    assert queried == set(re.findall(r'"(nanograd_\w+)"', source))
    for query in queries:
        assert [query.count(each) for each in "([{"] == [query.count(each) for each in ")]}"]
        assert '{output=~"$output"}' in query


def test_panels_do_not_overlap_and_are_described() -> None:
    places = [panel["gridPos"] for panel in PANELS]

    for one, other in combinations(places, 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
    assert max(place["x"] + place["w"] for place in places) <= 24
    assert len({panel["id"] for panel in PANELS}) == len({each["title"] for each in PANELS}) == 9
    assert all(panel["description"] for panel in PANELS)
