"""A way to the object store on which it can be made to fail in the middle of an upload."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from urllib.parse import urlsplit

_BLOCK = 1 << 16


class Way:
    """Passes bytes between its own port and a server.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url).hostname, urlsplit(url).port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock, self._then = Lock(), lambda: None
        # How many bytes have gone to the server, and after how many something happens.
        self.sent, self._most = 0, float("inf")
        self._open: set[socket.socket] = set()
        Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """What to say instead of the server's."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def after(self, num_bytes: int, then: Callable[[], None]) -> None:
        """Do something once, when so many more bytes have gone to the server."""
        with self._lock:
            self._most, self._then = self.sent + num_bytes, then

    def cut(self) -> None:
        """Break every connection, and accept no more."""
        self._listener.close()
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        self._open |= {client, server}
        Thread(target=_pass_on, args=(server, client, lambda data: None), daemon=True).start()
        _pass_on(client, server, self._count)

    def _count(self, data: bytes) -> None:
        with self._lock:
            self.sent += len(data)
            if self.sent < self._most:
                return
            self._most, then = float("inf"), self._then
        then()


def _pass_on(source: socket.socket, target: socket.socket, see: Callable[[bytes], None]) -> None:
    with suppress(OSError):  # either of them has gone
        while data := source.recv(_BLOCK):
            see(data)
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def way_to(url: str) -> Iterator[Way]:
    """A way that is closed at the end."""
    way = Way(url)
    try:
        yield way
    finally:
        way.cut()
