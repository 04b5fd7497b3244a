"""How vectors travel inside a stretch of rounds between processes of one host: shared memory.

One segment holds the parameters, a gradient for each node of the tree that a worker sends, and for
each of them a counter on a cache line of its own. The server publishes the parameters of round k by
setting its counter to k; a worker writes its sums, sets its own to k + 1 and rings: one byte into a
pipe, on which the server sleeps. Nobody locks. (A server that spins takes its time from the workers
that it waits for: with two on two cores a round of 512 images took 2.4 ms instead of 1.9.)

Neither has a name: the segment is an anonymous file (`memfd_create`), and the others open it and
the pipe through `/proc/<pid>/fd/<number>`, so nothing is left behind whoever is killed. The order
in which one process sees the writes of another is that of x86-64 (stores are not reordered).

For a worker that cannot reach it (another host, another kind of machine) the server fills in what
comes through calls; the rest of a round is the same.

References:
    Sewell et al. (2010), "x86-TSO: a rigorous and usable programmer's model for x86
    multiprocessors"; memfd_create(2).
"""

import mmap
import os
import platform
import secrets
import select
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from time import sleep

import numpy as np
from numpy.typing import NDArray

from nanograd.nn.optimizers import Vector
from nanograd.training.tree import Node

# int64 words: a counter has a cache line (64 bytes) of its own.
_LINE = 8
# A worker's looks at the counter before it sleeps: longer than an update of the parameters takes.
_SPINS = 500
_NAP_S = 100e-6
# A server that nobody rings looks after its workers this often.
_LOOK_S = 20e-3
_WORD_BYTES, _FLOAT_BYTES = 8, 4
_CAN_SHARE = sys.platform == "linux" and platform.machine() == "x86_64"


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a segment is, and what is in it.

    Args:
        pid: the process that made it.
        descriptor: the number of its file there; -1 where there are no anonymous files.
        bell: the number of the pipe there.
        token: random; tells that what was opened is what was meant.
        num_parameters: P.
        nodes: the nodes of the tree that workers send, in the order of their slots.
    """

    pid: int
    descriptor: int
    bell: int
    token: int
    num_parameters: int
    nodes: tuple[Node, ...]

    @property
    def num_words(self) -> int:
        """Length of the part before the floats, in int64 words."""
        return (3 + len(self.nodes)) * _LINE

    @property
    def num_bytes(self) -> int:
        """Length of the segment."""
        return self.num_words * _WORD_BYTES + (
            (1 + len(self.nodes)) * self.num_parameters * _FLOAT_BYTES
        )


class Segment:
    """Shared memory of one server and its workers, as numpy arrays.

    Args:
        address: what is in it.
        descriptor: an open file of its length, or -1; closed with the segment.
        bell: an open pipe, the end to read and the end to write; closed with the segment.
    """

    def __init__(self, address: Address, descriptor: int, bell: tuple[int, int]) -> None:
        self.address = address
        self._descriptor, self._bell = descriptor, bell
        memory = mmap.mmap(descriptor, address.num_bytes)
        words = np.frombuffer(memory, np.int64, address.num_words).reshape(-1, _LINE)
        start = address.num_words * _WORD_BYTES
        vectors = np.frombuffer(memory, np.float32, offset=start).reshape(
            -1, address.num_parameters
        )
        self._token, self._stop, self._published = words[0], words[1], words[2]
        self._slots = words[3:]
        self.parameters: Vector = vectors[0]
        self.gradients: NDArray[np.float32] = vectors[1:]

    def close(self) -> None:
        """Forget the memory; it is freed when nobody has it open."""
        for descriptor in {self._descriptor, *self._bell} - {-1}:
            os.close(descriptor)

    def publish(self, round_: int) -> None:
        """Say that the parameters are those of a round."""
        self._published[0] = round_

    def stop(self) -> None:
        """Ask everybody to end the stretch."""
        self._stop[0] = 1

    @property
    def published(self) -> int:
        """The newest round whose parameters are there."""
        return int(self._published[0])

    @property
    def stopped(self) -> bool:
        """Whether somebody asked."""
        return bool(self._stop[0])

    def wait_for_round(self, round_: int, alive: Callable[[], bool]) -> bool:
        """Wait until the parameters of a round are there; false if the stretch ends before."""
        while True:
            for _ in range(_SPINS):
                if self._published[0] >= round_:
                    return True
                os.sched_yield()
            if self.stopped or not alive():
                return False
            sleep(_NAP_S)

    def send(self, slot: int, round_: int, loss: float, num_images: int) -> None:
        """Say that a slot's gradient is that of a round, and ring."""
        line = self._slots[slot]
        line[1:2].view(np.float64)[0] = loss
        line[2] = num_images
        line[0] = round_ + 1  # last: whoever sees it sees the rest
        with suppress(BlockingIOError):  # a full pipe has rung for long
            os.write(self._bell[1], b"\0")

    def wait_for_slots(self, round_: int, alive: Callable[[], bool]) -> Node | None:
        """Wait until all gradients of a round are there; the node of one that does not come."""
        while True:
            late = np.flatnonzero(self._slots[:, 0] != round_ + 1)
            if not len(late):
                return None
            rung, _, _ = select.select([self._bell[0]], [], [], _LOOK_S)
            if rung:
                os.read(self._bell[0], 4096)
            elif self.stopped or not alive():
                return self.address.nodes[late[0]]

    def sent(self, slot: int) -> tuple[float, int]:
        """Loss and number of images beside a slot's gradient."""
        line = self._slots[slot]
        return float(line[1:2].view(np.float64)[0]), int(line[2])


def create(num_parameters: int, nodes: tuple[Node, ...]) -> Segment:
    """A new segment, made by the server.

    Raises:
        OSError: there is no memory for it.
    """
    bell = os.pipe()
    os.set_blocking(bell[1], False)
    address = Address(
        pid=os.getpid(),
        descriptor=os.memfd_create("nanograd", os.MFD_CLOEXEC) if _CAN_SHARE else -1,
        bell=bell[0],
        token=secrets.randbits(62),
        num_parameters=num_parameters,
        nodes=nodes,
    )
    if _CAN_SHARE:
        # It takes the memory now: a full /dev/shm is an error here, not a SIGBUS later.
        os.posix_fallocate(address.descriptor, 0, address.num_bytes)
    segment = Segment(address, address.descriptor, bell)
    segment._token[0] = address.token
    segment.publish(-1)
    return segment


def attach(address: Address) -> Segment | None:
    """The segment of another process of this host, or None if it cannot be reached from here."""
    if not _CAN_SHARE:
        return None
    with ExitStack() as opened:
        try:
            descriptor = _open(address.pid, address.descriptor)
            opened.callback(os.close, descriptor)
            # To write, and to read: whoever can read is not killed for writing to nobody.
            bell = _open(address.pid, address.bell)
            opened.callback(os.close, bell)
        except OSError:  # another host, container or user
            return None
        if os.fstat(descriptor).st_size != address.num_bytes:
            return None
        segment = Segment(address, descriptor, (bell, bell))
        if segment._token[0] != address.token:
            return None
        opened.pop_all()
        return segment


def _open(pid: int, descriptor: int) -> int:
    return os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
