"""The model card of a model directory, in the form that Hugging Face reads.

References:
    Mitchell et al. (2019), "Model cards for model reporting"; Hugging Face, "Model cards"
    (metadata as YAML in front, `model-index` with results).
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from nanograd import __version__
from nanograd.digits.preparation import Preparation
from nanograd.nn.mlp import Architecture

# Training data by its name on the Hugging Face hub; the sample is 5,000 digits of MNIST.
_HUB = {"mnist": "ylecun/mnist", "sample": "ylecun/mnist"}
# Test data: type and name. The test digits of the sample are not those of MNIST.
_TESTED = {"mnist": ("ylecun/mnist", "MNIST"), "sample": ("custom", "nanograd's sample of MNIST")}


def write(nets: Sequence[tuple[Architecture, Preparation]], about: Mapping[str, Any]) -> str:
    """Return the README.md of a model directory with this provenance (data, seed, accuracies)."""
    from jinja2 import Template  # noqa: PLC0415 - slow to import, and only needed to save a model

    template = Template(
        files("nanograd.models").joinpath("model_card.md").read_text(), keep_trailing_newline=True
    )
    facts = {key: value for key, value in about.items() if key != "identity"}
    metadata = _metadata(about)
    return str(template.render(metadata=metadata, nets=nets, facts=facts, version=__version__))


def _metadata(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata; its values are JSON, which YAML reads."""
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
    return {name: json.dumps(value) for name, value in metadata.items()}
