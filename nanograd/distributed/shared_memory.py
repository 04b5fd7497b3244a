"""Shared memory: how processes of one host exchange parameters and gradients.

The parameter server creates a block of memory. It holds two copies of the state (the parameters,
their average and the optimizer's vectors), room for the gradient of each tree node that a worker
computes, and counters; there are no locks. In round k, the server writes the parameters and sets
their counter to k. Workers poll this counter for a short time, and then sleep until it changes (by
a futex). A worker writes the sums of its tree nodes, sets their counters to k + 1, and wakes the
server by a byte in a pipe. The server does not poll, because this takes time from the workers.

If there is one server and all workers can open its memory, they *share* the update of the state.
The state is divided into one slice for each of these tree nodes. The worker that computes the node
waits for the sums of all nodes, writes its slice of the next state to the copy that does not hold
the present state, and sets the counter of the slice to k + 1. The next state is complete when the
counters of all slices are k + 1. Until then, the present state does not change, so a worker may die
at any time. The server sleeps until the last round that it was told to compute, or until a worker
finds a number that is not finite.

Memory and pipe have no names in the file system, so nothing is left behind when processes are
killed. Workers open them as `/proc/<pid>/fd/<number>`. Counters are sufficient because x86-64 does
not reorder stores: a process sees the writes of another process in the order in which they were
made.

References:
    Sewell et al. (2010), "x86-TSO: a rigorous and usable programmer's model for x86
    multiprocessors"; memfd_create(2); futex(2).
"""

import ctypes
import itertools
import mmap
import os
import platform
import secrets
import select
import struct
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanograd.errors import UnavailableError
from nanograd.nn.optimizers import Vector
from nanograd.runtime import machine
from nanograd.training.server import LossSum, Update, split
from nanograd.training.tree import TreeNode
from nanograd.training.worker import Contribution

# int64 words: a counter has a cache line (64 bytes) of its own.
_LINE = 8
# Indices of the lines; the lines of the slots and of the slices follow.
_TOKEN, _STOP, _PUBLISHED, _LOSSES, _FIRST_SLOT = 0, 1, 2, 3, 5
# The word of a line that is 1 if somebody sleeps until its counter changes.
_ASLEEP = 7
# Polls of a worker before it sleeps, which take longer than an update of the parameters.
_SPINS = 2000
# Seconds after which a waiting process checks its deadline and whether its peers are alive.
_CHECK_S = 20e-3
_WORD_BYTES, _FLOAT_BYTES = 8, 4
_CAN_SHARE = platform.machine() == "x86_64"
_SYS_FUTEX, _FUTEX_WAIT, _FUTEX_WAKE, _ALL = 202, 0, 1, 2**31 - 1
_CHECK = struct.pack("@ll", 0, int(_CHECK_S * 1e9))  # a timespec: seconds and nanoseconds
_syscall = ctypes.CDLL(None).syscall


@dataclass(frozen=True, kw_only=True)
class MemoryAddress:
    """Location and layout of a memory segment."""

    process: str  # process that created the segment, see `machine.owner`
    descriptor: int  # file descriptor of the segment in that process; -1 without anonymous files
    bell: int  # file descriptor of the pipe in that process
    token: int  # random; proves that the right file was opened
    num_parameters: int  # P
    num_vectors: int  # of a state: parameters, optimizer state, average of parameters
    nodes: tuple[TreeNode, ...]  # the tree nodes that workers send, in the order of their slots
    spins: int  # how often a worker polls for parameters before it sleeps

    @property
    def num_words(self) -> int:
        """Length of the part before the floats, in int64 words."""
        return (_FIRST_SLOT + 2 * len(self.nodes)) * _LINE

    @property
    def num_bytes(self) -> int:
        """Length of the segment."""
        num_floats = (2 * self.num_vectors + len(self.nodes)) * self.num_parameters
        return self.num_words * _WORD_BYTES + num_floats * _FLOAT_BYTES


