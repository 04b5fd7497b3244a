import json
import os
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd import __version__, cli
from nanograd.console.results import Done, Result
from nanograd.digits.dataset import Mnist
from nanograd.models import model
from nanograd.settings import flags
from nanograd.settings.fields import REQUIRED, flag_name
from scripts.write_pages import SETTINGS
from tests.conftest import ROOT
from tests.helpers.models import some_model
from tests.helpers.processes import run, run_python

MISSPELT = "my.toml: unknown setting 'learning-rate'"


@pytest.fixture
def predicting(tmp_path: Path, sample: Mnist) -> list[str]:
    """Words of a command that predicts 7 digits with two more columns."""
    model.save(some_model(), str(tmp_path / "model"))
    images = [image.tobytes() for image in sample.test.images[:7]]
    table = pa.table({"image": images, "id": range(7), "a b": range(7)})
    table = table.append_column("none", pa.nulls(7, pa.string()))
    pq.write_table(table, tmp_path / "rows.parquet")
    return ["predict", "rows.parquet", "--model", "model", "--output", "out", "--workers", "0"]


@pytest.mark.parametrize("command", SETTINGS)
def test_help_has_every_field_of_the_config_and_marks_the_required_ones(nanograd, command):
    has_rare = any(each.rare for each in SETTINGS[command].settings())
    done = nanograd(*command.split(), "--help-all" if has_rare else "--help")

    flags = re.sub(r"\n\n.*", "", done.stdout)  # without blank lines and headings
    entries = re.split(r"\n  (?=-)", flags)  # one a flag, wrapped anyhow
    helps = {entry.split()[0]: "".join(entry.split()[1:]) for entry in entries}
    assert done.code == 0
    assert {"--config", "--debug", "-h,"} <= set(helps)
    for each in SETTINGS[command].settings():
        expected = each.help
        if each.default is REQUIRED:
            expected += "[required]"
        elif each.default or type(each.default) in (int, float):
            words = each.default if isinstance(each.default, tuple) else [each.default]
            expected += f"[default: {' '.join(map(str, words))}]"
        assert helps[flag_name(each.name)].endswith("".join(expected.split())), each.name


@pytest.mark.parametrize("words", [(), ("data",)])
def test_missing_command_shows_the_help_and_is_a_usage_error(nanograd, words):
    done, helped = nanograd(*words), nanograd(*words, "--help")

    assert (done.code, done.last["code"], helped.code) == (2, 2, 0)
    assert helped.stdout.rstrip() in done.stderr
    assert "\n" not in done.last["reason"]
    group = cli.data if words else cli.cli
    assert re.findall(r"^  (\w+)  ", helped.stdout, re.MULTILINE) == sorted(group.commands)


@pytest.mark.parametrize(
    ("words", "command", "named"),
    [
        (["predict", "--model", "m"], "predict", "SOURCE"),
        (["export", "--model", "m"], "export", "--output is missing"),
        (["ingest", "p", "--output", "o", "--part-rows", "many"], "ingest", "many"),
        (["ingest", "p", "--output", "o", "--label-from", "me"], "ingest", "'me'"),
        (["data", "info", "--datum", "x"], "data info", "--datum"),
        (["data", "inform"], "data", "inform"),
        (["predicted", "rows"], None, "predicted"),
        (["--no-such-flag", "train"], None, "--no-such-flag"),
        (["ingest", "train", "--output"], "ingest", "--output"),
        (["train", "--config", "my.toml"], "train", f"{MISSPELT}; do you mean learning_rate?"),
        (["train", "--config", "empty.toml", "--workers", "0"], "train", "--data names no data"),
        (["train", "--config", "table.toml"], "train", "at its top, not in a table [train]"),
    ],
)
def test_usage_error_is_one_json_line_and_code_2(nanograd, words, command, named):
    Path("my.toml").write_text("seed = 3\nlearning-rate = 0.1\n")
    Path("empty.toml").write_text("data = []")
    Path("table.toml").write_text("[train]\nseed = 3\n")

    done = nanograd(*words)

    line = done.last
    assert (done.code, done.stdout.count("\n")) == (2, 1)
    assert set(line) == {"event", "command", "code", "reason"}
    assert (line["event"], line["command"], line["code"]) == ("error", command, 2)
    assert named in line["reason"]
    assert done.stderr == f"nanograd: {line['reason']}\n"


