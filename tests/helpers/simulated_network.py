"""TCP connections between simulated hosts, and a selector, with virtual time.

Each direction of a connection has a speed, a latency, a send buffer and a receive window of its
own. Bytes arrive in order or not at all. A kernel goes on without the process: it delivers what a
frozen or killed one has sent, as far as windows allow, and resets a connection whose owner left
bytes unread.
"""

import selectors
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.helpers.virtual_time import Gate, Process, World

# A connection without acknowledgements ends after this time; `Formation` asks for it.
TIMEOUT_S = 11.0
RETRANSMIT_S = 0.5


@dataclass(frozen=True)
class Link:
    """One direction between two hosts."""

    bytes_per_s: float
    latency_s: float
    send_buffer: int  # bytes
    window: int  # bytes that may wait for the receiver to read them
    has_low_water: bool  # whether the receiver's system knows SO_RCVLOWAT


class Network:
    """Connections between hosts; links by the names of sender and receiver."""

    def __init__(self, world: World, links: dict[tuple[str, str], Link]) -> None:
        self.world, self.links = world, links
        # Directions that lose everything, with the number of losses that have not ended.
        self._down = Counter[tuple[str, str]]()
        self._sockets = list[Socket]()

    def is_up(self, first: str, second: str) -> bool:
        """Return whether both directions work: without acknowledgements nothing goes on."""
        return not (self._down[first, second] or self._down[second, first])

    def cut(self, first: str, second: str, seconds: float) -> None:
        """Lose everything in one direction for some time."""
        self._down[first, second] += 1
        self.world.at(seconds, self._down.subtract, [(first, second)])
        self.world.at(TIMEOUT_S, self._give_up, first, second)

    def peers(self, process: Process) -> list[str]:
        """Return the host at the other end of each open connection of a process."""
        mine = (each for each in self._sockets if each.owner is process and not each.is_closed)
        return [each.other.owner.host for each in mine]

    def _give_up(self, first: str, second: str) -> None:
        """End the connections without acknowledgements, those without traffic by keep-alive."""
        if not self.is_up(first, second):
            for each in self._sockets:
                if {each.owner.host, each.other.owner.host} == {first, second}:
                    each.fail(TimeoutError("no acknowledgement"))

    def connect(self, first: Process, second: Process) -> tuple["Socket", "Socket"]:
        ends = Socket(self, first), Socket(self, second)
        for end, other in (ends, ends[::-1]):
            end.other = other
            end.link = self.links[end.owner.host, other.owner.host]
        self._sockets = [each for each in self._sockets if not each.is_over] + [*ends]
        return ends


