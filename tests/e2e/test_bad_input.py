"""Each mistake: the documented exit code, one sentence that names what is wrong, nothing left."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from tests.conftest import Outcome
from tests.helpers.folders import contents

TRAIN = "train --data sample --epochs 1 --output run"
ALONE = f"{TRAIN} --workers 0"
IN_A_JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
URI = "s3://KEY:SECRET@bucket/key"
INFO = "data info --data sample"


def assert_refused(outcome: Outcome, code: int, *words: str) -> None:
    """Check that a command ended with this code and one sentence that has these words."""
    last = outcome.last
    assert (outcome.code, last["event"], last["code"]) == (code, "error", code)
    assert [word for word in words if word not in last["reason"]] == [], last["reason"]
    assert "\n" not in last["reason"]
    assert "Traceback" not in outcome.stderr
    assert "SECRET" not in outcome.stdout + outcome.stderr


REFUSED: list[tuple[int, str, str]] = [
    (2, f"{TRAIN} --loss hinge", "hinge --loss"),
    (2, f"{TRAIN} --epochs many", "many --epochs"),
    (2, f"{TRAIN} --workers 9", "--workers --shards"),
    (2, f"{TRAIN} --address ray://127.0.0.1:10001", "submit"),
    (2, f"{TRAIN} --address 127.0.0.1", "host:port"),
    (2, f"{TRAIN} --address head:", "host:port"),
    (65, f"{TRAIN} --config none.toml", "none.toml"),
    (2, f"{TRAIN} --config=", "--config is empty; name a TOML file"),
    (65, f"{TRAIN} --data no/such/folder", "no/such/folder"),
    (65, "data fetch --mirror file:///nowhere/", "cannot be downloaded"),
    (69, f"{TRAIN} --address 127.0.0.1:1", "127.0.0.1:1"),
    (73, f"{ALONE} --output /dev/full/run", "/dev/full is no folder"),
    (73, f"{ALONE} --output foreign --overwrite", "thesis.tex"),
    (73, f"{ALONE} --output mine.png/run", "mine.png"),
    (73, "train --data none --output mine.png/run", "mine.png"),
    (73, "ingest none --output mine.png/run", "mine.png"),
    (73, "predict none --output mine.png/run", "mine.png"),
    (73, "data export --data none --output mine.png/png", "mine.png"),
    (73, "ingest . --workers 0 --output loop", "loop is no folder"),
    (73, "ingest . --workers 0 --output /dev/null", "/dev/null is a"),
    (73, "ingest . --dry-run --workers 0 --output mine.png/run", "mine.png"),
    (73, "inspect none --output mine.png/sheet.png", "mine.png"),
    (73, "export --model none --output mine.png/model.onnx", "mine.png"),
    (73, "inspect none --output folder.png", "folder.png"),
    (73, "export --model none --output folder.onnx", "folder.onnx is a folder"),
    (65, "predict rows --workers 0", "rows"),
    (65, "ingest rows --output out --workers 0", "rows"),
    (2, f"train --data {URI} --output run", "credentials"),
    (2, f"train --data sample --output {URI} --workers 0", "credentials"),
    (2, f"{TRAIN} --mlflow {URI.replace('s3', 'https')}", "credentials"),
    (2, f"predict rows --model {URI} --output out", "credentials"),
    (2, f"ingest {URI} --output out", "credentials"),
    (2, f"ingest pictures --output {URI}", "credentials"),
    (2, f"inspect {URI} --output sheet.png", "credentials"),
    (2, f"evaluate --model {URI}", "credentials"),
    (2, f"export --model {URI} --output model.onnx", "credentials"),
    (2, f"report {URI}", "credentials"),
    (2, f"data info --data {URI}", "credentials"),
]


@pytest.mark.parametrize(("code", "words", "reason"), REFUSED)
def test_mistake_is_refused_with_its_code_and_leaves_nothing(
    nanograd, tmp_path, code, words, reason
):
    (tmp_path / "mine.png").write_bytes(b"dear")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.tex").write_bytes(b"dear")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("folder.png", "folder.onnx"):
        (tmp_path / name).mkdir()

    done = nanograd(*words.split())

    assert_refused(done, code, *reason.split())
    assert contents(tmp_path) == {"mine.png": b"dear", "foreign/thesis.tex": b"dear"}


@pytest.mark.parametrize(
    ("words", "variables", "reason"),
    [
        ("train --data sample --output runs/1", IN_A_JOB, "--output runs/1 is relative"),
        ("train --data sample", IN_A_JOB, "--output is missing"),
        ("ingest pictures --output rows", IN_A_JOB, "--output rows is relative"),
        ("predict rows", IN_A_JOB, "--output predictions is relative"),
        (INFO, {"NANOGRAD_TRAIN_EPOCH": "3"}, "do you mean NANOGRAD_TRAIN_EPOCHS?"),
        (INFO, {"NANOGRAD_X": "3"}, "NANOGRAD_X"),
        ("predict rows", {"NANOGRAD_PREDICT_QUIET": "maybe"}, "'maybe' is not a valid boolean"),
        # Kubernetes makes these for a service with such a name.
        (INFO, {"NANOGRAD_PORT": "3"}, ""),
        (INFO, {"NANOGRAD_TRAIN_HEAD_SVC_SERVICE_HOST": "10.0.0.1"}, ""),
        (INFO, {"NANOGRAD_PORT_8265_TCP": "3"}, ""),
    ],
)
def test_relative_output_of_a_job_and_unknown_variables_are_refused(
    nanograd, tmp_path, words, variables, reason
):
    done = nanograd(*words.split(), **variables)

    if reason:
        assert_refused(done, 2, reason)
    assert done.code == (2 if reason else 0)
    assert contents(tmp_path) == {}


def test_job_writes_reports_and_reads_runs(nanograd, tmp_path):
    """The settings of a finished run are read without an output."""
    trained = nanograd(
        *TRAIN.replace(" run", f" {tmp_path}/run").split(), "--workers", "0", **IN_A_JOB
    )
    model = f"{tmp_path}/run/model"
    words = ("--model", model, "--output", f"{tmp_path}/read", "--workers", "0", "--limit", "9")
    data = ["--data", "sample", "--output", str(tmp_path / "png")]
    assert [nanograd("data", "export", *data).code for _ in range(2)] == [0, 0]
    (tmp_path / "png/7/mine.png").write_bytes(b"dear")
    assert_refused(nanograd("data", "export", *data), 73, "holds '7/mine.png'")
    for name in ("", "/", "/*"):
        data = ["--data", f"{tmp_path}/png{name}", "--output", f"{tmp_path}/png/test"]
        assert_refused(nanograd("data", "export", *data), 2, "lies in the data set")
    (tmp_path / "png/7/mine.png").unlink()
    predicted = nanograd("predict", str(tmp_path / "png"), *words, **IN_A_JOB)

    assert trained.last["report"] == f"{tmp_path}/run/report.html"
    assert predicted.last["report"] == f"{tmp_path}/read/report.html"


def test_run_that_diverges_is_76(nanograd):
    words = f"{ALONE} --optimizer sgd --learning-rate 1e30 --warmup 0"

    done = nanograd(*words.split())

    assert_refused(done, 76, "round 0")


def test_another_server_at_the_address_is_69(nanograd):
    with HTTPServer(("", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        outcome = nanograd(*TRAIN.split(), "--address", f"127.0.0.1:{server.server_port}")
        server.shutdown()

    assert_refused(outcome, 69, "Ray listens there")
