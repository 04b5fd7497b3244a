"""The page of `nanograd review` by HTTP: decisions, refused requests, kills, two windows."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from threading import Event as StopSignal

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import nanograd
from nanograd.digits.dataset import Mnist
from nanograd.images import sources
from simulators.waiting import wait_for
from tests.helpers.folders import contents
from tests.helpers.reviews import Reviewer, corrections, predict

ROWS = 29


def test_decisions_are_rows_to_train_and_evaluate_with(output):
    before = contents(Path(output))
    reviewer = Reviewer(output)
    state = reviewer.page()
    listed = pq.read_table(f"{output}/_review.pq").to_pylist()
    labels = [row["prediction"] if number % 3 else number % 10 for number, row in enumerate(listed)]
    labels[5] = None

    for number, label in enumerate(labels):
        assert (state["row"], state["decided"], state["rows"]) == (number, number, ROWS)
        assert state["prediction"] == listed[number]["prediction"]
        code, state = reviewer.send(row=number, label=label)
        assert code == 200
    line, log = reviewer.end()

    confirmed = sum(a == b["prediction"] for a, b in zip(labels, listed, strict=True))
    counts = {"corrected": ROWS - confirmed - 1, "confirmed": confirmed, "no_digit": 1}
    file = f"{output}/_corrections.pq"
    assert line == {
        "event": "result", "command": "review", "rows": ROWS, "reviewed": ROWS, "left": 0,
        "corrections": file, **counts,
    }  # fmt: skip
    assert f"next: nanograd train --data auto --data {file}" in log
    assert state["row"] is None
    after = contents(Path(output))
    assert after.keys() - before.keys() == {"_corrections.pq"}
    assert {name: after[name] for name in before} == before
    data = sources.load_test([file])
    known = [number for number, label in enumerate(labels) if label is not None]
    pictures = [Image.open(BytesIO(listed[number]["image"]["bytes"])) for number in known]
    assert np.array_equal(data.images, np.stack([np.asarray(each).ravel() for each in pictures]))
    assert data.labels.tolist() == [labels[number] for number in known]
    model = f"{Path(output).parent}/model"
    assert nanograd.evaluate(model, data=file).images == ROWS - 1
    run = {"hidden": 8, "epochs": 1, "warmup": 0, "batch_size": 64}
    nanograd.train(data=["sample", file], output=Path(output).parent / "run", **run)


def test_undo_takes_the_last_decision_even_after_a_restart(output, reviewer):
    for row in range(3):
        reviewer.send(row=row, label=row)

    assert reviewer.send(row=1)[0] == 409
    code, state = reviewer.send(row=2)
    assert (code, state["row"], state["last"], state["decided"]) == (200, 2, 1, 2)
    reviewer.end()
    again = Reviewer(output)
    assert [again.page()[name] for name in ("row", "last", "decided")] == [2, 1, 2]
    assert again.send(row=1)[1]["row"] == 1
    assert again.send(row=1, label=7)[1]["row"] == 2
    again.send(row=1)
    again.send(row=0)
    code, state = again.send(row=0)
    assert (code, state["last"], state["decided"]) == (409, None, 0)
    line, log = again.end()

    assert (line["reviewed"], line["left"], line["corrections"]) == (0, ROWS, None)
    assert "next:" not in log
    assert corrections(output) == []


HOSTILE = "http://127.0.0.1.evil.example"
REFUSED: dict[str, tuple[int, str, str, str | None, dict[str, str]]] = {
    # status, method, path, body, headers
    "foreign host": (403, "GET", "/", None, {"Host": "127.0.0.1.evil.example:{port}"}),
    "foreign host of a decision": (403, "POST", "/", "{}", {"Host": "evil.example"}),
    "no host": (403, "GET", "/", None, {"Host": ""}),
    "no token": (403, "GET", "?", None, {}),
    "no token of a decision": (403, "POST", "?", '{"row": 0, "label": 7}', {}),
    "token of other letters": (403, "GET", "?token=%C3%B6%FF", None, {}),
    "token only in a header": (403, "GET", "?", None, {"X-Token": "{token}"}),
    "foreign origin": (403, "POST", "/", '{"row": 0, "label": 7}', {"Origin": HOSTILE}),
    "foreign port": (403, "POST", "/", '{"row": 0, "label": 7}', {"Origin": "http://127.0.0.1:1"}),
    "origin null": (403, "POST", "/", '{"row": 0, "label": 7}', {"Origin": "null"}),
    "file of the output": (404, "GET", "/_review.pq", None, {}),
    "path outside": (404, "GET", "/../../etc/passwd", None, {}),
    "encoded path outside": (404, "GET", "/%2e%2e/%2e%2e/etc/passwd", None, {}),
    "whole address": (404, "GET", "http://127.0.0.1/", None, {}),
    "decision elsewhere": (404, "POST", "/decide", '{"row": 0, "label": 7}', {}),
    "large body": (413, "POST", "/", " " * 100, {}),
    "huge body": (413, "POST", "/", None, {"Content-Length": "9" * 5000}),
    "negative body": (413, "POST", "/", None, {"Content-Length": "-1"}),
    "body in chunks": (413, "POST", "/", None, {"Transfer-Encoding": "chunked"}),
    "other method": (501, "OPTIONS", "/", None, {}),
    **{
        f"body {body}": (400, "POST", "/", body, {})
        for body in (
            *("", "{", "null", "7", "[0, 7]", "{}", '{"label": 7}', '{"row": null}', "[" * 99),
            *('{"row": -1, "label": 7}', f'{{"row": {ROWS}, "label": 7}}', '{"row": true}'),
            *('{"row": 0, "label": 10}', '{"row": 0, "label": -1}', '{"row": 0, "label": "7"}'),
            *('{"row": 0, "label": 7.0}', '{"row": 0, "label": true}', '{"row": 0, "file": "x"}'),
            *('{"row": 1e999}', '{"row": NaN}', '{"row": 9999999999999999999999999999999999999}'),
        )
    },
}


@pytest.fixture(scope="module")
def shared(sample: Mnist, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviewer]:
    running = Reviewer(predict(sample.test.take(slice(0, ROWS)), tmp_path_factory.mktemp("shared")))
    yield running
    line, _ = running.end()
    assert line["reviewed"] == 0


@pytest.mark.parametrize("name", REFUSED)
def test_request_is_refused_and_changes_nothing(shared, name):
    expected, method, path, body, headers = REFUSED[name]
    path = shared.path if path == "/" else f"/{path}" if path.startswith("?") else path
    if path.startswith(("/_", "/.", "/%", "/d", "h")):
        path += f"?token={shared.token}"
    filled = {n: v.format(port=shared.port, token=shared.token) for n, v in headers.items()}

    code, text = shared.request(method, path, body, **filled)

    assert code == expected, text
    assert "root:" not in text
    assert shared.token not in text
    assert (shared.page()["decided"], shared.page()["row"]) == (0, 0)


def test_page_may_load_nothing_from_elsewhere_and_is_not_kept(shared):
    with socket.create_connection(("127.0.0.1", shared.port)) as connection:
        connection.sendall(f"GET {shared.path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        head, _, page = connection.makefile("rb").read().decode().partition("\r\n\r\n")

    assert head.startswith("HTTP/1.0 200")
    for words in (
        *("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "no-store"),
        *("no-referrer", "nosniff", "form-action 'none'", "base-uri 'none'"),
    ):
        assert words in head
    assert "unsafe-inline" not in head
    assert "http" not in page.replace("http-equiv", "")
    assert "Python" not in head


def test_silent_and_broken_connections_do_not_stop_the_page(shared):
    silent = [socket.create_connection(("127.0.0.1", shared.port)) for _ in range(20)]
    for number, each in enumerate(silent):
        each.sendall(b"POST / HTTP/1.1\r\nContent-Length: 50\r\n\r\n"[: 3 * number])
    for each in silent[::2]:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        each.close()

    assert shared.page()["row"] == 0
    for each in silent[1::2]:
        each.close()


def decide_all(
    reviewer: Reviewer, acknowledged: dict[int, int], number: int, enough: StopSignal
) -> None:
    """Decide the rows that are left; signal when so many decisions were acknowledged."""
    try:
        row = reviewer.page()["row"]
        while row is not None:
            _, state = reviewer.send(row=row, label=row % 10)
            acknowledged[row] = row % 10
            if len(acknowledged) >= number:
                enough.set()
            row = state["row"]
    finally:
        enough.set()


def test_kill_loses_no_decision_that_was_acknowledged(output):
    acknowledged: dict[int, int] = {}
    kills = 0

    while len(acknowledged) < ROWS:
        reviewer, enough = Reviewer(output), StopSignal()
        assert reviewer.page()["decided"] == len(acknowledged)
        with ThreadPoolExecutor(1) as pool:
            number = min(len(acknowledged) + 7, ROWS)
            stream = pool.submit(decide_all, reviewer, acknowledged, number, enough)
            enough.wait()
            reviewer.kill()
        error, kills = stream.exception(), kills + 1
        assert error is None or isinstance(error, OSError | HTTPException | ValueError), error
        saved = {row: each["label"] for row, each in enumerate(corrections(output))}
        assert saved.items() >= acknowledged.items()
        assert len(saved) - len(acknowledged) in (0, 1)  # saved, but killed before the answer
        acknowledged = saved

    assert kills > 2
    line, _ = Reviewer(output).end()
    assert (line["reviewed"], line["left"]) == (ROWS, 0)
    assert not [each for each in Path(output).iterdir() if each.name.startswith(".")]


def test_two_windows_never_overwrite_each_other(output, reviewer):
    def review(window: int) -> dict[int, int]:
        taken, row = {}, 0
        while row is not None:
            code, state = reviewer.send(row=row, label=window)
            assert code in (200, 409)
            if code == 200:
                taken[row] = window
            row = state["row"]
        return taken

    with ThreadPoolExecutor(4) as pool:
        windows = list(pool.map(review, range(4)))

    taken = {row: label for window in windows for row, label in window.items()}
    assert sum(map(len, windows)) == len(taken) == ROWS
    listed = pq.read_table(f"{output}/_review.pq").to_pylist()
    numbers = {row["source_row"]: number for number, row in enumerate(listed)}
    saved = {numbers[each["source_row"]]: each["label"] for each in corrections(output)}
    assert saved == taken
    assert reviewer.send(row=3, label=taken[3])[0] == 200  # the answer was lost, and is asked again
    assert len(corrections(output)) == ROWS


def test_address_for_the_browser_is_valid_once(monkeypatch, output, tmp_path):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened.part\n'
                       f"mv {tmp_path}/opened.part {tmp_path}/opened\n")  # fmt: skip
    browser.chmod(0o700)
    monkeypatch.setattr("tests.helpers.reviews.NO_BROWSER", ())
    reviewer = Reviewer(output, BROWSER=f"{browser} %s")
    wait_for((tmp_path / "opened").exists, "the browser")
    path = (tmp_path / "opened").read_text().strip().removeprefix(reviewer.address.split("/?")[0])

    codes = [reviewer.request("GET", path)[0] for _ in range(2)]

    assert path != reviewer.path
    assert codes == [200, 403]
    assert reviewer.page()["token"] == reviewer.token
    reviewer.kill()


def test_busy_port_and_second_command_are_refused(output, reviewer, nanograd):
    for words in (("review", output, "--no-browser"), ("report", output)):
        second = nanograd(*words)
        assert second.code == 73
        assert "is being written by another command" in second.stderr
        assert "output" not in second.stderr.partition(f"{output} is being")[2]
    line, _ = reviewer.end()
    assert line["rows"] == ROWS

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = nanograd("review", output, "--no-browser", "--port", port)
    assert done.code == 69
    assert f"port {port} of 127.0.0.1" in done.stderr
    assert nanograd("review", output, "--port", "0").code == 2


def test_decision_that_cannot_be_saved_is_not_taken(output, reviewer):
    body, file = '{"row": 0, "label": 7}', Path(output) / "_corrections.pq"
    file.mkdir()

    code, text = reviewer.request("POST", reviewer.path, body)

    assert (code, reviewer.page()["decided"]) == (503, 0)
    assert str(file) in text
    file.rmdir()
    assert reviewer.request("POST", reviewer.path, body)[0] == 200
    assert [row["label"] for row in corrections(output)] == [7]
