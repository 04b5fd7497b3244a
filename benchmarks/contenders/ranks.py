"""Processes that train in step when another process requests it, for DDP and for Ray Train."""

from multiprocessing.connection import Client, Connection, Listener

from contenders.base import Contender

_KEY = b"nanograd benchmarks"


class Ranks:
    """A contender that forwards every request to all ranks.

    Args:
        workers: number of ranks.
        host: address of this host, to which ranks on other hosts connect, too.
    """

    def __init__(self, workers: int, host: str = "127.0.0.1") -> None:
        self._workers = workers
        self._listener = Listener((host, 0), authkey=_KEY)
        self._connections: list[Connection] = []

    @property
    def address(self) -> tuple[str, int]:
        """Address to which ranks connect."""
        host, port = self._listener.address
        return str(host), int(port)

    def accept(self) -> None:
        """Wait for all ranks."""
        self._connections = [self._listener.accept() for _ in range(self._workers)]

    def reset(self, seed: int) -> None:
        """Start over."""
        self._request("reset", seed)

    def run(self, rounds: int) -> int:
        """Train for some rounds, and return the number of images."""
        return int(self._request("run", rounds))

    def accuracy(self) -> float:
        """Return the accuracy on the test images, from the first rank."""
        return self._request("accuracy", 0)

    def close(self) -> None:
        """End the ranks."""
        self._request("close", 0)

    def _request(self, action: str, number: int) -> float:
        for connection in self._connections:
            connection.send((action, number))
        answers = [float(connection.recv()) for connection in self._connections]
        return answers[0]


def serve(contender: Contender, address: tuple[str, int]) -> None:
    """Perform requests until `close`."""
    with Client(address, authkey=_KEY) as connection:
        action = ""
        while action != "close":
            action, number = connection.recv()
            connection.send(_perform(contender, action, number))


def _perform(contender: Contender, action: str, number: int) -> float:
    match action:
        case "reset":
            contender.reset(number)
        case "run":
            return contender.run(number)
        case "accuracy":
            return contender.accuracy()
    return 0.0