def test_names_of_folders_need_not_be_unicode(nanograd_process, tmp_path, few_digits):
    data, run = (os.fsdecode(name) for name in (b"Z\xfcge", b"gr\xfc\xdfe aus K\xc3\xb6ln"))
    (tmp_path / data).mkdir()
    for name, part in (("train", few_digits.train), ("test", few_digits.test)):
        table = np.column_stack([part.labels, part.images])[:99]
        np.savetxt(tmp_path / data / f"{name}.csv", table, "%d", ",")
    words = ["train", "--data", data, "--epochs", "1", "--hidden", "2", "--output", run]

    outcome = nanograd_process(*words, "--workers", "0")
    again = nanograd_process("train", "--config", f"{run}/config.toml")

    assert outcome.code == again.code == 0, outcome.stderr + again.stderr
    assert "WARNING: no report" not in outcome.stderr
    assert "is complete; --overwrite" in again.stderr


@pytest.mark.parametrize(
    ("environment", "words", "kept"),
    [
        ("a b\nimage", [], ["a b", "image"]),
        ("a b\r\nid\r\n", [], ["a b", "id"]),
        ("", ["--config", "my.toml"], ["a b", "id"]),
        ("id", ["--config", "my.toml"], ["id"]),
    ],
)
def test_columns_to_keep_come_from_flags_environment_or_file(
    nanograd, predicting, environment, words, kept
):
    Path("my.toml").write_text('keep = ["a b", "id"]\noutput = "elsewhere"\n')

    done = nanograd(*predicting, *words, NANOGRAD_PREDICT_KEEP=environment)

    assert done.code == 0, done.stderr
    table = pq.read_table("out/predictions")
    assert table.schema.names[: len(kept) + 1] == [*kept, "path"]
    assert not Path("elsewhere").exists()


@pytest.mark.parametrize(
    ("environment", "words", "said"),
    [
        ({"EPOCHS": "x"}, [], "integer. (--help lists all flags); --epochs comes from {}_EPOCHS"),
        ({"EPOCHS": "0"}, [], "be at least 1; --epochs comes from {}_EPOCHS"),
        ({"EPOCHS": "0"}, ["--config", "my.toml"], "be at least 1; --epochs comes from {}_EPOCHS"),
        ({"EPOCHS": "3"}, ["--epochs", "0"], "be at least 1"),
        ({}, ["--config", "my.toml"], "be at least 1; --epochs comes from my.toml"),
        ({}, ["--config", "my.toml", "--epochs", "0"], "be at least 1"),
        ({}, ["--config", "my.toml", "--epochs", "2", "--batch-size", "0"], "be at least 1"),
    ],
)
def test_error_says_which_variable_or_file_has_the_value(nanograd, environment, words, said):
    Path("my.toml").write_text("epochs = 0")
    variables = {f"NANOGRAD_TRAIN_{name}": value for name, value in environment.items()}

    done = nanograd("train", *words, **variables)

    assert done.code == 2
    assert done.last["reason"].endswith(said.format("NANOGRAD_TRAIN"))


@pytest.mark.parametrize(
    "words",
    [
        *(["--format", each] for each in ("parquet", "csv", "jsonl")),
        *(["--keep", "none", "--partition-by", each] for each in ("none", "prediction")),
    ],
)
def test_next_command_prints_the_predictions(nanograd, predicting, words):
    done = nanograd(*predicting, *words, "--output", "my $HOME's out")

    assert (done.code, done.stdout.count("\n")) == (0, 1)
    documented = "event command accuracy start_s predict_s rows_per_s output quarantined"
    assert set(documented.split()) <= set(done.last)
    assert [done.last[name] for name in ("rows", "predicted", "files")] == [7, 7, 1]
    words = shlex.split(done.stderr.splitlines()[-1].removeprefix("next: python "))
    shown = run(sys.executable, *words)
    assert (shown.returncode, shown.stderr) == (0, "")
    header, *lines = shown.stdout.splitlines()
    assert header.split() == ["prediction", "confidence", "source_row", "path"]
    assert sorted(line.split()[3] for line in lines) == list("0123456")


