"""One contender in a process of its own: reads commands as JSON lines, answers with seconds.

Not called by hand; `common.Process` starts it.
"""

import importlib
import json
import os
import sys
from functools import partial
from time import perf_counter
from typing import Any

from contenders.base import Contender, Setting

# name -> module, what makes it, more arguments
_MAKERS: dict[str, tuple[str, str, dict[str, Any]]] = {
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
    """Obey until stdin ends; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    setting = Setting(**json.loads(sys.argv[1]))
    module, maker, arguments = _MAKERS[setting.name]
    make = partial(getattr(importlib.import_module(f"contenders.{module}"), maker), **arguments)
    contender: Contender = make(setting)
    _say(answers, ready=True)
    for line in sys.stdin:
        what, number = json.loads(line)
        began = perf_counter()
        answer = _obey(contender, what, number)
        _say(answers, seconds=perf_counter() - began, answer=answer)
    contender.close()


def _obey(contender: Contender, what: str, number: int) -> float:
    match what:
        case "run":
            return contender.run(number)
        case "accuracy":
            return contender.accuracy()
        case "reset":
            contender.reset(number)
    return 0.0


def _say(answers: Any, **values: Any) -> None:
    answers.write(json.dumps(values) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
