"""Shared memory: how vectors travel between the processes of one host.

One memory segment holds the parameters, a gradient for each tree node that a worker sends, and for
each of them a counter on a cache line of its own. The server publishes the parameters of round k
by setting its counter to k; a worker writes its sums, sets its counter to k + 1 and rings the bell:
one byte into a pipe, on which the server sleeps. There are no locks. (A server that spins takes its
time from the workers that it waits for: with two on two cores a round of 512 images took 2.4 ms
instead of 1.9.)

Segment and pipe have no names: the segment is an anonymous file (`memfd_create`), and the other
processes open both through `/proc/<pid>/fd/<number>`, so that a kill leaves nothing behind. The
order in which one process sees the writes of another is that of x86-64 (stores are not reordered).

For a worker that cannot reach the segment (another host or kind of machine) the server copies the
vectors of its calls; the rest of a round is the same.

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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanograd.nn.optimizers import Vector
from nanograd.training.tree import TreeNode

# int64 words: a counter has a cache line (64 bytes) of its own.
_LINE = 8
# A worker spins this often before it sleeps: longer than an update of the parameters takes.
_SPINS = 500
_NAP_S = 100e-6
# A server whose bell is silent checks its deadline this often.
_CHECK_S = 20e-3
_WORD_BYTES, _FLOAT_BYTES = 8, 4
_CAN_SHARE = sys.platform == "linux" and platform.machine() == "x86_64"


@dataclass(frozen=True, kw_only=True)
class MemoryAddress:
    """Location and layout of a memory segment.

    Args:
        pid: the process that created it.
        descriptor: its file descriptor there; -1 without anonymous files.
        bell: the file descriptor of the pipe there.
        token: random; proves that the right file was opened.
        num_parameters: P.
        nodes: the tree nodes that workers send, in the order of their slots.
    """

    pid: int
    descriptor: int
    bell: int
    token: int
    num_parameters: int
    nodes: tuple[TreeNode, ...]

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


class SlotState(NamedTuple):
    """The round, the loss and the number of images of a slot's gradient."""

    round: int
    loss: float
    num_images: int


class MemorySegment:
    """Memory shared by one server and its workers, as numpy arrays.

    Args:
        address: its layout.
        descriptor: an open file of its length, or -1; closed with the segment.
        bell: an open pipe, the read end and the write end; closed with the segment.
    """

    def __init__(self, address: MemoryAddress, descriptor: int, bell: tuple[int, int]) -> None:
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

    @property
    def bell(self) -> int:
        """The file descriptor that becomes readable when a gradient arrives."""
        return self._bell[0]

    def close(self) -> None:
        """Close the descriptors; the memory is freed with the last one."""
        for descriptor in {self._descriptor, *self._bell} - {-1}:
            os.close(descriptor)

    def publish(self, round_: int) -> None:
        """Mark the parameters as those of a round."""
        self._published[0] = round_

    def stop(self) -> None:
        """Ask all processes to end the segment of rounds."""
        self._stop[0] = 1

    @property
    def published(self) -> int:
        """The newest round whose parameters are published."""
        return int(self._published[0])

    @property
    def stopped(self) -> bool:
        """Whether the segment of rounds should end."""
        return bool(self._stop[0])

    def wait_for_round(self, round_: int, alive: Callable[[], bool]) -> bool:
        """Wait for the parameters of a round; return False if the segment of rounds ends first."""
        while True:
            for _ in range(_SPINS):
                if self._published[0] >= round_:
                    return True
                os.sched_yield()
            if self.stopped or not alive():
                return False
            sleep(_NAP_S)

    def send(self, slot: int, round_: int, loss: float, num_images: int) -> None:
        """Mark a slot's gradient as that of a round, and ring the bell."""
        line = self._slots[slot]
        line[1:2].view(np.float64)[0] = loss
        line[2] = num_images
        line[0] = round_ + 1  # last: a reader that sees it sees the rest
        with suppress(BlockingIOError):  # a full pipe has already rung
            os.write(self._bell[1], b"\0")

    def late_slot(self, round_: int) -> TreeNode | None:
        """Return the tree node of a gradient of a round that has not arrived, or None."""
        late = np.flatnonzero(self._slots[:, 0] != round_ + 1)
        return self.address.nodes[late[0]] if len(late) else None

    def wait_for_slots(self, round_: int, alive: Callable[[], bool]) -> TreeNode | None:
        """Wait for all gradients of a round; return the tree node of one that does not arrive."""
        while (late := self.late_slot(round_)) is not None:
            rung, _, _ = select.select([self.bell], [], [], _CHECK_S)
            if rung:
                os.read(self.bell, 4096)
            elif self.stopped or not alive():
                return late
        return None

    def sent(self, slot: int) -> SlotState:
        """Return the round, loss and number of images of a slot's gradient."""
        line = self._slots[slot]
        return SlotState(int(line[0]) - 1, float(line[1:2].view(np.float64)[0]), int(line[2]))


def create(num_parameters: int, nodes: tuple[TreeNode, ...]) -> MemorySegment:
    """Create a segment in the server's process.

    Raises:
        OSError: not enough memory.
    """
    bell = os.pipe()
    os.set_blocking(bell[1], False)
    address = MemoryAddress(
        pid=os.getpid(),
        descriptor=os.memfd_create("nanograd", os.MFD_CLOEXEC) if _CAN_SHARE else -1,
        bell=bell[0],
        token=secrets.randbits(62),
        num_parameters=num_parameters,
        nodes=nodes,
    )
    if _CAN_SHARE:
        # Allocates the memory now: a full /dev/shm is an error here, not a SIGBUS later.
        os.posix_fallocate(address.descriptor, 0, address.num_bytes)
    segment = MemorySegment(address, address.descriptor, bell)
    segment._token[0] = address.token
    segment.publish(-1)
    return segment


def attach(address: MemoryAddress) -> MemorySegment | None:
    """Open the segment of another process of this host; return None if that is not possible."""
    if not _CAN_SHARE:
        return None
    with ExitStack() as opened:
        try:
            descriptor = _open(address.pid, address.descriptor)
            opened.callback(os.close, descriptor)
            # For reading, too: a process without a reader of its pipe is killed for writing.
            bell = _open(address.pid, address.bell)
            opened.callback(os.close, bell)
        except OSError:  # another host, container or user
            return None
        if os.fstat(descriptor).st_size != address.num_bytes:
            return None
        segment = MemorySegment(address, descriptor, (bell, bell))
        if segment._token[0] != address.token:
            return None
        opened.pop_all()
        return segment


def _open(pid: int, descriptor: int) -> int:
    return os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
