import builtins
import json
import os
import pty
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from nanograd.console.log_lines import JsonLog, TextLog
from nanograd.console.terminal import LiveView, shown, stderr_listener
from nanograd.runtime import events
from nanograd.runtime.events import Event, Listener, WorkerState, info, warning
from tests.helpers.events import EPOCH, ROUNDS, ROWS
from tests.helpers.processes import read_all


def lines_of(timed: list[tuple[float, Event]], log_class: type[TextLog] = TextLog) -> list[str]:
    """The lines of events that come at these times."""
    written: list[str] = []
    now = [0.0]
    log = log_class(written.append, clock=lambda: now[0])
    for time, event in timed:
        now[0] = time
        log(event)
    return written


def drawn(event: Event, width: int, num_epochs: int = 0) -> str:
    console = Console(file=StringIO(), width=width)
    view = LiveView(console)
    for _ in range(num_epochs):
        view(EPOCH)
    console.print(view.view(event))
    return console.file.getvalue()  # type: ignore[attr-defined]


def on_a_terminal(use: Callable[[Listener], None]) -> str:
    """What a listener writes to a terminal, until a job ends or is interrupted."""
    ours, theirs = pty.openpty()
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(read_all, ours)
        with (
            os.fdopen(theirs, "w") as stream,
            suppress(KeyboardInterrupt),
            stderr_listener("auto", quiet=False, stream=stream) as listener,
        ):
            use(listener)
        text = written.result()
    os.close(ours)
    return text


def test_progress_has_a_line_every_five_seconds_and_one_at_the_end():
    timed = [(each / 2, replace(ROWS, part=each)) for each in range(25)]

    lines = lines_of([*timed, (12.1, replace(ROWS, part=25, complete=True))])

    assert [line.split()[2] for line in lines] == ["10/10", "20/10", "25/10"]


UNKNOWN = replace(ROUNDS, loss=None, val_accuracy=None, left_s=None, workers={}, nets=3)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            ROUNDS,
            "train  epoch 4/10  round 412/1,060  104 rounds/s  53,120 images/s  loss 0.0812  "
            "validation 98.71 %  1 of 2 workers  6 s left",
        ),
        (UNKNOWN, "train  net 1/3  epoch 4/10  round 412/1,060  104 rounds/s  53,120 images/s"),
    ],
)
def test_line_of_progress_has_what_is_known(event, line):
    assert TextLog(print).line(event) == line


def test_json_log_has_every_epoch_and_progress_with_their_fields():
    epoch, progress = map(json.loads, lines_of([(0, ROUNDS), (1, EPOCH), (6, ROUNDS)], JsonLog))

    assert epoch.pop("time").endswith("Z")
    assert epoch == EPOCH.record()
    assert progress.items() >= ROUNDS.record().items()
    assert progress["workers"] == {"0": "working", "1": "starting"}


@pytest.mark.parametrize(
    ("event", "text", "level"),
    [
        (info("20 images"), "20 images", "info"),
        (warning("no report"), "WARNING: no report", "warning"),
        (
            events.Message(text="no such file", level=events.Level.ERROR),
            "nanograd: no such file",
            "error",
        ),
        (info("\ndone\n  model  x\0"), "\ndone\n  model  x\\x00", "info"),
        (warning("\x1b[31m7\ntrained in 1 s"), r"WARNING: \x1b[31m7\ntrained in 1 s", "warning"),
    ],
)
def test_message_has_its_level_in_text_and_json(event, text, level):
    [line] = lines_of([(0, event)])
    [record] = map(json.loads, lines_of([(0, event)], JsonLog))

    assert line == text
    assert (record["event"], record["level"]) == ("message", level)
    assert record["message"] == event.text.strip()


def test_quiet_passes_on_only_warnings_and_errors():
    stream = StringIO()

    with stderr_listener("auto", quiet=True, stream=stream) as listener:
        listener(info("2 workers"))
        listener(warning("no report"))
        listener(replace(ROWS, complete=True))

    assert stream.getvalue() == "WARNING: no report\n"


