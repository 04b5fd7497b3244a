"""The page of `nanograd review`: the decisions of a person about the rows of a review list.

    OUT/_corrections.pq    a row per decision, in order: the columns of the list without its scores.
                           The label is null if the picture shows no digit

`nanograd train --data` and `nanograd evaluate --data` read this file. Each decision and each undo
commits the whole file, so the file is complete at any moment. A decision belongs to the picture of
a row: if the list is made again, rows with the same picture stay decided.

The page is served on this machine's loopback address only:

    GET  /?token=...                            the page
    POST /?token=...  {"row": 12, "label": 7}   a decision; a label of null is no digit
    POST /?token=...  {"row": 12}               undo of the last decision, which is about this row

The answer to POST is the state that the page shows next. Its status is 409 if the row was decided
in another window, or if its decision is not the last. Requests from web sites that are open in the
same browser are refused: they have no token, and their Host or Origin is not this server's.

References:
    RFC 9110, 15.5 (status codes); W3C, "Content Security Policy Level 3", 6.
"""

import json
import os
import re
import sys
import webbrowser
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from secrets import compare_digest, token_urlsafe
from socketserver import ThreadingTCPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs

import pyarrow as pa

from nanograd.errors import DataError, NanogradError, StorageError, UnavailableError
from nanograd.images.inputs import Origin
from nanograd.images.parquet import check_storage, open_parquet
from nanograd.images.writers import PICTURE, PREDICTIONS, SOURCE, to_parquet
from nanograd.jobs.output import CORRECTIONS, MANIFEST, REVIEW, SUCCESS, Manifest
from nanograd.models.reference import UNFAMILIAR
from nanograd.report.html import render
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, info
from nanograd.runtime.json_files import JsonObject
from nanograd.runtime.lease import Lease
from nanograd.settings.specs import ReviewSpec

_TYPES = {**{field.name: field.type for field in PREDICTIONS}, "image": PICTURE}
# Columns that every file of decisions has, and the scores of a list, which decisions do not have.
_SAVED = (*SOURCE.names, "prediction", "label", "image")
_SCORES = ("confidence", "unfamiliarity", "probabilities", "doubt")
# Maximum letters that the page shows of the value of a column.
_MAX_LETTERS = 40

_LOOPBACK = "127.0.0.1"
# The port may be the other end of an SSH tunnel.
_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]+)?", re.IGNORECASE)
# Seconds to wait for a request. Its body has at most 99 bytes.
_TIMEOUT_S, _LENGTH = 10, re.compile("[0-9]{1,2}")
_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
# If one of these variables is set, there is a browser.
_BROWSERS = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")


def read_list(output: str) -> pa.Table:
    """Read the review list of a finished prediction, the most doubtful row first.

    Raises:
        DataError: the folder or the list is missing or damaged, or the prediction is not finished.
        StorageError: reading failed.
    """
    names, place = storage.names(output), storage.join(output, REVIEW)
    if MANIFEST not in names:
        missing = "" if storage.exists(output) else ", because there is no such folder"
        raise DataError(f"{output} is not an output of nanograd predict{missing}; check the path")
    if (command := Manifest.read(output).job.get("command")) != "predict":
        raise DataError(f"{output} was written by {command}; only predictions have a review list")
    if SUCCESS not in names:
        raise DataError(f"{output} is not finished; start its predict command again, then review")
    if REVIEW not in names:
        text = f"{place} does not exist; start the predict command again, which makes it if its"
        raise DataError(f"{text} --review-share is above 0")
    return _read(place, (*_SAVED, "confidence", "unfamiliarity"))


