"""The command line: flags in, one JSON line out, a documented exit code.

Progress and messages go to stderr. The last line of stdout is `{"event": "result", ...}` or
`{"event": "error", ...}`, because `ray job submit` turns every failure into exit code 1. On a
terminal, this line is printed only with `--json`, because the summary on stderr says the same.
"""

import atexit
import errno
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from nanograd import __version__
from nanograd.errors import NanogradError, Stopped, StorageError, UnavailableError, UsageError
from nanograd.runtime import kernel
from nanograd.runtime.events import ImageScored, Level, Listener, Message, info
from nanograd.runtime.json_files import JsonObject
from nanograd.runtime.signals import Terminated, signals_raise
from nanograd.settings import specs
from nanograd.settings.fields import Spec
from nanograd.settings.flags import Command, Places, SpecCommand
from nanograd.settings.train_spec import TrainSpec

if TYPE_CHECKING:
    from nanograd.console.results import Result

# Kubernetes sets variables with these endings for a service whose name begins with nanograd.
_OF_SERVICES = re.compile(r"_SERVICE_(HOST|PORT)|_PORT$|_PORT_\d+_(TCP|UDP)")
# Errors of a standard output that is full or closed.
_NOT_WRITTEN = (errno.ENOSPC, errno.EBADF)
# Functions of `nanograd.batch`; the others are in `nanograd.commands`.
_BATCH = ("ingest", "inspect", "predict", "review")


class _Group(click.Group):
    """A group of commands with the common flags."""

    command_class = Command


