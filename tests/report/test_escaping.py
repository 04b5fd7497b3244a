"""Hostile strings in every field that comes from files appear as text in the reports."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanograd.jobs.output import Manifest
from nanograd.jobs.receipts import Written
from nanograd.report import prediction_report, training_report
from nanograd.report.html import render
from tests.helpers.reports import check_page

HOSTILE = "'\"></title></style></script></td><hostile onload=x>&amp;{{ 7 * 7 }}{% x %}"


def poison(value: Any) -> Any:
    """Return a JSON value whose strings are hostile; keys stay."""
    if isinstance(value, dict):
        return {key: poison(each) for key, each in value.items()}
    if isinstance(value, list):
        return [poison(each) for each in value]
    return value + HOSTILE if isinstance(value, str) else value


def poison_keys(value: dict[str, Any]) -> dict[str, Any]:
    return {key + HOSTILE: each for key, each in poison(value).items()}


def check_escaped(html: str, expected: list[Any]) -> None:
    page = check_page(html)
    assert "hostile" not in page.tags
    assert "onload" not in dict(page.attributes)
    assert [each for each in expected if isinstance(each, str) and each not in page.text] == []


def test_training_report_escapes_every_field(run, few_digits):
    finished = training_report.read_run(str(run))
    event = {"time": "now", "event": "refused", "round": 7, "sentence": "a sentence"}
    failure = {"time": "now", "event": "lost", "round": 8, "sentence": HOSTILE}
    hostile = replace(
        finished,
        folder=HOSTILE,
        config=poison_keys(finished.config),
        events=[poison(event), failure],
        model=replace(finished.model, about=poison(finished.model.about)),
        versions=poison_keys(finished.versions),
    )

    html = training_report.build(hostile, few_digits.test).html

    about = hostile.model.about
    expected = [*hostile.config, *hostile.config.values(), *hostile.events[0].values()]
    expected += [*hostile.versions, *hostile.versions.values()]
    check_escaped(html, [*expected, HOSTILE, about["data"], about["identity"]["data_sha256"]])


def test_prediction_report_escapes_every_field(predict, tmp_path):
    out = tmp_path / f"a{HOSTILE}"
    out.parent.mkdir(parents=True)
    predict(193).rename(out)
    manifest, origin = Manifest.read(str(out)), f"a/{HOSTILE.replace('/', '')}"
    source = {"path": origin, "source_file": origin}
    summary = json.loads((out / "_summary.json").read_text())
    worst = [each | source for each in summary["worst"]]
    reasons = summary | {"reasons": {HOSTILE: 1}, "worst": worst}
    (out / "_summary.json").write_text(json.dumps(reasons))
    columns = [*source.items(), ("reason", HOSTILE), ("detail", HOSTILE)]
    for file in [*out.rglob("_review/*"), *out.rglob("quarantine/*")]:
        table = pq.read_table(file)
        for name, value in columns:
            if name in table.column_names:
                place = table.schema.get_field_index(name)
                table = table.set_column(place, name, pa.array([value] * len(table)))
        pq.write_table(table, file)
    shown = {f"predictions/{HOSTILE}": Written(7, HOSTILE)}
    [receipt] = manifest.receipts
    receipt = replace(receipt, files=receipt.files | shown)
    job = {"command": "predict"} | poison_keys(manifest.job)
    replace(manifest, job=job, receipts=[receipt]).commit(str(out))

    html = prediction_report.build(str(out)).html

    check_escaped(html, [*job, *job.values(), *shown, HOSTILE, f"{out}/quarantine"])
    titles = check_page(html).values("title")
    assert {title.partition(", row")[0] for title in titles} == {origin}


def test_drawing_pad_escapes_the_nets():
    run = SimpleNamespace(model=SimpleNamespace(nets=[None]))

    html = render("draw.html", run=run, packed={"nets": [{"data": HOSTILE}]}, code="")

    check_escaped(html, [])
    assert html.count("</script>") == 2