class Decisions:
    """The decisions about the rows that `read_list` found in an output, which this process holds.

    Threads may call the methods at the same time.

    Raises:
        DataError: the file of decisions is damaged, another program wrote it, or a kept column has
            got another type.
    """

    def __init__(self, output: str, rows: pa.Table, lease: Lease) -> None:
        self.output, self.file = output, storage.join(output, CORRECTIONS)
        self._rows, self._lease, self._lock, self._is_closed = rows, lease, Lock(), False
        self._saved = [name for name in rows.column_names if name not in _SCORES]
        self._table = rows.select(self._saved).slice(0, 0)
        if storage.exists(self.file):
            old = _read(self.file, _SAVED)
            try:
                self._table = pa.concat_tables([old, self._table], promote_options="permissive")
            except pa.ArrowTypeError as error:
                text = f"{self.file} has columns that do not fit the list ({error})"
                raise DataError(f"{text}; move it to another folder") from error
        numbers = {picture: number for number, picture in enumerate(_pictures(rows))}
        # The row of each decision; None if the list does not have it.
        self._order = [numbers.get(picture) for picture in _pictures(self._table)]
        found = zip(self._order, self._table["label"].to_pylist(), strict=True)
        self._labels: dict[int, int | None] = {r: label for r, label in found if r is not None}

    def __len__(self) -> int:
        return len(self._rows)

    def decide(self, row: int, label: int | None) -> bool:
        """Save a digit as the label of a row, or None if its picture shows no digit.

        An earlier label that differs is kept; the result is then False.

        Raises:
            StorageError: saving failed; the label is not recorded.
            OutputExistsError: another process holds the output.
        """
        with self._lock:
            if row in self._labels:
                return self._labels[row] == label
            # In Arrow's types, because Python's lack nanoseconds and years after 9999.
            added = self._rows.select(self._saved).slice(row, 1)
            column = pa.array([label], _TYPES["label"])
            added = added.set_column(self._saved.index("label"), "label", column)
            table = pa.concat_tables([self._table, added], promote_options="default")
            # A table of many chunks takes long to encode.
            self._commit(table.combine_chunks())
            self._order.append(row)
            self._labels[row] = label
            return True

    def undo(self, row: int) -> bool:
        """Remove the last decision; return False if it is not about this row. Raise as `decide`."""
        with self._lock:
            if self._order[-1:] != [row]:
                return False
            self._commit(self._table.slice(0, len(self._table) - 1))
            self._order.pop()
            self._labels.pop(row, None)
            return True

    def state(self, row: int | None = None) -> JsonObject:
        """Return what the page shows: `row` or, if it is None or decided, the next undecided row.

        In the result, `row` is None if all rows are decided, and `last` is the row whose decision
        `undo` would remove.
        """
        with self._lock:
            if row is None or row in self._labels:
                row = next((each for each in range(len(self)) if each not in self._labels), None)
            state = {"row": row, "rows": len(self), "decided": len(self._labels)}
            state["last"] = self._order[-1] if self._order else None
        if row is None:
            return state
        names = self._saved[: self._saved.index("path")]
        shown = [*names, *(n for n in ("line", "position") if n in self._saved[len(names) :])]
        about = [f"{name}: {_text(self._rows[name][row])[:_MAX_LETTERS]}" for name in shown]
        [found] = self._rows.drop_columns(names).slice(row, 1).to_pylist()
        return {
            **state,
            "place": " · ".join([Origin.of(found).place, *about]),
            "is_unfamiliar": (found["unfamiliarity"] or 0) > UNFAMILIAR,
            "probabilities": found.get("probabilities"),
            "image": b64encode(found["image"]["bytes"]).decode(),
            **{name: found[name] for name in ("prediction", "confidence", "label")},
        }

    def close(self) -> dict[str, int]:
        """Save nothing more; return the counts of all decisions, and of the rows without one."""
        with self._lock:
            self._is_closed = True
        columns = (self._table[name].to_pylist() for name in ("prediction", "label"))
        kinds = Counter(
            "no_digit" if label is None else "confirmed" if label == digit else "corrected"
            for digit, label in zip(*columns, strict=True)
        )
        counts = {name: kinds[name] for name in ("corrected", "confirmed", "no_digit")}
        left = len(self) - len(self._labels)
        return {"rows": len(self), "reviewed": kinds.total(), **counts, "left": left}

    def _commit(self, table: pa.Table) -> None:
        if self._is_closed:
            raise StorageError("the review has ended, and nothing more is saved")
        self._lease.check()
        storage.commit(self.file, to_parquet(table))
        self._table = table


def _read(place: str, needed: Sequence[str]) -> pa.Table:
    """Read a Parquet file that has the `needed` columns with their types."""
    try:
        with open_parquet(place) as parquet:
            table = parquet.read()
        wrong = [name for name in needed if table.schema.field(name).type != _TYPES[name]]
        if wrong:
            raise DataError(f"{wrong} have other types")
        return table.replace_schema_metadata()
    except (DataError, pa.ArrowException, OSError, KeyError) as error:
        check_storage(place, error)
        raise DataError(f"{place} is damaged, or another program wrote it; move it away") from error


def _text(value: pa.Scalar) -> str:
    try:
        return str(value)
    except (OverflowError, ValueError):  # Python has no value for it
        return "out of range"


def _pictures(rows: pa.Table) -> list[tuple[str, int, bytes]]:
    """Return what identifies the picture of each row."""
    found = rows.select(["source_file", "source_row", "image"]).to_pylist()
    return [(each["source_file"], each["source_row"], each["image"]["bytes"]) for each in found]