@pytest.mark.parametrize(("event", "num_epochs"), [(ROWS, 0), (ROUNDS, 7)])
def test_view_fits_the_terminal(event, num_epochs):
    rows = drawn(event, 80, num_epochs).splitlines()

    assert max(map(len, rows)) <= 80
    # Nothing is wrapped: bar and measures; for training also workers, a header and five epochs.
    assert len(rows) == (2 + 1 + 1 + 5 if num_epochs else 2)
    assert ("round 412/1,060" if num_epochs else "row 2,000/10,000") in rows[0]


@pytest.mark.parametrize(
    ("width", "names"),
    [(46, "epoch loss validation images/s seconds"), (45, "epoch loss validation images/s"),
     (20, "epoch loss")],
)  # fmt: skip
def test_narrow_terminal_has_fewer_columns_of_epochs(width, names):
    rows = [row.split() for row in drawn(ROUNDS, width, 2).splitlines()]

    assert names.split() in rows
    assert len(rows[-1]) == len(rows[-2]) == len(names.split()) + ("validation" in names)


def test_view_has_a_line_of_workers():
    many = {str(rank): WorkerState.WORKING for rank in range(64)}
    lines = {
        "in this process": {},
        "workers  ● 0 ○ 1 starting": ROUNDS.workers,
        "workers  ● 0 ● 1 ● 2": many,
    }
    for line, workers in lines.items():
        rows = drawn(replace(ROUNDS, workers=workers), 80).splitlines()
        assert [row for row in rows if row.startswith(line)]
        assert max(map(len, rows)) <= 80


@pytest.mark.parametrize("fails", [False, True])
def test_terminal_has_a_live_view_whose_last_state_stays(fails):
    def use(listener: Any) -> None:
        assert isinstance(listener, LiveView)
        listener(info("20 images"))
        listener(replace(ROUNDS, round=1060, complete=not fails))
        if fails:
            raise KeyboardInterrupt

    written = on_a_terminal(use)

    assert "20 images" in written
    assert "1,060/1,060" in written
    assert written.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_dumb_terminal_has_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")

    written = on_a_terminal(lambda listener: listener(replace(ROWS, complete=True)))

    assert written.startswith("predict  part 2/10")


class ZMQInteractiveShell:
    """A shell as notebooks have it."""


class Cell:
    """What IPython displays, and replaces, below a cell."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> "Cell":
        self.update(data, raw=raw)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        self.texts.append(data["text/plain"])


def test_notebook_has_a_view_that_is_replaced_and_no_widgets(monkeypatch, capsys):
    cell = Cell()
    monkeypatch.setitem(builtins.__dict__, "get_ipython", ZMQInteractiveShell)
    monkeypatch.setitem(sys.modules, "IPython.display", cell)  # type: ignore[arg-type]

    with shown(events.log_warnings, progress=True) as listener:
        listener(info("20 images"))
        for round_ in (1, 2, 3):  # only the first and the last are shown at once
            listener(replace(ROUNDS, round=round_))
        listener(EPOCH)
        listener(replace(ROUNDS, round=1060, complete=True))

    first, last = cell.texts
    assert "round 1/1,060" in first
    assert "1,060/1,060" in last
    assert "98.52 %" in last
    assert "\x1b" not in last
    assert capsys.readouterr() == ("20 images\n", "")


def test_no_color_is_respected(monkeypatch):
    def use(listener: Listener) -> None:
        listener(warning("no report"))
        listener(ROUNDS)

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    without = on_a_terminal(use)
    monkeypatch.delenv("NO_COLOR")
    coloured = on_a_terminal(use)

    assert "\x1b[33m" in coloured
    assert not any(f"\x1b[{code}m" in without for code in (31, 32, 33, 36))
