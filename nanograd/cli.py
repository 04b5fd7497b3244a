"""The command line: flags in, one JSON line out, a documented exit code.

Progress and sentences go to stderr. stdout ends with `{"event": "result", ...}` or
`{"event": "error", ...}`, because `ray job submit` flattens every failure to exit code 1.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click

from nanograd import __version__
from nanograd.config.command_configs import (
    EvaluateConfig,
    ExportConfig,
    IngestConfig,
    InspectConfig,
    JobConfig,
    PredictConfig,
)
from nanograd.config.flags import debug, with_settings
from nanograd.config.train_config import TrainConfig
from nanograd.errors import NanogradError, UsageError
from nanograd.runtime.events import Show
from nanograd.runtime.signals import Terminated, sigterm_raises


@click.group(
    context_settings={
        "auto_envvar_prefix": "NANOGRAD",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    }
)
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Train a three-layer perceptron on handwritten digits with Ray, and read pictures with it."""


@cli.command()
@with_settings(TrainConfig)
def train(config: TrainConfig) -> None:
    """Train a net, with Ray workers or in this process."""
    from nanograd import commands
    from nanograd.console import closing

    with _listener(config) as (say, show):
        figures = commands.train(config, say, show)
        say(closing.of_training(figures))
    _result("train", figures)


@cli.command()
@click.argument("inputs", metavar="PATH...", nargs=-1, required=True)
@with_settings(IngestConfig)
def ingest(config: IngestConfig, inputs: tuple[str, ...]) -> None:
    """Turn pictures (files, folders, globs) into Parquet."""
    from nanograd import commands
    from nanograd.console import closing

    with _listener(config) as (say, show):
        figures = commands.ingest(config, inputs, say, show)
        say(closing.of_ingest(figures))
    _result("ingest", figures)


@cli.command()
@click.argument("inputs", metavar="PICTURE...", nargs=-1, required=True)
@with_settings(InspectConfig)
def inspect(config: InspectConfig, inputs: tuple[str, ...]) -> None:
    """Draw each step from a picture to the scores."""
    from nanograd import commands
    from nanograd.console import closing

    figures = commands.inspect(config, inputs, _say)
    _say(closing.of_inspection(figures))
    _result("inspect", figures)


@cli.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@with_settings(PredictConfig)
def predict(config: PredictConfig, inputs: tuple[str, ...]) -> None:
    """Read the digits in Parquet files (files, folders, globs)."""
    from nanograd import commands
    from nanograd.console import closing

    with _listener(config) as (say, show):
        figures = commands.predict(config, inputs, say, show)
        say(closing.of_prediction(figures, config.format))
    _result("predict", figures)


@cli.command()
@with_settings(EvaluateConfig)
def evaluate(config: EvaluateConfig) -> None:
    """Measure a model on a labelled test set."""
    from nanograd import commands

    _result("evaluate", commands.evaluate(config, _say, click.echo))


@cli.command()
@with_settings(ExportConfig)
def export(config: ExportConfig) -> None:
    """Write a model as an ONNX graph: pixels in, ten scores out."""
    from nanograd import commands

    _result("export", commands.export_model(config))


@cli.command()
@click.argument("run", metavar="RUN")
@click.option("--data", help="whose test images to read [default: those of the run]")
@click.option("--plots", is_flag=True, help="write its plots as PNG files, too (extra: plots)")
@debug
def report(run: str, data: str | None, plots: bool) -> None:
    """Write the report of a run or prediction anew."""
    from nanograd import commands

    _result("report", commands.report(run, data, _say, as_png=plots))


@cli.command()
@click.option("--output", default="demo", show_default=True, help="folder for all it makes")
@debug
def demo(output: str) -> None:
    """The whole pipeline on the built-in sample, offline."""
    from nanograd.commands import demo as steps

    results = sys.stdout  # while Ray is in use, what is printed goes to stderr
    with _listener(JobConfig()) as (say, show):
        for command, figures in steps(output, say, show):
            _result(command, figures, results)


@cli.group()
def data() -> None:
    """Fetch MNIST, look at data, write it out as pictures."""


@data.command()
@click.option("--mirror", "mirrors", multiple=True, help="URL to try first; may be repeated")
@debug
def fetch(mirrors: tuple[str, ...]) -> None:
    """Download MNIST into the cache, verified."""
    from nanograd import commands

    _result("data fetch", commands.data_fetch(mirrors, _say))


@data.command()
@click.option("--data", "source", default="auto", show_default=True, help="as of `train`")
@debug
def info(source: str) -> None:
    """What a data set holds: counts, classes, checksum."""
    from nanograd import commands

    _result("data info", commands.data_info(source, _say))


@data.command("export")
@click.option("--data", "source", default="auto", show_default=True, help="as of `train`")
@click.option("--output", required=True, help="folder for the pictures, a subfolder a class")
@debug
def export_data(source: str, output: str) -> None:
    """Write a test set as a folder of pictures."""
    from nanograd import commands

    _result("data export", commands.data_export(source, output, _say))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code.

    Args:
        arguments: command and flags; None for those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    memory: dict[str, Any] = {"debug": False, "log_format": "auto"}
    try:
        with sigterm_raises():
            cli.main(words, prog_name="nanograd", obj=memory, standalone_mode=False)
        code = 0
    except (KeyboardInterrupt, Terminated, Exception) as error:  # noqa: BLE001 - the door: one line, one code
        if memory["debug"]:
            traceback.print_exc()
        code = _fail(words, _meant(error), as_json=memory["log_format"] == "json")
    sys.exit(code)


def _meant(error: BaseException) -> BaseException:
    """What click raises as our own errors."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        _say(error.format_message())
        return UsageError("say which command (--help lists them)")
    if isinstance(error, click.ClickException):
        return UsageError(f"{error.format_message()} (--help lists all flags)")
    return KeyboardInterrupt() if isinstance(error, click.Abort) else error


def _result(command: str, figures: dict[str, Any], file: TextIO | None = None) -> None:
    click.echo(json.dumps({"event": "result", "command": command, **figures}), file)


def _fail(words: list[str], error: BaseException, *, as_json: bool) -> int:
    from nanograd.console.log_lines import ERROR, Lines

    code, reason = 70, f"{type(error).__name__}: {error}; please report this (--debug shows where)"
    if isinstance(error, NanogradError):
        code, reason = error.exit_code, str(error)
    elif isinstance(error, KeyboardInterrupt):
        goes_on = words[:1] in (["ingest"], ["predict"])
        code, reason = 130, "interrupted" + "; the same command goes on" * goes_on
    elif isinstance(error, Terminated):
        code, reason = 75, "stopped by SIGTERM; the same command, with the same output, goes on"
    Lines(_say, as_json=as_json).say(f"{ERROR}{reason}")
    known = words[0] if words and words[0] in cli.commands else None
    if known == "data" and len(words) > 1 and words[1] in data.commands:
        known = f"data {words[1]}"
    click.echo(json.dumps({"event": "error", "command": known, "code": code, "reason": reason}))
    return code


@contextmanager
def _listener(config: JobConfig) -> Iterator[tuple[Callable[[str], None], Show]]:
    """Who is told of a job: sentences and figures."""
    from nanograd.console.terminal import listener

    click.get_current_context().ensure_object(dict)["log_format"] = config.log_format
    with listener(config.log_format, quiet=config.quiet, stream=sys.stderr) as found:
        yield found.say, found.show


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)
