"""Shared memory: how vectors travel between the processes of one host.

One memory segment holds the parameters and a gradient for each tree node that a worker sends. Each
of these vectors has a counter on its own cache line. The server publishes the parameters of round k
by setting their counter to k. Workers poll this counter, and then sleep on it as on a futex. A
worker writes its sums, sets their counters to k + 1 and rings the bell: it writes one byte into a
pipe. The server sleeps on this pipe and on its sockets. There are no locks. The server does not
poll, because polling takes time from the workers: with two workers on two cores, a round of 512
images took 2.4 ms with polling and 1.9 ms without.

Segment and pipe have no names, so a killed process leaves nothing behind. The segment is an
anonymous file (`memfd_create`). Other processes open both through `/proc/<pid>/fd/<number>`. The
counters work because x86-64 does not reorder stores: a process sees the writes of another process
in the order in which they were made.

References:
    Sewell et al. (2010), "x86-TSO: a rigorous and usable programmer's model for x86
    multiprocessors"; memfd_create(2); futex(2).
"""

import ctypes
import mmap
import os
import platform
import secrets
import select
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from nanograd.errors import UnavailableError
from nanograd.nn.optimizers import Vector
from nanograd.runtime import machine
from nanograd.training.tree import TreeNode
from nanograd.training.worker import Contribution

# int64 words: a counter has a cache line (64 bytes) of its own.
_LINE = 8
# Polls of a worker before it sleeps, which take longer than an update of the parameters.
_SPINS = 2000
# Seconds after which a waiting process checks its deadline and whether its peers are alive.
_CHECK_S = 20e-3
_WORD_BYTES, _FLOAT_BYTES = 8, 4
_CAN_SHARE = sys.platform == "linux" and platform.machine() == "x86_64"
_SYS_FUTEX, _FUTEX_WAIT, _FUTEX_WAKE, _ALL = 202, 0, 1, 2**31 - 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_CHECK = ctypes.byref(_Timespec(0, int(_CHECK_S * 1e9)))
_syscall = ctypes.CDLL(None).syscall


@dataclass(frozen=True, kw_only=True)
class MemoryAddress:
    """Location and layout of a memory segment."""

    process: str  # process that created the segment, see `machine.owner`
    descriptor: int  # file descriptor of the segment in that process; -1 without anonymous files
    bell: int  # file descriptor of the pipe in that process
    token: int  # random; proves that the right file was opened
    num_parameters: int  # P
    nodes: tuple[TreeNode, ...]  # the tree nodes that workers send, in the order of their slots
    spins: int  # how often a worker polls for parameters before it sleeps

    @property
    def num_words(self) -> int:
        """Length of the part before the floats, in int64 words."""
        return (3 + len(self.nodes)) * _LINE

    @property
    def num_bytes(self) -> int:
        """Length of the segment."""
        num_floats = (1 + len(self.nodes)) * self.num_parameters
        return self.num_words * _WORD_BYTES + num_floats * _FLOAT_BYTES


