"""Losses of every round of two short runs, against stored ones.

A refactoring leaves the curves alone. A change of the numbers says why, shows the accuracy before
and after, and stores new curves:

    .venv/bin/python tests/golden/test_golden_curve.py

They are recorded in a process with the BLAS kernel of the stored runs, or another one if this
processor does not support it. The losses must agree to a part in ten thousand (a relative change of
3e-7 in all initial weights moves them by 2e-7). The bits of the parameters (`params_sha256`) are
compared if numpy, OpenBLAS and the kernel are the same.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from nanograd.digits.augment import Distortion
from nanograd.digits.dataset import Mnist
from nanograd.images import sources
from nanograd.runtime import storage
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.local import LocalGroup
from nanograd.training.loop import as_net
from nanograd.training.recipe import make_recipe
from nanograd.training.server import LossSum, first_snapshot
from tests.helpers.processes import run

FILE = Path(__file__).parent / "golden_curve.json"

COMMON = {"hidden": 64, "shards": 8, "batch_size": 64, "epochs": 2, "seed": 7}
RUNS: dict[str, dict[str, Any]] = {
    "the original's choices": {
        "activation": "sigmoid", "loss": "mse", "optimizer": "sgd", "learning_rate": 1.0,
        "schedule": "constant", "warmup": 0, "pixels": "unit", "ema": 0.0, **asdict(Distortion()),
    },
    "today's choices": {
        "activation": "relu", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 0.002,
        "schedule": "cosine", "warmup": 7, "pixels": "deskewed", "ema": 0.9, "deskew": "before",
        "elastic": 1.0, "rotation": 5.0, "scaling": 0.1, "shear": 0.1, "shift": 0.5, "stroke": 0.5,
        "cool_down": 0.0,
    },
}  # fmt: skip


def record(name: str, sample: Mnist) -> dict[str, Any]:
    config = TrainSpec.resolve(COMMON, RUNS[name])
    recipe = make_recipe(config, len(sample.train))
    group = LocalGroup(recipe, sample.train, first_snapshot(recipe))
    losses, before = [], LossSum()
    for round_ in range(recipe.num_rounds):
        group.advance(round_ + 1)
        before = before if round_ % recipe.plan.rounds_per_epoch else LossSum()
        now = group.snapshot().progress
        losses.append((now.loss - before.loss) / (now.num_images - before.num_images))
        before = now
    vector = as_net(recipe, group.snapshot()).params.vector
    return {"losses": losses, "params_sha256": storage.checksum(vector.tobytes())}


def machine() -> dict[str, Any]:
    kernels = [each for each in threadpool_info() if each["user_api"] == "blas"]
    names = ("internal_api", "version", "architecture")
    return {"numpy": np.__version__, "blas": [[each.get(n) for n in names] for each in kernels]}


def record_all() -> dict[str, Any]:
    sample = sources.load(["sample"])
    return {"machine": machine(), "runs": {name: record(name, sample) for name in RUNS}}


def test_loss_of_every_round_and_bits_of_the_parameters_are_as_stored():
    golden = json.loads(FILE.read_text())
    [[_, _, kernel]] = golden["machine"]["blas"]
    command = (sys.executable, "-m", "tests.golden.test_golden_curve", "print")
    done = run(*command, folder=Path(__file__).parents[2], OPENBLAS_CORETYPE=kernel)
    assert done.returncode == 0, done.stderr
    actual = json.loads(done.stdout)

    for name in RUNS:
        found, stored = actual["runs"][name], golden["runs"][name]
        assert len(found["losses"]) == 2 * 63
        np.testing.assert_allclose(found["losses"], stored["losses"], rtol=1e-4)
        if actual["machine"] == golden["machine"]:
            assert found["params_sha256"] == stored["params_sha256"], name


if __name__ == "__main__":
    recorded = json.dumps(record_all(), indent=1) + "\n"
    if sys.argv[1:] == ["print"]:
        sys.stdout.write(recorded)
    else:
        FILE.write_text(recorded)
