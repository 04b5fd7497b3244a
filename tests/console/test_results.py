"""Results: the summary of each names what was written, what went wrong and the next command."""

import re
from dataclasses import replace

from nanograd.console.results import Ingestion, Plan, Prediction, Training
from tests.helpers.models import some_model

INGESTED = Ingestion(output="rows", ingested=20, labelled=7, quarantined=1, reasons={"empty": 1})
PREDICTED = Prediction(output="s3://b/o", predicted=20, report="s3://b/o/report.html")


def test_summary_names_the_output_and_the_next_command():
    about = {"epochs": 3, "train_s": 9.12, "test_accuracy": 0.9903, "val_accuracy": None}
    model = replace(some_model(), about=about)
    trained = str(Training(model=model, metrics=[], directory="r"))

    assert "99.03 %" in trained
    assert "report" not in trained
    assert "nanograd predict PICTURES --model r/model" in trained
    assert "1 quarantined (1 empty)" in str(INGESTED)
    assert "nanograd predict rows" in str(INGESTED)
    assert "nanograd inspect" in str(replace(INGESTED, ingested=0))
    assert "1 file cannot be read" in str(replace(INGESTED, broken_files=1))
    unlike = replace(PREDICTED, predicted=1200, unfamiliar=7)
    assert "\n1,200 rows classified; 7 digits unlike the training digits\n" in str(unlike)
    assert "s3://b/o/predictions" in str(PREDICTED)
    assert not re.search("% of|review", str(PREDICTED))
    listed = replace(PREDICTED, output="my out", review="my out/_review.pq")
    assert "  nanograd review 'my out' corrects" in str(listed)
    listed = replace(listed, output="-x")
    assert "nanograd review ./-x corrects" in str(listed)  # `-x` would be a flag
    assert "nanograd predict ./-x" in str(replace(INGESTED, output="-x"))
    assert 'ds.dataset("s3://b/o/predictions"' in str(replace(PREDICTED, output="s3a://b/o"))


def test_summary_of_quarantine_has_the_commonest_detail_and_an_example():
    name = "a\x1b[31m\n.pq"
    first = {"path": name, "source_file": name, "source_row": 1234}
    detail = {**first, "reason": "blank", "detail": "no ink", "rows": 2}
    result = replace(PREDICTED, quarantined=2, reasons={"blank": 2}, details=[detail])

    assert "2 quarantined (2 blank)" in str(result)
    assert r"blank: no ink (first: a\x1b[31m\n.pq, row 1,234)" in str(result)


def test_results_with_arrays_are_equal_only_to_themselves():
    def results():
        yield from (Prediction(), Ingestion(), some_model())
        yield Training(model=some_model(), metrics=[], directory="r")

    assert not any(one == other for one in results() for other in results())
    assert len({*results(), *results()}) == 8


def test_result_of_a_dry_run_is_its_plan():
    facts = {"files": 1, "new_files": 1, "parts": 1, "parts_to_do": 1, "rows_to_do": 1}
    planned = Prediction(plan=Plan(**facts, estimated_s=None))

    assert planned.to_json() == {**facts, "estimated_s": None, "columns": {}}
    text = "1 file, 1 of them to read\n1 row to read in 1 of 1 part; nothing was written"
    assert str(planned) == text
    for rows, seconds, time in ((1, 90.0, ", about "), (0, 0.0, "; nothing")):
        again = Plan(**{**facts, "rows_to_do": rows}, estimated_s=seconds)
        assert f"of 1 part{time}" in str(again)
    assert len(repr(PREDICTED)) < 600
    assert "plan" not in PREDICTED.to_json()
    assert {"summary", "review", "report"} <= PREDICTED.to_json().keys()
