"""Files of weights that carry the recipe of their training."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from nanograd.runtime.arrays import Floats
from nanograd.runtime.json_files import JsonObject


def save(weights: Mapping[str, Floats], file: Path, recipe: JsonObject) -> None:
    """Write weights as float16, with the settings on which they depend."""
    halves = {name: each.astype(np.float16) for name, each in weights.items()}
    save_file(halves, file, metadata={"recipe": json.dumps(recipe, sort_keys=True)})


def find_problems(file: Path, recipe: JsonObject, sha256: str) -> list[str]:
    """Return in which ways a file is not the one of a recipe and a checksum."""
    with safe_open(file, framework="numpy") as tensors:
        found = json.loads((tensors.metadata() or {}).get("recipe", "{}"))
    problems = [
        f"{name} is {found.get(name)!r}, not {recipe.get(name)!r}"
        for name in {**recipe, **found}
        if found.get(name) != recipe.get(name)
    ]
    if (actual := hashlib.sha256(file.read_bytes()).hexdigest()) != sha256:
        problems.append(f"the checksum of {file.name} is {actual}, not {sha256}")
    return problems
