"""The model card: what a model directory says of itself, in the form Hugging Face reads.

References:
    Mitchell et al. (2019), "Model cards for model reporting"; Hugging Face, "Model cards"
    (metadata as YAML in front, `model-index` with results).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nanograd import __version__

# Name on the Hugging Face hub of what was trained on; the sample is 5,000 digits of MNIST.
_HUB = {"mnist": "ylecun/mnist", "sample": "ylecun/mnist"}
# Kind and name of what was tested on. The test digits of the sample are not those of MNIST.
_TESTED = {"mnist": ("ylecun/mnist", "MNIST"), "sample": ("custom", "nanograd's sample of MNIST")}


class Shape(NamedTuple):
    """A net, as a card describes it."""

    hidden: int
    activation: str
    loss: str
    num_parameters: int
    pixels: str
    version: int


def write(shapes: Sequence[Shape], about: Mapping[str, Any]) -> str:
    """README.md of a model directory.

    Args:
        shapes: its nets.
        about: how they came to be: data, preset, seed, accuracies.
    """
    nets = "\n\n".join(map(_describe, shapes))
    together = "" if len(shapes) == 1 else f"The mean of the scores of {len(shapes)} nets.\n\n"
    facts = "\n".join(f"| {key} | {value} |" for key, value in about.items() if key != "identity")
    return f"""---
{_front(about)}---

# A handwritten digit classifier

{together}{nets}

Made with nanograd {__version__}.

| | |
|---|---|
{facts}

## Use

Input: one digit, 28 x 28, grey, ink 255 on 0, centred as in MNIST; `nanograd ingest` and
`nanograd.read_picture` bring photos, scans and drawings to that form. Output: ten scores.

    nanograd predict PARQUET --model THIS_FOLDER --output FOLDER

```python
import nanograd

digits = nanograd.load_model("THIS_FOLDER").predict(images)  # (N, 28, 28) uint8
```

`nanograd export --model THIS_FOLDER --output model.onnx` makes an ONNX graph of it that needs
nothing of nanograd. The tensors are in `model.safetensors`, what they mean is in `config.json`.

## Limits

It always answers with a digit, whatever the picture shows. Its scores are not calibrated
probabilities.

## Licence

The weights are under the MIT licence, as nanograd is. The data they were trained on has its own
terms.
"""


def _front(about: Mapping[str, Any]) -> str:
    """The metadata, in YAML; every value is written as JSON, which YAML reads."""
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
    if about.get("test_accuracy") is not None:
        metadata["model-index"] = [{"name": "nanograd", "results": [_result(data, about)]}]
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in metadata.items())


def _result(data: str, about: Mapping[str, Any]) -> dict[str, Any]:
    kind, name = _TESTED.get(data, ("custom", "other data"))
    return {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"type": kind, "name": name, "split": "test"},
        "metrics": [{"type": "accuracy", "name": "Test accuracy", "value": about["test_accuracy"]}],
    }


def _describe(shape: Shape) -> str:
    return (
        f"A three-layer perceptron, 784-{shape.hidden}-10: {shape.activation} hidden units, "
        f"{shape.loss} loss, {shape.num_parameters:,} float32 parameters. Pixels: "
        f"`{shape.pixels}`, version {shape.version}."
    )
