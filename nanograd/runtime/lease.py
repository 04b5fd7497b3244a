"""Leases: one writer at a place, on a local disk, in a shared folder or in an object store.

Each writer commits a claim, a file of its own, and then lists the claims at the place. It holds
the place only if it sees no other. Of two writers at least one sees the other, since a file system
and an object store list what was written before, so no lock, link or conditional write is needed,
which NFS and some stores lack. A writer that sees another withdraws and tries again.

The holder renews its claim, in which a number grows. A claim is stale at once if its process is
known to have ended, and otherwise if it does not change for the lease's time: no two clocks are
compared.

References:
    Lamport (1974), "A new solution of Dijkstra's concurrent programming problem" (announce, then
    look); Gray, Cheriton (1989), "Leases".
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import SystemRandom
from threading import Event as StopSignal
from threading import Thread
from time import clock_gettime, monotonic, sleep
from typing import NamedTuple

from nanograd.errors import DataError, NanogradError, OutputExistsError, StorageError
from nanograd.runtime import machine, storage
from nanograd.runtime.events import Listener, ignore, info, warning

LEASE_S = 20.0
_RENEWALS = 4  # in that time
_POLL_S = 0.2
# Goes on while the machine is suspended, where the system has it: others do not wait for that.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Claim(NamedTuple):
    """The content of a claim."""

    holder: str  # host and process, for people
    renewals: int  # 0 until its process holds the place; -1 if the claim cannot be parsed


class Lease:
    """The claim of this process to a place.

    Args:
        place: folder or URI.
        lease_s: seconds after which a claim that does not change is stale.
    """

    def __init__(self, place: str, lease_s: float) -> None:
        self._place, self._lease_s = place, lease_s
        self._name = f".{machine.owner()}.{os.urandom(8).hex()}{storage.LEASE}"
        self._renewals, self._renewed, self._is_lost = 0, clock_gettime(_CLOCK), False
        self._ended, self._keeper = StopSignal(), Thread(target=self._keep, daemon=True)

    def acquire(self, listener: Listener, wait: Callable[[], None] | None) -> None:
        """Hold the place, and renew the claim from now on.

        Raises:
            OutputExistsError: another process holds it, and `wait` is None.
        """
        waits, began = False, monotonic()
        while True:
            holder = self._find_holder(listener, is_late=monotonic() - began > self._lease_s)
            if holder is None and self._claim():
                break
            if holder is not None and wait is None:
                raise OutputExistsError(
                    f"{self._place} is being written by another process ({holder}); wait for it "
                    "or choose another --output"
                )
            if holder is not None and wait is not None and not waits:
                wait()
                waits = True
            sleep(SystemRandom().uniform(0, _POLL_S))  # no event tells that a file is gone
        self._keeper.start()

    def check(self) -> None:
        """Check before a commit that the place still belongs to this process.

        Raises:
            OutputExistsError: another process took it over while this one did not run, or the
                claim was removed.
            StorageError: this cannot be found out.
        """
        if clock_gettime(_CLOCK) - self._renewed > self._lease_s:
            self._renew()
        if self._is_lost:
            raise OutputExistsError(
                f"{self._place} is no longer held by this process: the lease was removed, or "
                f"another process took it over because it was not renewed for {self._lease_s:.0f} "
                "s; nothing more is written"
            )

    def release(self) -> None:
        """Remove the claim."""
        self._ended.set()
        if self._keeper.is_alive():
            self._keeper.join()  # or it could write the claim again
        with suppress(StorageError):  # it is stale soon
            storage.remove(self._path(self._name))

    def _claim(self) -> bool:
        """Claim the place; withdraw and return False if another claim exists.

        Also if this process did not run for so long that others may have removed the claim.
        """
        self._write()
        if self._others() or clock_gettime(_CLOCK) - self._renewed > self._lease_s:
            storage.remove(self._path(self._name))
            self._renewals = 0
            return False
        self._write()
        return True

    def _find_holder(self, listener: Listener, *, is_late: bool) -> str | None:
        """Return the living holder of the place; remove stale claims.

        A claim that is neither confirmed nor withdrawn counts if it `is_late`: its process is
        stopped, and may hold the place when it continues.
        """
        for name in self._others():
            alive = machine.is_alive(name.split(".")[1])
            claim = self._read(name)
            if alive is None and claim is not None:
                listener(info(f"{self._place}: waiting for a sign of life of {claim.holder}"))
                claim, alive = self._watch(name, claim)
                if not alive and claim is not None:
                    text = f"{claim.holder} did not renew its lease for {self._lease_s:.0f} s"
                    listener(warning(f"{self._place}: {text}; taking it over"))
            if not alive:
                storage.remove(self._path(name))
            elif claim is not None and (claim.renewals or is_late):
                return claim.holder
        return None

    def _watch(self, name: str, first: Claim) -> tuple[Claim | None, bool]:
        """Wait until a claim of another machine changes, at most the lease's time."""
        deadline, claim = monotonic() + self._lease_s, self._read(name)
        while claim == first and monotonic() < deadline:
            sleep(_POLL_S)  # a shared folder or a store emits no event
            claim = self._read(name)
        return claim, claim not in (first, None)

    def _keep(self) -> None:
        while not self._ended.wait(self._lease_s / _RENEWALS) and not self._is_lost:
            with suppress(NanogradError):  # tried again; `check` finds out when it matters
                self._renew()

    def _renew(self) -> None:
        others = [self._read(name) for name in self._others()]
        # A process that took the place over has renewed less often.
        newer = [each for each in others if each and 0 < each.renewals < self._renewals]
        if newer or self._read(self._name) is None:
            self._is_lost = True
        else:
            self._write()

    def _write(self) -> None:
        claim = Claim(f"process {os.getpid()} on {platform.node()}", self._renewals)
        storage.commit(self._path(self._name), json.dumps(claim).encode())
        self._renewals, self._renewed = self._renewals + 1, clock_gettime(_CLOCK)

    def _read(self, name: str) -> Claim | None:
        try:
            holder, renewals = json.loads(storage.read(self._path(name)))
            return Claim(str(holder), int(renewals))
        except DataError:
            return None  # withdrawn
        except (ValueError, TypeError):
            return Claim(f"the process of the damaged lease {name}", -1)

    def _others(self) -> list[str]:
        return [name for name in storage.leases(self._place) if name != self._name]

    def _path(self, name: str) -> str:
        return storage.join(self._place, name)


@contextmanager
def exclusive(
    place: str,
    listener: Listener = ignore,
    wait: Callable[[], None] | None = None,
    lease_s: float = LEASE_S,
) -> Iterator[Lease]:
    """Hold a folder, which is created, inside a with block, as the only process on any host.

    Args:
        place: folder or URI.
        listener: receives messages about the claims of processes that may have ended.
        wait: called before waiting for another process; None raises instead.
        lease_s: seconds after which a claim of another machine that does not change is stale.

    Raises:
        OutputExistsError: another process holds it.
        StorageError: it cannot be written.
    """
    held = Lease(place, lease_s)
    try:
        held.acquire(listener, wait)
        storage.remove_leftovers(place, below=False)
        yield held
    finally:
        held.release()