@click.group(
    cls=_Group,
    context_settings={
        "auto_envvar_prefix": "NANOGRAD",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Train a three-layer perceptron on handwritten digits with Ray, and classify pictures."""


def _run(function: str, *arguments: Any, **settings: Any) -> None:
    """Run the function of a command, log its summary and print its result line."""
    spec = settings.get("spec")
    if isinstance(spec, TrainSpec) and spec.kernel == kernel.PORTABLE:
        kernel.pin()  # before the commands load numpy
    # Imported here, because `nanograd --help` does not need it, and training needs only a part.
    module = import_module(f"nanograd.{'batch' if function in _BATCH else 'commands'}")
    with _listener(spec) as listener:
        result = getattr(module, function)(*arguments, listener=listener, **settings)
        as_json = click.get_current_context().ensure_object(dict).get("log_format") == "json"
        if sys.stderr.isatty() and not as_json and (rows := result.preview()):
            listener(info(rows))
        listener(info(str(result)))
    _print_line(click.get_current_context().command_path.partition(" ")[2], result)


for _name, _spec, _argument in (
    ("train", TrainSpec, None),
    ("ingest", specs.IngestSpec, "PATH..."),
    ("inspect", specs.InspectSpec, "PICTURE..."),
    ("predict", specs.PredictSpec, "SOURCE..."),
    ("review", specs.ReviewSpec, "OUT"),
    ("evaluate", specs.EvaluateSpec, None),
    ("export", specs.ExportSpec, None),
):
    cli.add_command(SpecCommand(_name, _spec, _argument, partial(_run, _name)))


@cli.command()
@click.argument("run", type=Places(), metavar="RUN")
@click.option(
    "--data",
    type=Places(),
    multiple=True,
    help="data set with test images; may be repeated [default: the run's data set]",
)
@click.option("--plots", is_flag=True, help="also write the charts to plots/ as PNG files")
def report(run: str, data: tuple[str, ...], plots: bool) -> None:
    """Write the report of a run or prediction again."""
    _run("report", run, data, as_png=plots)


@cli.command()
@click.argument("runs", type=Places(), metavar="RUN...", nargs=-1, required=True)
def compare(runs: tuple[str, ...]) -> None:
    """Compare training runs: settings that differ, results, curves."""
    _run("compare", runs)


@cli.command()
@click.option("--output", type=Places(), default="demo", show_default=True, help="output folder")
def demo(output: str) -> None:
    """Run the whole pipeline on the built-in sample, offline."""
    from nanograd import commands

    stdout = sys.stdout  # while Ray is used, sys.stdout is replaced by stderr
    with _listener(specs.JobSpec()) as listener:
        for command, result in commands.demo(output, listener):
            _print_line(command, result, stdout)


@cli.group(cls=_Group)
def data() -> None:
    """Download MNIST, describe a data set, or write it as pictures."""


@data.command()
@click.option("--mirror", "mirrors", multiple=True, help="URL to try first; may be repeated")
def fetch(mirrors: tuple[str, ...]) -> None:
    """Download MNIST into the cache and verify it."""
    _run("fetch_data", mirrors)


data.add_command(SpecCommand("info", specs.DataSpec, None, partial(_run, "describe_data")))
data.add_command(SpecCommand("export", specs.DataExportSpec, None, partial(_run, "export_data")))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command in `arguments`, by default those of this process, and end the process.

    The exit code is the command's.
    """
    codes: list[int] = []
    atexit.register(_end, codes)  # registered first, so it is called last
    codes.append(run(sys.argv[1:] if arguments is None else arguments))
    sys.exit(codes[0])


def _end(codes: list[int]) -> None:
    """End the process at once, without the usual shutdown of Python, with the code in `codes`.

    During a shutdown of Python, a thread of Arrow that releases a Python object could abort the
    process, although the command is complete: https://github.com/apache/arrow/issues/34314. If
    `codes` is empty, the command failed with an exception, and Python ends as usual. Output that
    cannot be written is dropped, because it does not change the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if codes:
        os._exit(codes[0])


def run(arguments: Sequence[str]) -> int:
    """Run the command in `arguments`, print its result or error, and return its exit code."""
    words = list(arguments)
    memory: JsonObject = {"debug": False, "json": False, "log_format": "auto"}
    # Open the null device for each closed standard stream, so that no file gets its number. It is
    # opened for reading for standard output, so that the result line fails.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            flags = os.O_RDONLY if name == "stdout" else os.O_RDWR
            os.open(os.devnull, flags)  # gets the lowest free number, which is `number`
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w"))
    # Ignore Pillow's warnings about metadata. Library functions such as Predictor set no filters.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with signals_raise():
            _refuse_unknown_variables()
            if not Path(__file__).is_file():  # the model, for example, is read as a file
                place = Path(__file__).parents[1]
                raise UnavailableError(f"{place} is an archive; install nanograd, or unpack it")
            cli.main(words, prog_name="nanograd", obj=memory, standalone_mode=False)
        return 0
    except (KeyboardInterrupt, Terminated, Exception) as error:  # noqa: BLE001 - the entry point: one line, one code
        if memory["debug"]:
            _echo_error("".join(traceback.format_exception(error)))
        return _print_error(words, error, memory)


def _refuse_unknown_variables() -> None:
    """Raise UsageError for an environment variable NANOGRAD_... that is no setting."""
    known, groups = {"NANOGRAD_CACHE"}, [("NANOGRAD", cli)]
    for prefix, command in groups:
        options = (each.name for each in command.params if isinstance(each, click.Option))
        known |= {f"{prefix}_{name}".upper() for name in options}
        commands = getattr(command, "commands", {})
        groups += [(f"{prefix}_{name}", each) for name, each in commands.items()]
    for name in os.environ:
        is_ours = name.startswith("NANOGRAD_") and not _OF_SERVICES.search(name)
        if is_ours and name not in known:
            near = get_close_matches(name, known, 1, 0.8)
            hint = f"do you mean {near[0]}?" if near else "unset it"
            raise UsageError(f"unknown environment variable {name}; {hint}")


def _print_line(name: str, result: "Result", file: TextIO | None = None) -> None:
    """Print the result line; on a terminal, only with `--json`."""
    as_json = click.get_current_context().ensure_object(dict)["json"]
    if (file or sys.stdout).isatty() and not as_json:
        return
    _print(json.dumps({"event": "result", "command": name, **result.to_json()}), file)


def _print(line: object, file: TextIO | None = None) -> None:
    """Print to stdout, or to `file`; raise StorageError if that fails."""
    try:
        click.echo(line, file)
    except OSError as error:
        reason = f"cannot write the result to standard output: {error.strerror}"
        raise StorageError(reason) from error


def _print_error(words: list[str], error: BaseException, memory: JsonObject) -> int:
    from nanograd.console.log_lines import JsonLog, TextLog

    code, reason = 70, f"{type(error).__name__}: {error}; please report this (--debug shows where)"
    if isinstance(error, NanogradError):
        code, reason = error.exit_code, str(error)
    elif isinstance(error, click.exceptions.NoArgsIsHelpError):
        _echo_error(error.format_message())
        code, reason = UsageError.exit_code, "name a command (--help lists them)"
    elif isinstance(error, click.ClickException):
        code, reason = UsageError.exit_code, f"{error.format_message()} (--help lists all flags)"
    elif isinstance(error, KeyboardInterrupt | click.Abort):
        resumable = words[:1] in (["ingest"], ["predict"])
        code, reason = 130, "interrupted" + "; run the same command again to continue" * resumable
    elif isinstance(error, OSError) and error.errno in _NOT_WRITTEN:  # of --help, --version
        code, reason = StorageError.exit_code, f"cannot write: {error.strerror}"
    elif isinstance(error, MemoryError) or str(error) == "can't start new thread":
        code, detail = UnavailableError.exit_code, str(error) or "an allocation failed"
        reason = f"not enough memory or threads: {detail}; lower the settings, or raise the limits"
    elif isinstance(error, Terminated):
        code = Stopped.exit_code
        reason = "stopped by SIGTERM; run the same command again, with the same output, to continue"
    reason = "; ".join([reason, *getattr(error, "__notes__", [])])
    log = (JsonLog if memory["log_format"] == "json" else TextLog)(_echo_error)
    log(Message(text=reason, level=Level.ERROR))
    if sys.stdout.isatty() and not memory["json"]:
        return code
    known = words[0] if words and words[0] in cli.commands else None
    if known == "data" and len(words) > 1 and words[1] in data.commands:
        known = f"data {words[1]}"
    with suppress(OSError):  # the exit code says the same
        click.echo(json.dumps({"event": "error", "command": known, "code": code, "reason": reason}))
    return code


@contextmanager
def _listener(spec: Spec | None) -> Iterator[Listener]:
    """Provide the listener for stderr, and remember the log format for errors.

    Scored images are printed to stdout.
    """
    from nanograd.console.terminal import stderr_listener

    log_format, quiet = "text", False
    if isinstance(spec, specs.JobSpec):
        log_format, quiet = spec.log_format, spec.quiet
        click.get_current_context().ensure_object(dict)["log_format"] = log_format
    with stderr_listener(log_format, quiet=quiet, stream=sys.stderr) as listener:
        yield lambda event: _print(event) if isinstance(event, ImageScored) else listener(event)


def _echo_error(line: str) -> None:
    """Print to stderr; ignore errors, because a log must not end a command."""
    with suppress(OSError):
        click.echo(line, err=True)
