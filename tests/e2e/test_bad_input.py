"""Each mistake: the documented exit code, one sentence that names what is wrong, nothing left."""

import gzip
import shutil
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from nanograd.images import sources
from scripts.make_sample import format_idx
from tests.conftest import Nanograd, Outcome
from tests.helpers.folders import contents

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TRAIN = ("train", "--data", "sample", "--epochs", "1", "--output", "run")


def assert_refused(outcome: Outcome, code: int, *words: str) -> None:
    """Check that a command ended with this code and one sentence that has these words."""
    last = outcome.last
    assert (outcome.code, last["event"], last["code"]) == (code, "error", code)
    assert [word for word in words if word not in last["reason"]] == [], last["reason"]
    assert "\n" not in last["reason"]
    assert "Traceback" not in outcome.stderr


def wrong_magic_number(data: bytes) -> bytes:
    plain = gzip.decompress(data)
    return gzip.compress(plain[:2] + b"\x0d" + plain[3:])


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        (IMAGES, lambda data: data[: len(data) // 2], ()),
        (IMAGES, wrong_magic_number, ()),
        (LABELS, lambda _: gzip.compress(format_idx(np.full(4000, 10, np.uint8))), ("10",)),
    ],
    ids=["truncated", "wrong magic number", "label out of range"],
)
def test_damaged_data_is_65(
    nanograd: Nanograd,
    tmp_path: Path,
    file: str,
    damage: Callable[[bytes], bytes],
    words: tuple[str, ...],
) -> None:
    data = Path(shutil.copytree(sources.SAMPLE, tmp_path / "data"))
    (data / file).write_bytes(damage((data / file).read_bytes()))

    outcome = nanograd(*TRAIN, "--workers", "0", "--data", str(data))

    assert_refused(outcome, 65, file, *words)
    assert not (tmp_path / "run").exists()


def test_wrong_checksum_in_the_cache_is_65_offline(nanograd: Nanograd, tmp_path: Path) -> None:
    shutil.copytree(sources.SAMPLE, tmp_path / "cache")

    outcome = nanograd("data", "fetch", "--mirror", tmp_path.as_uri() + "/nowhere/")

    assert_refused(outcome, 65, "checksum")


@pytest.mark.parametrize(
    ("code", "flags", "words"),
    [
        (2, "--loss hinge", "hinge --loss"),
        (2, "--epochs many", "many --epochs"),
        (2, "--epochs 0", "--epochs"),
        (2, "--no-such-flag", "--no-such-flag"),
        (2, "--batch-size 3 --shards 8", "--batch-size --shards"),
        (2, "--optimizer sgd --momentum 0.5", "--momentum"),
        (2, "--workers 9", "--workers --shards"),
        (2, "--address ray://127.0.0.1:10001", "submit"),
        (65, "--config none.toml", "none.toml"),
        (65, "--data no/such/folder", "no/such/folder"),
        (69, "--address 127.0.0.1:1", "127.0.0.1:1"),
        (74, "--workers 0 --output /dev/full/run", "/dev/full/run"),
        (76, "--workers 0 --optimizer sgd --learning-rate 1e30 --warmup 0", "round 0"),
    ],
)
def test_impossible_training_is_refused_with_its_code(
    nanograd: Nanograd, tmp_path: Path, code: int, flags: str, words: str
) -> None:
    outcome = nanograd(*TRAIN, *flags.split())

    assert_refused(outcome, code, *words.split())
    assert code == 76 or not (tmp_path / "run").exists()


def test_output_with_a_foreign_file_is_73_and_left_alone(
    nanograd: Nanograd, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("dear")

    outcome = nanograd(*TRAIN, "--workers", "0", "--overwrite")

    assert_refused(outcome, 73, "thesis.tex")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("words", ["train --data sample", "ingest .", "ingest . --dry-run"])
def test_output_below_a_file_is_73(nanograd: Nanograd, tmp_path: Path, words: str) -> None:
    (tmp_path / "mine.png").write_bytes(b"dear")

    outcome = nanograd(*words.split(), "--workers", "0", "--output", "mine.png/run")

    assert_refused(outcome, 73, "mine.png is a file", "choose another --output")
    assert contents(tmp_path) == {"mine.png": b"dear"}


def test_another_server_at_the_address_is_69(nanograd: Nanograd) -> None:
    with HTTPServer(("", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        outcome = nanograd(*TRAIN, "--address", f"127.0.0.1:{server.server_port}")
        server.shutdown()

    assert_refused(outcome, 69, "Ray listens there")


def test_predict_without_model_or_input_is_refused(
    nanograd_process: Nanograd, trained: str
) -> None:
    words = ("predict", "rows", "--output", "out", "--workers", "0")

    assert_refused(nanograd_process(*words), 2, "--model")
    assert_refused(nanograd_process(*words, "--model", trained), 65, "rows")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("NANOGRAD_TRAIN_EPOCH", "do you mean NANOGRAD_TRAIN_EPOCHS?"),
        ("NANOGRAD_X", "unset it"),
        # Kubernetes makes these for a service with such a name.
        ("NANOGRAD_PORT", ""),
        ("NANOGRAD_TRAIN_HEAD_SVC_SERVICE_HOST", ""),
        ("NANOGRAD_PORT_8265_TCP", ""),
    ],
)
def test_environment_variable_that_sets_nothing_is_refused_unless_kubernetes_made_it(
    nanograd: Nanograd, tmp_path: Path, name: str, hint: str
) -> None:
    done = nanograd("data", "info", "--data", "sample", **{name: "3"})

    if hint:
        assert_refused(done, 2, f"unknown environment variable {name}; {hint}")
    assert (done.code == 0) == (not hint)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("train --data sample --output runs/1", "--output runs/1 is relative"),
        ("train --data sample", "--output is missing"),
        ("ingest pictures --output rows", "--output rows is relative"),
        ("predict rows --model /model --output read", "--output read is relative"),
    ],
)
def test_relative_output_of_a_job_is_refused(
    nanograd: Nanograd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, given: str
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")

    assert_refused(nanograd(*words.split()), 2, given, "absolute path that all hosts share")
    assert contents(tmp_path) == {}


URI = "s3://KEY:SECRET@bucket/key"


@pytest.mark.parametrize(
    "words",
    [
        f"train --data {URI} --output run",
        f"train --data sample --output {URI} --workers 0",
        f"train --data sample --output run --mlflow {URI.replace('s3', 'https')}",
        f"predict rows --model {URI} --output out",
        f"ingest {URI} --output out",
        f"ingest pictures --output {URI}",
        f"inspect {URI} --output sheet.png",
        f"evaluate --model {URI}",
        f"export --model {URI} --output model.onnx",
        f"report {URI}",
        f"data info --data {URI}",
    ],
)
def test_credentials_in_a_uri_are_refused_and_kept_nowhere(
    nanograd: Nanograd, tmp_path: Path, words: str
) -> None:
    done = nanograd(*words.split())

    assert done.code == 2
    assert "credentials" in done.last["reason"]
    assert "SECRET" not in done.stdout + done.stderr
    assert contents(tmp_path) == {}
