"""Run the notebooks in examples/ and store their output.

Cells run as in Jupyter: printed text becomes a stream output, and the value of a last expression
becomes the result, as a picture if it has a PNG representation. No kernel is needed.

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

from nanograd.runtime import kernel

ROOT = Path(__file__).resolve().parents[1]

Cell = dict[str, Any]


def main() -> None:
    """Run every notebook in an empty folder and store its outputs."""
    if not kernel.missing_features():
        kernel.pin()  # the outputs are the same on every processor with AVX2
    for file in sorted((ROOT / "examples").glob("*.ipynb")):
        with TemporaryDirectory() as folder:
            os.chdir(folder)
            notebook = execute(json.loads(file.read_text()))
        file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        sys.stderr.write(f"{file.relative_to(ROOT)} run\n")


def execute(notebook: dict[str, Any]) -> dict[str, Any]:
    """Run the cells of a notebook in the current folder, and return it with their outputs."""
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
                "data": _represent(value),
            }
        )
    return outputs


def _represent(value: Any) -> dict[str, Any]:
    if hasattr(value, "_repr_png_"):
        png = b64encode(value._repr_png_()).decode() + "\n"
        return {"image/png": png, "text/plain": ["picture"]}
    return {"text/plain": repr(value).splitlines(keepends=True)}


if __name__ == "__main__":
    main()
