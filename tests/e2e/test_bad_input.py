"""Each mistake: the documented exit code, one sentence that names what is wrong, nothing left."""

import gzip
import shutil
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from nanograd.data import mnist
from nanograd.data.idx import format_idx
from tests.conftest import Nanograd, Outcome

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with the sample's four files, to be damaged."""
    return Path(shutil.copytree(mnist.SAMPLE, tmp_path / "data"))


def train(nanograd: Nanograd, *words: str) -> Outcome:
    return nanograd("train", "--workers", "0", "--epochs", "1", "--output", "run", *words)


def refused(outcome: Outcome, code: int, *words: str) -> bool:
    """Whether a command ended with this code and one sentence that has these words."""
    last = outcome.last
    assert (outcome.code, last["event"], last["code"]) == (code, "error", code)
    assert all(word in last["reason"] for word in words), last["reason"]
    assert "\n" not in last["reason"]
    assert "Traceback" not in outcome.stderr
    return True


def test_missing_data_is_65(nanograd: Nanograd, tmp_path: Path) -> None:
    assert refused(train(nanograd, "--data", "no/such/folder"), 65, "no/such/folder")
    assert not (tmp_path / "run").exists()


def test_truncated_gzip_is_65(nanograd: Nanograd, copy: Path, tmp_path: Path) -> None:
    data = (copy / IMAGES).read_bytes()
    (copy / IMAGES).write_bytes(data[: len(data) // 2])

    assert refused(train(nanograd, "--data", str(copy)), 65, IMAGES)
    assert not (tmp_path / "run").exists()


def test_wrong_magic_number_is_65(nanograd: Nanograd, copy: Path) -> None:
    data = bytearray(gzip.decompress((copy / IMAGES).read_bytes()))
    data[2] = 0x0D
    (copy / IMAGES).write_bytes(gzip.compress(data))

    assert refused(train(nanograd, "--data", str(copy)), 65, IMAGES)


def test_labels_out_of_range_are_65(nanograd: Nanograd, copy: Path) -> None:
    labels = np.full(4000, 10, np.uint8)
    (copy / LABELS).write_bytes(gzip.compress(format_idx(labels)))

    assert refused(train(nanograd, "--data", str(copy)), 65, LABELS, "10")


def test_wrong_checksum_in_the_cache_is_65_offline(nanograd: Nanograd, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in (IMAGES, LABELS, "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        shutil.copy(Path(mnist.SAMPLE) / name, cache / name)

    outcome = nanograd("data", "fetch", "--mirror", tmp_path.as_uri() + "/nowhere/")

    assert refused(outcome, 65, "checksum")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
def test_a_flipped_bit_in_a_model_is_65(
    nanograd: Nanograd, trained: str, tmp_path: Path, name: str
) -> None:
    model = Path(shutil.copytree(trained, tmp_path / "model"))
    data = bytearray((model / name).read_bytes())
    data[len(data) // 2] ^= 1
    (model / name).write_bytes(data)

    outcome = nanograd("evaluate", "--model", str(model), "--data", "sample")

    assert refused(outcome, 65, name)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--loss", "hinge"], ["hinge", "--loss"]),
        (["--epochs", "many"], ["many", "--epochs"]),
        (["--epochs", "0"], ["--epochs"]),
        (["--no-such-flag"], ["--no-such-flag"]),
        (["--batch-size", "3"], ["--batch-size", "--shards"]),
        (["--optimizer", "sgd", "--momentum", "0.5"], ["--momentum"]),
        (["--workers", "9"], ["--workers", "--shards"]),
        (["--config", "none.toml"], ["none.toml"]),
    ],
)
def test_an_unknown_or_impossible_flag_is_2_or_names_the_file(
    nanograd: Nanograd, flags: list[str], words: list[str], tmp_path: Path
) -> None:
    outcome = nanograd("train", "--data", "sample", "--output", "run", *flags)

    assert refused(outcome, 65 if flags[0] == "--config" else 2, *words)
    assert not (tmp_path / "run").exists()


def test_an_output_with_something_else_in_it_is_73_and_left_alone(
    nanograd: Nanograd, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("dear")

    outcome = train(nanograd, "--data", "sample", "--overwrite")

    assert refused(outcome, 73, "thesis.tex")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_divergence_is_76(nanograd: Nanograd) -> None:
    outcome = train(
        nanograd,
        "--data",
        "sample",
        "--learning-rate",
        "1e30",
        "--warmup",
        "0",
        "--optimizer",
        "sgd",
    )

    assert refused(outcome, 76, "round 0")


TRAIN = ("train", "--data", "sample", "--output", "run", "--address")


def test_nobody_at_the_address_is_69(nanograd: Nanograd) -> None:
    assert refused(nanograd(*TRAIN, "127.0.0.1:1"), 69, "127.0.0.1:1")


def test_something_else_at_the_address_is_69(nanograd: Nanograd) -> None:
    with HTTPServer(("", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        outcome = nanograd(*TRAIN, f"127.0.0.1:{server.server_port}")
        server.shutdown()

    assert refused(outcome, 69, "what listens there is not Ray")


def test_an_address_for_job_submit_is_2(nanograd: Nanograd) -> None:
    assert refused(nanograd(*TRAIN, "ray://127.0.0.1:10001"), 2, "ray job submit")


def test_a_full_disk_is_74(nanograd: Nanograd) -> None:
    outcome = nanograd(
        "train", "--data", "sample", "--workers", "0", "--epochs", "1", "--output", "/dev/full/run"
    )

    assert outcome.code in (65, 74)


def test_predict_needs_its_flags_and_its_input(nanograd: Nanograd, trained: str) -> None:
    assert refused(nanograd("predict", "rows", "--output", "out"), 2, "--model")
    missing = nanograd("predict", "rows", "--output", "out", "--model", trained, "--workers", "0")
    assert refused(missing, 65, "rows")