class MemorySegment:
    """Memory shared by one server and its workers, as numpy arrays; it owns the descriptors."""

    def __init__(self, address: MemoryAddress, descriptor: int, bell: tuple[int, int]) -> None:
        self.address = address
        self._descriptor, self._bell = descriptor, bell
        memory = mmap.mmap(descriptor, address.num_bytes)
        self._divide(
            np.frombuffer(memory, np.int64, address.num_words),
            np.frombuffer(memory, np.float32, offset=address.num_words * _WORD_BYTES),
        )

    def _divide(self, words: NDArray[np.int64], floats: NDArray[np.float32]) -> None:
        # A simulated segment calls it with memory of its own.
        address = self.address
        self._words = words.reshape(-1, _LINE)
        self._counters = words.ctypes.data  # address of the first line
        self._slots, self._slices = np.split(self._words[_FIRST_SLOT:], 2)
        vectors = floats.reshape(-1, address.num_parameters)
        # Two states; the one of round k is the one of index k % 2 if the update is shared, else 0.
        self.states = vectors[: 2 * address.num_vectors].reshape(2, address.num_vectors, -1)
        self.gradients = vectors[2 * address.num_vectors :]
        # The slice of the parameters that the owner of each slot updates.
        self._parts = split(address.num_parameters, len(address.nodes))

    @property
    def bell(self) -> int:
        """The file descriptor that becomes readable when a gradient arrives."""
        return self._bell[0]

    def close(self) -> None:
        """Close the descriptors; the memory is freed with the last one."""
        for descriptor in {self._descriptor, *self._bell} - {-1}:
            os.close(descriptor)

    def join(self, nodes: Sequence[TreeNode]) -> None:
        """Mark the slots of these tree nodes as those of a worker that has opened the memory."""
        for node in nodes:
            self._slots[self.address.nodes.index(node), 3] = 1

    def share(self, round_: int, progress: LossSum) -> None:
        """Let the workers share the update from a round on, whose state is in its place."""
        self._set_progress(round_, progress)
        self._slices[:, 0] = round_
        self._words[_PUBLISHED, 1] = 1

    @property
    def can_share(self) -> bool:
        """Whether all workers have opened the memory."""
        return bool(self._slots[:, 3].all())

    @property
    def is_shared(self) -> bool:
        """Whether the workers share the update."""
        return bool(self._words[_PUBLISHED, 1])

    def publish(self, round_: int) -> None:
        """Mark the parameters as ready for a round, and wake the workers."""
        self._words[_PUBLISHED, 0] = round_
        self._wake(_PUBLISHED)

    def stop(self) -> None:
        """Ask all processes to end the segment of rounds."""
        self._words[_STOP, 0] = 1
        for index in range(_PUBLISHED, len(self._words)):
            self._wake(index)

    @property
    def published(self) -> int:
        """The newest round whose parameters are published."""
        return int(self._words[_PUBLISHED, 0])

    @property
    def stopped(self) -> bool:
        """Whether the segment of rounds should end."""
        return bool(self._words[_STOP, 0])

    def parameters(self, round_: int) -> Vector:
        """Return the parameters of a round, (P,) float32."""
        vector: Vector = self.states[round_ % 2 if self.is_shared else 0, 0]
        return vector

    def wait_for_round(self, round_: int) -> bool:
        """Wait for the parameters of a round; return False if the segment of rounds ends first."""
        return self._wait(_PUBLISHED, round_)

    def _wait(self, index: int, value: int) -> bool:
        """Wait until a counter reaches a value; return False if the segment ends first."""
        line = self._words[index]
        for _ in range(self.address.spins):
            if line[0] >= value:
                return True
            os.sched_yield()
        has_slept = False
        while (seen := int(line[0])) < value:
            # Whether the server is alive is looked up in a file, so not before each sleep.
            if self.stopped or (has_slept and not machine.is_alive(self.address.process)):
                return False
            # Sleep until the counter differs from `seen`, for at most _CHECK_S. The kernel compares
            # the lower half of the counter. Errors are ignored, because the loop checks again. So a
            # process that has not seen this mark, and does not wake this one, costs _CHECK_S only.
            line[_ASLEEP] = 1
            self._futex(index, _FUTEX_WAIT, ctypes.c_int(seen), _CHECK)
            has_slept = True
        return True

    def _wake(self, index: int) -> None:
        if _CAN_SHARE and self._words[index, _ASLEEP]:
            self._words[index, _ASLEEP] = 0
            self._futex(index, _FUTEX_WAKE, _ALL, None)

    def _futex(self, index: int, *arguments: object) -> None:
        address = self._counters + index * _LINE * _WORD_BYTES
        _syscall(_SYS_FUTEX, ctypes.c_void_p(address), *arguments, None, 0)

    def send(self, slot: int, round_: int, loss: float, num_images: int) -> None:
        """Mark a slot's gradient as complete for a round, and tell those who wait for it."""
        line = self._slots[slot]
        line[1:2].view(np.float64)[0] = loss
        line[2] = num_images
        line[0] = round_ + 1  # last, because a reader that sees it also sees the rest
        if self.is_shared:
            self._wake(_FIRST_SLOT + slot)
        else:
            self.ring()

    def ring(self) -> None:
        """Wake the server."""
        with suppress(BlockingIOError):  # the pipe is full, so the bell has rung
            os.write(self._bell[1], b"\0")

    def wait_for_sums(self, round_: int) -> bool:
        """Wait for the gradients of all slots; return False if the segment of rounds ends first."""
        return self._wait_for_all(_FIRST_SLOT, round_ + 1)

    def wait_for_slices(self, round_: int) -> bool:
        """Wait for the whole state of a round; return False if the segment of rounds ends first."""
        return self._wait_for_all(_FIRST_SLOT + len(self._slots), round_)

    def _wait_for_all(self, first: int, value: int) -> bool:
        lines = range(first, first + len(self._slots))
        return all(self._wait(index, value) for index in lines) and not self.stopped

    def update(self, slot: int, round_: int, update: Update) -> bool:
        """Compute the slice `slot` of the next state from the sums of a round in this memory.

        Return whether all its numbers are finite. Otherwise, the slice is not marked as complete,
        and the server repeats the round to find the worker that sent the wrong number.
        """
        sums = self.all_sent()
        before, after = self.states[round_ % 2], self.states[(round_ + 1) % 2]
        progress = update.add_loss(sums, self.progress(round_))
        is_finite = update.apply(sums, self._parts[slot], before, after)
        if not is_finite or progress is None:
            self._words[_STOP, 1] = 1
            return False
        if slot == 0:
            self._set_progress(round_ + 1, progress)
        self._slices[slot, 0] = round_ + 1
        self._wake(_FIRST_SLOT + len(self._slots) + slot)
        return True

    @property
    def is_doubtful(self) -> bool:
        """Whether a worker has found a number that is not finite."""
        return bool(self._words[_STOP, 1])

    @property
    def complete(self) -> int:
        """The newest round whose state is complete, if the workers share the update."""
        return int(self._slices[:, 0].min())

    def progress(self, round_: int) -> LossSum:
        """Return the loss of the epoch before a round."""
        line = self._words[_LOSSES + round_ % 2]
        return LossSum(float(line[:1].view(np.float64)[0]), int(line[1]))

    def _set_progress(self, round_: int, progress: LossSum) -> None:
        line = self._words[_LOSSES + round_ % 2]
        line[:1].view(np.float64)[0], line[1] = progress.loss, progress.num_images

    def late_slot(self, round_: int) -> TreeNode | None:
        """Return the tree node of a gradient of a round that has not arrived; None if all have."""
        late = self._slots[:, 0] != round_ + 1
        if self.is_shared and not late.any():
            late = self._slices[:, 0] <= round_
        return next(itertools.compress(self.address.nodes, late), None)

    def wait_for_bell(self) -> bool:
        """Wait for the bell, at most _CHECK_S seconds; return whether it has rung."""
        rung, _, _ = select.select([self.bell], [], [], _CHECK_S)
        if rung:
            os.read(self.bell, 4096)
        return bool(rung)

    def sent(self, slot: int) -> Contribution:
        """Return the contribution in a slot; its round is -1 before the first contribution."""
        line, node, gradient = self._slots[slot], self.address.nodes[slot], self.gradients[slot]
        loss = float(line[1:2].view(np.float64)[0])
        return Contribution(int(line[0]) - 1, node, gradient, loss, int(line[2]))

    def all_sent(self) -> list[Contribution]:
        """Return the contributions in all slots."""
        return [self.sent(slot) for slot in range(len(self._slots))]


def create(
    num_parameters: int, num_vectors: int, nodes: tuple[TreeNode, ...], *, is_alone: bool = True
) -> MemorySegment:
    """Create the block of memory in the server's process; workers poll only if `is_alone`."""
    bell = os.pipe()
    os.set_blocking(bell[1], False)
    try:
        descriptor = os.memfd_create("nanograd", os.MFD_CLOEXEC) if _CAN_SHARE else -1
    except OSError:  # Linux is too old, or a sandbox refuses it
        descriptor = -1  # so vectors travel through calls
    address = MemoryAddress(
        process=machine.owner(),
        descriptor=descriptor,
        bell=bell[0],
        token=secrets.randbits(62),
        num_parameters=num_parameters,
        num_vectors=num_vectors,
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
    segment._words[_TOKEN, 0] = address.token
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
        if segment._words[_TOKEN, 0] != address.token:
            return None
        opened.pop_all()
        return segment
