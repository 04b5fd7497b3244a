"""The page of `nanograd review`, served on this machine's loopback address only.

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
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from secrets import compare_digest, token_urlsafe
from socketserver import ThreadingTCPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

from nanograd.errors import NanogradError, UnavailableError
from nanograd.jobs.corrections import Decisions
from nanograd.report.html import render
from nanograd.runtime.events import Listener, info
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.specs import ReviewSpec

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
