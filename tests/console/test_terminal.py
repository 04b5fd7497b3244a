import errno
import json
import os
import pty
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from nanograd.console import closing
from nanograd.console.log_lines import Lines, line
from nanograd.console.terminal import LiveView, listener, view
from nanograd.runtime.events import Figures

ROWS = {
    "event": "progress",
    "command": "predict",
    "part": 2,
    "parts": 10,
    "row": 2000,
    "rows": 10_000,
    "rows_per_s": 412.4,
    "quarantined": 3,
    "left_s": 19.4,
    "complete": False,
}
ROUNDS = {
    "event": "progress",
    "command": "train",
    "net": 1,
    "nets": 1,
    "epoch": 4,
    "epochs": 10,
    "round": 412,
    "rounds": 1060,
    "rounds_per_s": 104.2,
    "images_per_s": 53_120,
    "loss": 0.08123,
    "val_accuracy": 0.9871,
    "left_s": 6.2,
    "workers": {"0": "working", "1": "starting"},
    "complete": False,
}
EPOCH = {
    "event": "epoch",
    "command": "train",
    "epoch": 3,
    "round": 318,
    "loss": 0.0912,
    "val_accuracy": 0.9852,
    "train_s": 3.1,
    "images_per_s": 52_000,
}


def lines_of(shown: list[tuple[float, Figures]], **how: Any) -> list[str]:
    """The lines for figures that come at these times."""
    written: list[str] = []
    now = [0.0]
    lines = Lines(written.append, clock=lambda: now[0], **how)
    for time, figures in shown:
        now[0] = time
        lines.show(figures)
    return written


def drawn(figures: Figures, width: int, epochs: list[Figures]) -> str:
    stream = StringIO()
    Console(file=stream, width=width).print(view(figures, epochs))
    return stream.getvalue()


def on_a_terminal(use: Callable[[Any], None]) -> str:
    """What is written to a terminal by who listens there."""
    ours, theirs = pty.openpty()
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(read_all, ours)
        with (
            os.fdopen(theirs, "w") as stream,
            listener("auto", quiet=False, stream=stream) as found,
        ):
            use(found)
        text = written.result()
    os.close(ours)
    return text


def read_all(terminal: int) -> str:
    """What comes out of a terminal until its other side is closed."""
    data = b""
    try:
        while new := os.read(terminal, 10_000):
            data += new
    except OSError as error:
        assert error.errno == errno.EIO  # how Linux says that
    return data.decode()


def test_figures_have_a_line_every_five_seconds_and_one_at_the_end() -> None:
    shown = [(float(each) / 2, {**ROWS, "part": each}) for each in range(25)]

    found = lines_of([*shown, (12.1, {**ROWS, "part": 25, "complete": True})])

    assert [each.split()[2] for each in found] == ["10/10", "20/10", "25/10"]


def test_line_of_each_job_says_how_far_how_fast_how_good_and_how_long() -> None:
    assert line(ROWS) == (
        "predict  part 2/10  row 2,000/10,000  412 rows/s  3 quarantined  19 s left"
    )
    assert line(ROUNDS) == (
        "train  epoch 4/10  round 412/1,060  104 rounds/s  53,120 images/s  loss 0.0812  "
        "validation 98.71 %  1 of 2 workers  6 s left"
    )


def test_run_that_knows_nothing_yet_has_a_line_all_the_same() -> None:
    unknown = {"loss": None, "val_accuracy": None, "left_s": None}

    assert line({**ROUNDS, **unknown, "workers": {}, "nets": 3}) == (
        "train  net 1/3  epoch 4/10  round 412/1,060  104 rounds/s  53,120 images/s"
    )


def test_json_has_every_epoch_and_the_figures_under_their_names() -> None:
    found = lines_of([(0, ROUNDS), (1, EPOCH), (6, ROUNDS)], as_json=True)

    epoch, progress = map(json.loads, found)
    assert epoch.pop("time").endswith("Z")
    assert epoch == EPOCH
    assert progress.items() >= ROUNDS.items()