class MemorySegment:
    """Memory shared by one server and its workers, as numpy arrays; it owns the descriptors."""

    def __init__(self, address: MemoryAddress, descriptor: int, bell: tuple[int, int]) -> None:
        self.address = address
        self._descriptor, self._bell = descriptor, bell
        memory = mmap.mmap(descriptor, address.num_bytes)
        words = np.frombuffer(memory, np.int64, address.num_words).reshape(-1, _LINE)
        start = address.num_words * _WORD_BYTES
        floats = np.frombuffer(memory, np.float32, offset=start)
        vectors = floats.reshape(-1, address.num_parameters)
        self._token, self._stop, self._published = words[0], words[1], words[2]
        self._slots = words[3:]
        self._futex = ctypes.c_void_p(self._published.ctypes.data)
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
        """Mark the parameters as ready for a round, and wake the workers."""
        self._published[0] = round_
        self._wake()

    def stop(self) -> None:
        """Ask all processes to end the segment of rounds."""
        self._stop[0] = 1
        self._wake()

    @property
    def published(self) -> int:
        """The newest round whose parameters are published."""
        return int(self._published[0])

    @property
    def stopped(self) -> bool:
        """Whether the segment of rounds should end."""
        return bool(self._stop[0])

    def wait_for_round(self, round_: int) -> bool:
        """Wait for the parameters of a round; return False if the segment of rounds ends first."""
        for _ in range(self.address.spins):
            if self._published[0] >= round_:
                return True
            os.sched_yield()
        while (seen := self.published) < round_:
            if self.stopped or not machine.is_alive(self.address.process):
                return False
            # Sleep until the counter differs from `seen`, for at most _CHECK_S. The kernel compares
            # the lower half of the counter. Errors are ignored, because the loop checks again.
            _syscall(_SYS_FUTEX, self._futex, _FUTEX_WAIT, ctypes.c_int(seen), _CHECK, None, 0)
        return True

    def _wake(self) -> None:
        if _CAN_SHARE:
            _syscall(_SYS_FUTEX, self._futex, _FUTEX_WAKE, _ALL, None, None, 0)

    def send(self, slot: int, round_: int, loss: float, num_images: int) -> None:
        """Mark a slot's gradient as complete for a round, and ring the bell."""
        line = self._slots[slot]
        line[1:2].view(np.float64)[0] = loss
        line[2] = num_images
        line[0] = round_ + 1  # last, because a reader that sees it also sees the rest
        with suppress(BlockingIOError):  # the pipe is full, so the bell has rung
            os.write(self._bell[1], b"\0")

    def late_slot(self, round_: int) -> TreeNode | None:
        """Return the tree node of a gradient of a round that has not arrived; None if all have."""
        late = np.flatnonzero(self._slots[:, 0] != round_ + 1)
        return self.address.nodes[late[0]] if len(late) else None

    def wait_for_slots(self, round_: int, deadline: float) -> TreeNode | None:
        """Wait for all gradients of a round; return the tree node of a late one, or None."""
        while (late := self.late_slot(round_)) is not None:
            rung, _, _ = select.select([self.bell], [], [], _CHECK_S)
            if rung:
                os.read(self.bell, 4096)
            elif self.stopped or monotonic() >= deadline:
                return late
        return None

    def sent(self, slot: int) -> Contribution:
        """Return the contribution in a slot; its round is -1 before the first contribution."""
        line = self._slots[slot]
        return Contribution(
            round=int(line[0]) - 1,
            node=self.address.nodes[slot],
            gradient=self.gradients[slot],
            loss=float(line[1:2].view(np.float64)[0]),
            num_images=int(line[2]),
        )


def create(
    num_parameters: int, nodes: tuple[TreeNode, ...], *, is_alone: bool = True
) -> MemorySegment:
    """Create a segment in the server's process, for P parameters and the tree nodes of workers."""
    bell = os.pipe()
    os.set_blocking(bell[1], False)
    try:
        descriptor = os.memfd_create("nanograd", os.MFD_CLOEXEC) if _CAN_SHARE else -1
    except (AttributeError, OSError):  # Python or Linux is too old, or a sandbox refuses it
        descriptor = -1  # so vectors travel through calls
    address = MemoryAddress(
        process=machine.owner(),
        descriptor=descriptor,
        bell=bell[0],
        token=secrets.randbits(62),
        num_parameters=num_parameters,
        nodes=nodes,
        spins=_SPINS if is_alone else 0,
    )
    try:
        if address.descriptor >= 0:
            # Allocate the memory now, so that a lack of memory is an error and no later SIGBUS.
            os.posix_fallocate(address.descriptor, 0, address.num_bytes)
        segment = MemorySegment(address, address.descriptor, bell)
    except OSError as error:
        raise UnavailableError(
            f"no memory for the vectors of the workers, {address.num_bytes / 1e6:,.0f} MB "
            f"({error.strerror}); lower --hidden or --shards, or use --workers 0"
        ) from error
    segment._token[0] = address.token
    segment.publish(-1)
    return segment


def attach(address: MemoryAddress) -> MemorySegment | None:
    """Open the segment of another process of this host; return None if that is not possible."""
    if not _CAN_SHARE:
        return None
    folder = f"/proc/{machine.pid_of(address.process)}/fd"
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
    with ExitStack() as opened:
        try:
            descriptor = os.open(f"{folder}/{address.descriptor}", flags)
            opened.callback(os.close, descriptor)
            # Open for reading, too, because writing to a pipe without a reader kills a process.
            bell = os.open(f"{folder}/{address.bell}", flags)
            opened.callback(os.close, bell)
        except OSError:  # the other process is of another host, container or user
            return None
        if os.fstat(descriptor).st_size != address.num_bytes:
            return None
        segment = MemorySegment(address, descriptor, (bell, bell))
        if segment._token[0] != address.token:
            return None
        opened.pop_all()
        return segment
