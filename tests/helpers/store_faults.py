"""A proxy before the object store that fails in the middle of an upload."""

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, Thread
from urllib.parse import urlsplit

_BLOCK_BYTES = 1 << 16


class Proxy:
    """Passes bytes between its own port and a server.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url).hostname, urlsplit(url).port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.num_sent_bytes = 0
        self._lock, self._limit_bytes, self._action = Lock(), float("inf"), lambda: None
        self._open: set[socket.socket] = set()
        Thread(target=self._accept, daemon=True).start()

    def after(self, num_bytes: int, action: Callable[[], None]) -> None:
        """Call `action` once, when this many more bytes have gone to the server."""
        with self._lock:
            self._limit_bytes, self._action = self.num_sent_bytes + num_bytes, action

    def close(self) -> None:
        """Break every connection and accept no more."""
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
        Thread(target=_forward, args=(server, client, lambda num_bytes: None), daemon=True).start()
        _forward(client, server, self._count)

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self.num_sent_bytes += num_bytes
            if self.num_sent_bytes < self._limit_bytes:
                return
            self._limit_bytes, action = float("inf"), self._action
        action()


def _forward(source: socket.socket, target: socket.socket, count: Callable[[int], None]) -> None:
    with suppress(OSError):  # one of them is closed
        while data := source.recv(_BLOCK_BYTES):
            count(len(data))
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