def test_demo_prints_its_results_on_stdout_while_ray_has_it(nanograd, monkeypatch):
    def steps(*_: Any) -> Iterator[tuple[str, Result]]:
        with redirect_stdout(sys.stderr):  # as in a session of Ray
            yield "train", Done(summary="here", values={})
        yield "demo", Result()

    monkeypatch.setattr("nanograd.commands.demo", steps)
    done = nanograd("demo")

    assert [json.loads(line)["command"] for line in done.stdout.splitlines()] == ["train", "demo"]


def test_net_that_is_too_large_for_the_memory_is_no_defect(tmp_path):
    words = "train --data sample --workers 0 --hidden 100000 --output run"
    command = f"ulimit -v 1500000; {shlex.quote(sys.executable)} -m nanograd {words}"

    done = run("bash", "-c", command, folder=tmp_path)

    assert done.returncode == 69
    assert "not enough memory" in json.loads(done.stdout.splitlines()[-1])["reason"]
    assert not (tmp_path / "run").exists()


def test_limit_of_threads_is_no_defect(nanograd):
    before = threading.stack_size(2**46)  # no thread starts with such a stack
    try:
        done = nanograd("train", "--data", "sample", "--workers", "0", "--output", "run")
    finally:
        threading.stack_size(before)

    assert done.code == 69
    assert "memory or threads: can't start new thread; lower" in done.last["reason"]


@pytest.mark.parametrize(
    ("command", "error", "code", "reason"),
    [
        ("broken", RuntimeError("seven"), 70, "RuntimeError: seven; please report this.*"),
        ("broken", KeyboardInterrupt(), 130, "interrupted"),
        ("predict", KeyboardInterrupt(), 130, "interrupted; run the same command again to.*"),
    ],
)
def test_unexpected_exception_is_one_line_and_its_code(
    nanograd, monkeypatch, command, error, code, reason
):
    @click.command(cls=flags.Command)
    def broken() -> None:
        raise error

    monkeypatch.setitem(cli.cli.commands, command, broken)

    done, debug = nanograd(command), nanograd(command, "--debug")

    assert done.code == debug.code == done.last["code"] == code
    assert (done.last["event"], done.last["command"]) == ("error", command)
    assert re.fullmatch(reason, done.last["reason"])
    assert "Traceback" not in done.stderr
    assert "in broken" in debug.stderr


def test_package_in_an_archive_is_refused_with_a_remedy(tmp_path):
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", ROOT, "nanograd")
    code = "import nanograd.cli, sys; sys.exit(nanograd.cli.run(['predict', 'pictures']))"

    done = run_python(code, tmp_path, PYTHONPATH=archive)

    assert done.returncode == 69
    reason = f"{archive} is an archive; install nanograd, or unpack it"
    assert json.loads(done.stdout)["reason"] == reason


def test_thread_of_arrow_at_the_end_of_the_process_does_not_change_the_code():
    code = """
import io, threading
import pyarrow as pa, pyarrow.parquet as pq
from nanograd.cli import main

class Slow(io.BytesIO):
    def read(self, size=-1):
        if reader.is_alive():
            started.set()
            threading.Event().wait(0.3)
        return super().read(size)

def read():
    file.read()

started, buffer = threading.Event(), io.BytesIO()
pq.write_table(pa.table({"a": [1, 2, 3]}), buffer)
reader = threading.Thread(target=read, daemon=True)
file = pq.ParquetFile(Slow(buffer.getvalue()), pre_buffer=True)
reader.start()
started.wait()
main(["--version"])
"""

    done = run_python(code)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    ("event", "code", "said"),
    [
        ("raise KeyboardInterrupt", 130, "interrupted"),
        (
            "signal.raise_signal(15)",
            75,
            "stopped by SIGTERM; run the same command again to continue",
        ),
    ],
)
def test_signal_while_the_command_is_imported_has_its_code(tmp_path, event, code, said):
    (tmp_path / "click.py").write_text(f"import signal; {event}")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"

    done = run(sys.executable, "-m", "nanograd", "--version", PYTHONPATH=path)

    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"nanograd: {said}\n"


def test_help_imports_nothing_slow():
    code = """
import sys
from nanograd.cli import main
try:
    main(["--help"])
finally:
    slow = {"numpy", "ray", "pyarrow", "PIL", "safetensors", "jinja2"} & set(sys.modules)
    sys.stderr.write(f"imported: {sorted(slow)}")
"""

    done = run_python(code)

    assert done.returncode == 0
    assert "Usage: nanograd" in done.stdout
    assert done.stderr == "imported: []"
