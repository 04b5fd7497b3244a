"""A contender in a separate process, which reads requests as JSON lines and replies with seconds.

`common.Process` starts it.
"""

import importlib
import json
import os
import sys
from functools import partial
from time import perf_counter
from typing import Any

from contenders.base import Contender, Setting

# name -> module, class, additional arguments
_CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "nanograd": ("ours", "Ours", {}),
    "pytorch": ("pytorch", "Pytorch", {}),
    "pytorch-ddp": ("ddp", "Ddp", {}),
    "ray-train": ("ray_train", "RayTrain", {}),
    "ray-parameter-server": ("ray_parameter_server", "RayParameterServer", {}),
    "ray-parameter-server-waiting": (
        "ray_parameter_server",
        "RayParameterServer",
        {"wait_every": 1},
    ),
    "scikit-learn": ("scikit", "Scikit", {}),
}


def main() -> None:
    """Reply to requests until stdin ends; send the output of libraries to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    setting = Setting(**json.loads(sys.argv[1]))
    module, class_, arguments = _CLASSES[setting.name]
    make = partial(getattr(importlib.import_module(f"contenders.{module}"), class_), **arguments)
    contender: Contender = make(setting)
    _reply(answers, ready=True)
    for line in sys.stdin:
        action, number = json.loads(line)
        began = perf_counter()
        answer = _perform(contender, action, number)
        _reply(answers, seconds=perf_counter() - began, answer=answer)
    contender.close()


def _perform(contender: Contender, action: str, number: int) -> float:
    match action:
        case "run":
            return contender.run(number)
        case "accuracy":
            return contender.accuracy()
        case "reset":
            contender.reset(number)
    return 0.0


def _reply(answers: Any, **values: Any) -> None:
    answers.write(json.dumps(values) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
