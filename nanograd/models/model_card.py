"""The model card of a model directory, in the format of Hugging Face.

References:
    Mitchell et al. (2019), "Model cards for model reporting"; Hugging Face, "Model cards"
    (metadata as YAML at the start, `model-index` with results).
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from nanograd import __version__
from nanograd.digits.preparation import Preparation
from nanograd.nn.mlp import Architecture

# Names of training data on the Hugging Face hub. The sample is 5,000 digits of MNIST.
_HUB = {"mnist": "ylecun/mnist", "sample": "ylecun/mnist"}
# Type and name of test data. The sample's test digits are not MNIST's test set.
_TESTED = {"mnist": ("ylecun/mnist", "MNIST"), "sample": ("custom", "nanograd's sample of MNIST")}


def write(nets: Sequence[tuple[Architecture, Preparation]], about: Mapping[str, Any]) -> str:
    """Render the README.md of a model directory.

    Args:
        nets: architecture and pixel preparation of each net.
        about: provenance of the model, see `Model.about`.
    """
    from jinja2 import Template  # noqa: PLC0415 - slow to import, and only needed to save a model

    data = str(about.get("data", ""))
    metadata: dict[str, Any] = {
        "license": "mit",
        "library_name": "nanograd",
        "pipeline_tag": "image-classification",
        "tags": ["mnist", "handwritten-digits", "multilayer-perceptron", "numpy", "safetensors"],
        "metrics": ["accuracy"],
    }
    if data in _HUB:
        metadata["datasets"] = [_HUB[data]]
    if (accuracy := about.get("test_accuracy")) is not None:
        kind, name = _TESTED.get(data, ("custom", "other data"))
        result = {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": {"type": kind, "name": name, "split": "test"},
            "metrics": [{"type": "accuracy", "name": "Test accuracy", "value": accuracy}],
        }
        metadata["model-index"] = [{"name": "nanograd", "results": [result]}]
    text = files("nanograd.models").joinpath("model_card.md").read_text()
    card = Template(text, keep_trailing_newline=True).render(
        metadata={name: json.dumps(value) for name, value in metadata.items()},  # YAML reads JSON
        nets=nets,
        facts={name: value for name, value in about.items() if name != "identity"},
        version=__version__,
    )
    return str(card)
