"""A proxy before the object store that fails chosen requests for a bucket."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from socket import SHUT_RDWR, socket
from threading import Lock, Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit

# Faults without a reply of the store: the connection is cut before the request is whole, or after
# the store has carried it out.
CUT, UNANSWERED = "connection cut in a request", "connection cut before the reply"
# Error code of S3 -> HTTP status.
SLOW_DOWN, EXPIRED, DENIED, INTERNAL = "SlowDown", "ExpiredToken", "AccessDenied", "InternalError"
_OF_CONNECTION = ("transfer-encoding", "connection", "content-length", "expect")
_STATUS = {SLOW_DOWN: 503, EXPIRED: 400, DENIED: 403, INTERNAL: 500}


class Fault(NamedTuple):
    """A fault of some requests, one after the other."""

    kind: str | Callable[[], object]  # or what to do at these requests, which then succeed
    first: int  # number of the first request that fails
    times: float = inf
    # Only requests with such a method or query count; all by default.
    matching: str = ""


class Proxy(ThreadingHTTPServer):
    """Passes requests between its own port and a server.

    Args:
        url: of the server.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(url).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: dict[str, Fault] = {}  # by bucket
        self.num_requests = Counter[str]()  # by bucket
        self._lock, self._open = Lock(), set[socket]()
        Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def fail(self, bucket: str, fault: Fault) -> None:
        self.num_requests[bucket], self.faults[bucket] = 0, fault

    def close(self) -> None:
        """Break every connection and accept no more."""
        self.shutdown()
        self.server_close()
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(SHUT_RDWR)

    def arrived(self, request: str, bucket: str) -> str | None:
        """Count a request; return the kind of its fault, if it has one."""
        fault = self.faults.get(bucket, Fault("", 0, 0))
        with self._lock:
            if fault.matching not in request:
                return None
            number = self.num_requests[bucket]
            self.num_requests[bucket] += 1
        if not fault.first <= number < fault.first + fault.times:
            return None
        if isinstance(fault.kind, str):
            return fault.kind
        fault.kind()
        return None

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a connection that either side has closed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body in one packet
    disable_nagle_algorithm = True
    server: Proxy

    def setup(self) -> None:
        super().setup()
        self._target = HTTPConnection(self.server.target)

    def finish(self) -> None:
        self._target.close()
        super().finish()

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def _pass_on(self) -> None:
        bucket = self.path.split("?")[0].split("/")[1]
        kind = self.server.arrived(f"{self.command} {self.path}", bucket)
        if kind == CUT:  # before its body, or in it, as the client has sent it in parts
            self._cut()
            return
        body = self._body()
        if kind in _STATUS:
            self._refuse(kind)
            return
        headers = {n: v for n, v in self.headers.items() if n.lower() not in _OF_CONNECTION}
        self._target.request(self.command, self.path, body, headers)
        reply = self._target.getresponse()
        data = reply.read()
        if kind == UNANSWERED:
            self._cut()
        else:
            self._answer(reply, data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - named by http.server

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, reply: HTTPResponse, data: bytes) -> None:
        self.send_response_only(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in _OF_CONNECTION:
                self.send_header(name, value)
        length = reply.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>as the test demands</Message></Error>"
        data = b"" if self.command == "HEAD" else text.encode()
        self.send_response_only(_STATUS[code])
        for name, value in {"Retry-After": "1", "Content-Type": "application/xml"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