class Socket:
    """One end of a connection, non-blocking."""

    other: "Socket"
    link: Link

    def __init__(self, network: Network, owner: Process) -> None:
        self._network, self._world, self.owner = network, network.world, owner
        self.selector: Selector | None = None
        self.outgoing, self.incoming = bytearray(), bytearray()
        self.is_closed = self.has_ended = False  # here; at the other end
        self.error: OSError | None = None
        self._wanted, self._is_moving = 1, False
        owner.at_exit.append(self.shut)

    # What the program calls

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        link = self.other.link
        if link.has_low_water:
            self._wanted = min(value, max(1, link.window // 2))

    def sendmsg(self, parts: Sequence[memoryview], ancillary: Sequence[Any], flags: int) -> int:
        self._world.step()
        assert not self.is_closed
        if self.error is not None:
            raise self.error
        room = self.link.send_buffer - len(self.outgoing)
        if room <= 0:
            raise BlockingIOError
        before = len(self.outgoing)
        for part in parts:
            self.outgoing += part[: before + room - len(self.outgoing)]
        self._move()
        return len(self.outgoing) - before

    def recvmsg_into(self, parts: Sequence[memoryview]) -> tuple[int, list[Any], int, None]:
        self._world.step()
        assert not self.is_closed
        if not self.incoming:
            if self.error is not None:
                raise self.error
            if self.has_ended:
                return 0, [], 0, None
            raise BlockingIOError
        before = len(self.incoming)
        for part in parts:
            count = min(len(part), len(self.incoming))
            part[:count] = self.incoming[:count]
            del self.incoming[:count]
        self.other._move()  # the window has opened
        return before - len(self.incoming), [], 0, None

    def close(self) -> None:
        """Close it; what is in the send buffer is still delivered."""
        self._world.step()
        self.shut()

    # What the kernel does

    def shut(self) -> None:
        """Close it without asking the process."""
        if self.is_closed:
            return
        self.is_closed = True
        if self.incoming:  # a reset: the rest is not delivered
            self.outgoing.clear()
            self._world.at(self.link.latency_s, self.other.fail, ConnectionResetError("reset"))
        self._move()

    def fail(self, error: OSError) -> None:
        if not self.is_closed and self.error is None and not (self.has_ended and self.incoming):
            self.error = error
            self.outgoing.clear()
            self._notify()

    @property
    def is_over(self) -> bool:
        return self.is_closed and not self.outgoing

    @property
    def is_readable(self) -> bool:
        return len(self.incoming) >= self._wanted or self.has_ended or self.error is not None

    @property
    def is_writable(self) -> bool:
        return self.error is not None or len(self.outgoing) < self.link.send_buffer

    def _notify(self) -> None:
        if self.selector is not None:
            self.selector.notify(self)

    def _move(self) -> None:
        """Put the next bytes on the wire, or the end of the connection after the last ones."""
        if self._is_moving or self.error is not None:
            return
        count = min(len(self.outgoing), self.link.window - len(self.other.incoming))
        if count > 0 or (self.is_closed and not self.outgoing):
            self._is_moving = True
            delay = self.link.latency_s + max(count, 0) / self.link.bytes_per_s
            self._world.at(delay, self._arrive, max(count, 0))

    def _arrive(self, count: int) -> None:
        self._is_moving = False
        if self.error is not None:
            return
        other = self.other
        if not self._network.is_up(self.owner.host, other.owner.host):
            self._is_moving = True
            self._world.at(RETRANSMIT_S, self._arrive, count)
            return
        if other.is_closed:
            if count:  # the other host knows no such connection
                self.fail(ConnectionResetError("closed by the peer"))
            return
        if count:
            other.incoming += self.outgoing[:count]
            del self.outgoing[:count]
            self._notify()
            self._move()
        else:
            other.has_ended = True
        other._notify()


class Bell:
    def __init__(self) -> None:
        self.selector: Selector | None = None
        self.is_readable, self.is_writable = False, False

    def ring(self) -> None:
        self.is_readable = True
        if self.selector is not None:
            self.selector.notify(self)

    def read(self) -> None:
        self.is_readable = False


class Selector:
    def __init__(self, world: World) -> None:
        self._world, self._gate = world, Gate(world)
        self._keys: dict[Any, selectors.SelectorKey] = {}
        self.is_closed = False

    def register(self, thing: Any, events: int, data: Any = None) -> None:
        self._keys[thing] = selectors.SelectorKey(thing, 0, events, data)
        thing.selector = self

    def modify(self, thing: Any, events: int, data: Any = None) -> None:
        self._world.step()
        self.register(thing, events, data)

    def close(self) -> None:
        """Wait for nothing any more."""
        for thing in self._keys:
            thing.selector = None
        self._keys, self.is_closed = {}, True

    def select(self, timeout: float) -> list[tuple[selectors.SelectorKey, int]]:
        self._world.step()
        ready = self._ready()
        if not ready and timeout > 0:
            self._gate.wait(timeout)
            ready = self._ready()
        if len(ready) > 1:
            self._world.random.shuffle(ready)
        return ready

    def notify(self, thing: Any) -> None:
        """Wake a process that waits for what has happened."""
        if self._events(self._keys[thing]):
            self._gate.open()

    def interrupt(self) -> None:
        self._gate.open()

    def _ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        return [(key, events) for key in self._keys.values() if (events := self._events(key))]

    @staticmethod
    def _events(key: selectors.SelectorKey) -> int:
        thing: Any = key.fileobj
        events = 1 if thing.is_readable else 0
        if key.events == 3 and thing.is_writable:
            events |= 2
        return events