def serve(decisions: Decisions, spec: ReviewSpec, listener: Listener) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UnavailableError: the port is not free.
    """
    try:
        server = _Server(decisions, spec.port or 0)
    except OSError as error:
        text = f"cannot listen on port {spec.port} of {_LOOPBACK}: {error.strerror}"
        raise UnavailableError(f"{text}; choose another --port") from error
    with server, suppress(KeyboardInterrupt):
        listener(info(f"review the rows at {server.address(server.token)} (Ctrl-C ends it)"))
        if not spec.no_browser and any(map(os.getenv, _BROWSERS)):
            address = server.address(server.one_time_token)
            # The start of a browser may wait until the page is loaded.
            Thread(target=webbrowser.open, args=[address], daemon=True).start()
        server.serve_forever()


class _Server(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, decisions: Decisions, port: int) -> None:
        self.decisions, self.token = decisions, token_urlsafe()
        # Other users of the machine can read it on the command line of the browser.
        self.one_time_token = token_urlsafe()
        super().__init__((_LOOPBACK, port), _Handler)

    def address(self, token: str) -> str:
        return f"http://{_LOOPBACK}:{self.server_address[1]}/?token={token}"

    def accepts(self, token: str) -> bool:
        if compare_digest(token.encode(), self.one_time_token.encode()):
            self.one_time_token = token_urlsafe()
            return True
        return compare_digest(token.encode(), self.token.encode())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the error of a request, unless the browser has closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _TIMEOUT_S
    server_version, sys_version = "nanograd", ""

    def do_GET(self) -> None:
        """Answer with the page."""
        if self._is_allowed():
            nonce, decisions = token_urlsafe(), self.server.decisions
            state = {"token": self.server.token, **decisions.state()}
            page = render("review.html", state=state, nonce=nonce, decisions=decisions)
            self._send(HTTPStatus.OK, "text/html", page, nonce)

    def do_POST(self) -> None:
        """Take or undo a decision, and answer with the new state."""
        length, decisions = self.headers.get("Content-Length", ""), self.server.decisions
        is_short = _LENGTH.fullmatch(length) is not None
        change = self._parse(self.rfile.read(int(length))) if is_short else None
        if not self._is_allowed():
            return
        if change is None:
            code = HTTPStatus.BAD_REQUEST if is_short else HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            self._refuse(code, "expected the number of a row, and a digit")
            return
        row, is_undo = change["row"], "label" not in change
        try:
            done = decisions.undo(row) if is_undo else decisions.decide(row, change["label"])
        except NanogradError as error:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
            return
        state = decisions.state(row if is_undo else None)
        code = HTTPStatus.OK if done else HTTPStatus.CONFLICT
        self._send(code, "application/json", json.dumps(state))

    def _parse(self, data: bytes) -> JsonObject | None:
        """Return the row and the label in a body; None if it is anything else."""
        with suppress(ValueError):
            found = json.loads(data)
            if isinstance(found, dict) and {"row"} <= found.keys() <= {"row", "label"}:
                row, label = found["row"], found.get("label")
                is_row = type(row) is int and 0 <= row < len(self.server.decisions)
                is_label = label is None or (type(label) is int and 0 <= label <= 9)
                return found if is_row and is_label else None
        return None

    def _is_allowed(self) -> bool:
        """Check host, path, origin and token of a request; refuse it unless all are right."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        path, _, query = self.path.partition("?")
        token = parse_qs(query).get("token", [""])[0]
        if not _HOST.fullmatch(host):
            self._refuse(HTTPStatus.FORBIDDEN, f"{host} is not a name of this machine")
        elif path != "/":
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        elif origin not in (None, f"http://{host}") or not self.server.accepts(token):
            text = "open the address that nanograd review has printed, with its token"
            self._refuse(HTTPStatus.FORBIDDEN, text)
        else:
            return True
        return False

    def _refuse(self, code: HTTPStatus, text: str) -> None:
        self._send(code, "text/plain", text)

    def _send(self, code: HTTPStatus, type_: str, text: str, nonce: str = "") -> None:
        data = text.encode(errors="backslashreplace")
        self.send_response(code)
        for name, value in {
            "Content-Type": f"{type_}; charset=utf-8",
            "Content-Length": str(len(data)),
            "Content-Security-Policy": f"{_POLICY}; script-src 'nonce-{nonce}'; "
            f"style-src 'nonce-{nonce}'",
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name there
        """Log nothing: a request line has the token."""