@pytest.mark.parametrize(
    ("sentence", "level", "message"),
    [
        ("20 images", "info", "20 images"),
        ("WARNING: no report", "warning", "no report"),
        ("nanograd: no such file", "error", "no such file"),
        ("\ndone\n  model  x", "info", "done\n  model  x"),
    ],
)
def test_json_says_the_level_of_a_sentence(sentence: str, level: str, message: str) -> None:
    written: list[str] = []

    Lines(written.append, as_json=True).say(sentence)

    [found] = map(json.loads, written)
    assert (found["event"], found["level"], found["message"]) == ("message", level, message)


def test_who_wants_quiet_is_told_warnings_alone() -> None:
    stream = StringIO()

    with listener("auto", quiet=True, stream=stream) as found:
        found.say("2 workers")
        found.say("WARNING: no report")
        found.show({**ROWS, "complete": True})

    assert stream.getvalue() == "WARNING: no report\n"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(("figures", "epochs"), [(ROWS, []), (ROUNDS, 7 * [EPOCH])])
def test_view_fits_into_the_terminal(width: int, figures: Figures, epochs: list[Figures]) -> None:
    found = drawn(figures, width, epochs)

    rows = found.splitlines()
    assert max(map(len, rows)) <= width
    # Nothing is wrapped: bar and measures, with training workers, head and five epochs.
    assert len(rows) == (2 + 1 + 1 + 5 if epochs else 2)
    assert "s left" in rows[0]


def test_view_says_who_is_not_working() -> None:
    assert "● 0 ○ 1 starting" in drawn(ROUNDS, 80, [])


def test_view_of_many_workers_stays_in_its_line() -> None:
    states = {str(rank): "working" for rank in range(64)}

    assert max(map(len, drawn({**ROUNDS, "workers": states}, 80, []).splitlines())) <= 80


def test_terminal_has_a_live_view_and_the_last_figures_stay() -> None:
    def use(found: Any) -> None:
        assert isinstance(found, LiveView)
        found.say("20 images")
        found.show({**ROUNDS, "complete": True})

    written = on_a_terminal(use)

    assert "20 images" in written
    assert written.count("done") == 1
    assert written.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_terminal_that_can_do_nothing_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    written = on_a_terminal(lambda found: found.show({**ROWS, "complete": True}))

    assert written.startswith("predict  part 2/10")


def test_no_colour_is_used_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def use(found: Any) -> None:
        found.say("WARNING: no report")
        found.show(ROUNDS)

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    without = on_a_terminal(use)
    monkeypatch.delenv("NO_COLOR")
    coloured = on_a_terminal(use)

    assert "\x1b[33m" in coloured
    assert not any(f"\x1b[{code}m" in without for code in (31, 32, 33, 36))


def test_view_is_closed_when_a_job_fails() -> None:
    def use(found: Any) -> None:
        found.show(ROUNDS)
        raise KeyboardInterrupt

    def survive(found: Any) -> None:
        with pytest.raises(KeyboardInterrupt):
            use(found)

    assert on_a_terminal(survive).rstrip().endswith("\x1b[?25h")


def test_last_words_name_what_was_made_and_the_next_command() -> None:
    trained = closing.of_training(
        {"epochs": 3, "train_s": 9.12, "test_accuracy": 0.9903, "model": "r/model", "report": None}
    )
    ingested = closing.of_ingest(
        {"output": "rows", "ingested": 20, "labelled": 7, "quarantined": 1, "reasons": {"empty": 1}}
    )
    counts = {"predicted": 20, "quarantined": 0, "reasons": {}, "accuracy": None}
    where = {"output": "s3://b/o", "report": "s3://b/o/report.html"}
    read = closing.of_prediction(where | counts, "parquet")

    assert "99.03 %" in trained
    assert "report" not in trained
    assert "nanograd predict rows --model r/model --output read" in trained
    assert "1 quarantined (1 empty)" in ingested
    assert "nanograd predict rows" in ingested
    assert "s3://b/o/predictions" in read
    assert "% of" not in read


def test_last_words_do_not_send_on_who_has_nothing_to_go_on_with() -> None:
    none = {"output": "out", "quarantined": 2, "reasons": {"empty": 2}}
    ingested = closing.of_ingest(none | {"ingested": 0, "labelled": 0})
    read = closing.of_prediction(
        none | {"predicted": 0, "accuracy": None, "report": None}, "parquet"
    )

    assert "nanograd predict" not in ingested
    assert "nanograd inspect" in ingested
    assert "read_table('out/quarantine')" in read
