"""Run the notebooks in examples/ from top to bottom and keep what they show.

A cell is run as Jupyter runs it: what it prints is its stream, and the value of a last expression
is its result, as a picture if it knows how to be one. No kernel is needed.

References:
    Jupyter, "The notebook file format", 4.5.
"""

import ast
import json
import os
import sys
from base64 import b64encode
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

Cell = dict[str, Any]


def main() -> None:
    """Run every notebook in an empty folder and write its outputs into it."""
    for file in sorted((ROOT / "examples").glob("*.ipynb")):
        with TemporaryDirectory() as folder:
            os.chdir(folder)
            notebook = executed(json.loads(file.read_text()))
        file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        sys.stderr.write(f"{file.relative_to(ROOT)} run\n")


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """A notebook with the outputs of its cells, run one after the other in the present folder."""
    memory: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            outputs = _run("".join(cell["source"]), memory, count)
            cells.append({**cell, "execution_count": count, "outputs": outputs})
        else:
            cells.append(cell)
    return {**notebook, "cells": cells}


def _run(source: str, memory: dict[str, Any], count: int) -> list[Cell]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = StringIO(), None
    with redirect_stdout(printed):
        exec(compile(tree, f"cell {count}", "exec"), memory)  # noqa: S102 - our own notebooks
        if last is not None:
            expression = ast.Expression(last.value)  # type: ignore[attr-defined]
            value = eval(compile(expression, f"cell {count}", "eval"), memory)  # noqa: S307
    outputs: list[Cell] = []
    if text := printed.getvalue():
        lines = text.splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines})
    if value is not None:
        outputs.append(
            {
                "output_type": "execute_result",
                "execution_count": count,
                "metadata": {},
                "data": _shown(value),
            }
        )
    return outputs


def _shown(value: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_png_"):
        shown = {
            "image/png": b64encode(value._repr_png_()).decode() + "\n",
            "text/plain": ["picture"],
        }
    return shown


if __name__ == "__main__":
    main()
