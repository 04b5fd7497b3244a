"""The model card of a model directory, in the form that Hugging Face reads.

References:
    Mitchell et al. (2019), "Model cards for model reporting"; Hugging Face, "Model cards"
    (metadata as YAML in front, `model-index` with results).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nanograd import __version__
from nanograd.digits.preparation import Preparation
from nanograd.nn.mlp import Architecture

# Training data by its name on the Hugging Face hub; the sample is 5,000 digits of MNIST.
_HUB = {"mnist": "ylecun/mnist", "sample": "ylecun/mnist"}
# Test data: type and name. The test digits of the sample are not those of MNIST.
_TESTED = {"mnist": ("ylecun/mnist", "MNIST"), "sample": ("custom", "nanograd's sample of MNIST")}


def write(nets: Sequence[tuple[Architecture, Preparation]], about: Mapping[str, Any]) -> str:
    """Return the README.md of a model directory.

    Args:
        nets: of the model.
        about: their provenance: data, preset, seed, accuracies.
    """
    together = "" if len(nets) == 1 else f"The mean of the scores of {len(nets)} nets.\n\n"
    layers = "\n\n".join(
        f"A three-layer perceptron, {net.inputs}-{net.hidden}-{net.classes}: {net.activation} "
        f"hidden units, {net.loss} loss, {net.num_parameters:,} float32 parameters. Pixels: "
        f"`{preparation.name}`, version {preparation.version}."
        for net, preparation in nets
    )
    facts = "\n".join(f"| {key} | {value} |" for key, value in about.items() if key != "identity")
    return f"""---
{_front(about)}---

# A handwritten digit classifier

{together}{layers}

Made with nanograd {__version__}.

| | |
|---|---|
{facts}

## Use

Input: one digit, 28 x 28, grey, ink 255 on 0, centred as in MNIST; `nanograd ingest` and
`nanograd.read_picture` convert photos, scans and drawings to that form. Output: ten scores.

    nanograd predict PARQUET --model THIS_FOLDER --output FOLDER

```python
import nanograd

digits = nanograd.load_model("THIS_FOLDER").predict(images)  # (N, 28, 28) uint8
```

`nanograd export --model THIS_FOLDER --output model.onnx` writes an ONNX graph that runs without
nanograd. The tensors are in `model.safetensors`, their architecture is in `config.json`.

## Limits

The prediction is always a digit, even if the picture shows none. The scores are not calibrated
probabilities.

## Licence

The weights are under the MIT licence, like nanograd. The training data has its own terms.
"""


def _front(about: Mapping[str, Any]) -> str:
    """Return the metadata in YAML; its values are written as JSON, which is YAML, too."""
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
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in metadata.items())
