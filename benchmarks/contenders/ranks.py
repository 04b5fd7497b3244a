"""Processes that train in step and obey one that asks: for DDP and for Ray Train."""

from multiprocessing.connection import Client, Connection, Listener

from contenders.base import Contender

_KEY = b"nanograd benchmarks"


class Ranks:
    """The asking side: a contender that passes everything on to all ranks.

    Args:
        workers: how many ranks will connect.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._listener = Listener(("127.0.0.1", 0), authkey=_KEY)
        self._connections: list[Connection] = []

    @property
    def address(self) -> tuple[str, int]:
        """Where ranks connect."""
        host, port = self._listener.address
        return str(host), int(port)

    def accept(self) -> None:
        """Wait for all ranks."""
        self._connections = [self._listener.accept() for _ in range(self._workers)]

    def reset(self, seed: int) -> None:
        """Begin anew."""
        self._ask("reset", seed)

    def run(self, rounds: int) -> int:
        """Train for so many rounds; how many images that were."""
        return int(self._ask("run", rounds))

    def accuracy(self) -> float:
        """Share of the test images read right, by one rank."""
        return self._ask("accuracy", 0)

    def close(self) -> None:
        """Let the ranks end."""
        self._ask("close", 0)

    def _ask(self, what: str, number: int) -> float:
        for connection in self._connections:
            connection.send((what, number))
        answers = [float(connection.recv()) for connection in self._connections]
        return answers[0]


def serve(contender: Contender, address: tuple[str, int]) -> None:
    """The obeying side: do what is asked until told to close."""
    with Client(address, authkey=_KEY) as connection:
        what = ""
        while what != "close":
            what, number = connection.recv()
            connection.send(_answer(contender, what, number))


def _answer(contender: Contender, what: str, number: int) -> float:
    match what:
        case "reset":
            contender.reset(number)
        case "run":
            return contender.run(number)
        case "accuracy":
            return contender.accuracy()
    return 0.0
