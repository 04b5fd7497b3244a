"""Make the model in the package: train it, check it, and write it to `nanograd/models/digits`.

    python scripts/make_model.py RUN [--data FOLDER_OF_MNIST]

This does what `nanograd train --preset accurate --seed 0 --validation-split 0 --output RUN` does on
all of MNIST, in about six minutes on two cores. A run that is complete is not trained again.

The same CPU gives the same bits. On another kind of CPU the last bits may differ; then train with
`--kernel portable`, or accept the new checksum by changing PARAMS_SHA256.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import nanograd
from nanograd.models import model as model_io
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.train_spec import TrainSpec

FOLDER = Path(model_io.__file__).parent / "digits"
RECIPE = {"preset": "accurate", "seed": 0, "validation_split": 0.0}
# Checksums of the images of MNIST, and of the parameters that the recipe gives.
DATA_SHA256 = "092b861b059fc0ed1039decda6c6254528517110ca9845eefd424551845f9783"
PARAMS_SHA256 = "64354219654c0bbdd21c5137e6308402bae3fa6f969fa190488b50b557d98b17"


def main() -> None:
    """Train or load the run, check it, and write the model."""
    parser = argparse.ArgumentParser(description="Make the model in the package.")
    parser.add_argument("run", help="run directory")
    parser.add_argument("--data", default="mnist", help="mnist, or a folder with MNIST's files")
    given = parser.parse_args()
    settings = {**RECIPE, "data": given.data, "output": given.run, "workers": None}
    trained = nanograd.train(listener=nanograd.TextLog(print), **settings).model
    # A path of this machine is of no use elsewhere, and the checksum says what the data was.
    model = replace(trained, about={**trained.about, "data": "mnist"})
    if problems := find_problems(model):
        raise SystemExit("\n".join(problems))
    model_io.save(model, str(FOLDER))


def find_problems(model: nanograd.Model) -> list[str]:
    """Return in which ways a model is not the one that this script makes."""
    expected = {**TrainSpec.resolve(RECIPE).identity(), "data_sha256": DATA_SHA256}
    found: JsonObject = model.about["identity"]
    wanted = json.loads(json.dumps(expected))
    problems = [
        f"{name} is {found.get(name)!r}, not {wanted.get(name)!r}"
        for name in {**wanted, **found}
        if found.get(name) != wanted.get(name)
    ]
    if model.params_sha256() != PARAMS_SHA256:
        problems.append(f"params_sha256 is {model.params_sha256()}, not {PARAMS_SHA256}")
    return problems


if __name__ == "__main__":
    main()
