"""The blocks of tutorials and recipes run in their order, on small data of their kind."""

import ast
import json
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.models import model as model_io
from tests.conftest import ROOT, Nanograd
from tests.docs.test_docs import DOCUMENTS, FENCE, name_of, plain_python, run_alone
from tests.helpers.models import some_model

# Languages of blocks that a parser or a test of their own checks.
PARSERS: dict[str, Callable[[str], Any]] = {
    "python": ast.parse, "json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load,
}  # fmt: skip
OTHERS = {"", "text", "sh", "fish", "mermaid", "{toctree}", "{eval-rst}"}


def run_blocks(page: str, nanograd: Nanograd, *flags: str) -> list[dict[str, Any]]:
    """Run commands and Python of a page in the current folder; return the results."""
    results, memory = [], {}
    for block in FENCE.finditer((ROOT / "docs" / page).read_text()):
        if block["info"] == "python":
            exec(block["text"], memory)  # noqa: S102 - our own documentation
        for line in block["text"].splitlines() if block["info"] == "sh" else ():
            program, *words = shlex.split(line, comments=True) or [""]
            if program == "nanograd":
                alone = [] if "--workers" in words or words[0] == "inspect" else ["--workers", "0"]
                done = nanograd(*words, *alone, *(flags if words[0] == "train" else ()))
                assert done.code == 0, (line, done.stderr)
                results.append(done.last)
    return results


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_block_has_a_known_language_and_parses(document: Path) -> None:
    for block in FENCE.finditer(document.read_text()):
        language, _, title = block["info"].partition(" ")
        assert language in PARSERS or language in OTHERS, block["info"]
        if language in PARSERS and "title=" not in title:
            PARSERS[language](block["text"])


def test_predictions_become_a_list_to_review(
    nanograd: Nanograd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_io.save(some_model(), str(tmp_path / "runs/1/model"))
    commands.export_data(["sample"], str(tmp_path / "all"))
    for digit in ("3", "7"):
        for file in sorted((tmp_path / "all" / digit).iterdir())[5:]:
            file.unlink()
    assert nanograd("ingest", "all/3", "all/7", "--output", "rows", "--workers", "0").code == 0

    predicted, drawn = run_blocks("review.md", nanograd)

    assert (predicted["predicted"], drawn["pictures"]) == (10, 1)
    assert len(pd.read_csv("review.csv")) == 1
    assert len(pd.read_csv("refused.csv")) == 0
    assert " or " in capsys.readouterr().out


def test_files_of_kaggle_become_a_submission(
    nanograd: Nanograd, sample: Mnist, tmp_path: Path
) -> None:
    (tmp_path / "kaggle").mkdir()
    pixels = [f"pixel{number}" for number in range(784)]
    some = sample.train.take(slice(0, 301))
    labels = pd.DataFrame({"label": some.labels})
    train = pd.concat([labels, pd.DataFrame(some.images, columns=pixels)], axis=1)
    train.to_csv("kaggle/train.csv", index=False)
    pd.DataFrame(sample.test.images[:7], columns=pixels).to_csv("kaggle/test.csv", index=False)

    _, predicted = run_blocks("kaggle.md", nanograd, "--epochs", "1", "--hidden", "8")

    assert predicted["predicted"] == 7
    submission = pd.read_csv("submission.csv")
    assert list(submission.columns) == ["ImageId", "Label"]
    assert submission["ImageId"].tolist() == list(range(1, 8))


def test_core_in_a_few_lines_runs(tmp_path: Path) -> None:
    code, _, stderr = run_alone("\n".join(plain_python(ROOT / "docs/core.md")), tmp_path)

    assert (code, stderr) == (0, "")
