"""Leases: one writer per folder, on a local disk, in a shared folder or in an object store.

docs/decisions/0018-leases.md says how claims are made, renewed and removed. Of two writers, the one
that lists later sees the other's claim, provided that a file stays listed once it has been listed.
No lock, link or conditional write is needed, because NFS and some stores lack them. Clocks of two
machines are never compared. A late removal of a stale claim never removes a valid claim, because a
process that renewed its claim too late claims the folder again, under another name.

References:
    Lamport (1974), "A new solution of Dijkstra's concurrent programming problem" (announce, then
    look); Gray, Cheriton (1989), "Leases".
"""

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import SystemRandom
from threading import Event as StopSignal
from threading import Lock, Thread
from time import CLOCK_BOOTTIME, clock_gettime, monotonic, sleep
from typing import NamedTuple

from nanograd.errors import DataError, NanogradError, OutputExistsError, StorageError
from nanograd.runtime import machine, storage
from nanograd.runtime.events import Listener, ignore, info, warning

LEASE_S = 20.0
_RENEWALS = 4  # renewals in that time
_POLL_S = 0.2
# A process that has not renewed its claim for this share of the lease's time counts it as lost. The
# rest allows for clocks that differ in speed.
_LATE = 0.75
# A clock that includes the time in which this machine is suspended, because other machines do not
# wait for it.
CLOCK = CLOCK_BOOTTIME


class Claim(NamedTuple):
    """The content of a claim."""

    holder: str  # host and process, for people
    renewals: int  # number of renewals so far
    holds: bool  # True if its process holds the folder, False if it only claims it


class Sight(NamedTuple):
    """An observation of another process's claim."""

    claim: Claim
    since_s: float  # time when the claim was first read with this content
    alive: bool | None  # whether its process is alive; None if that is not known yet
    is_still: bool  # whether the claim has not changed for the lease's time

    @property
    def blocks(self) -> bool:
        """Whether the process is alive and holds the folder, or was paused while claiming it."""
        return bool(self.alive) and (self.claim.holds or self.is_still)


class Lease:
    """The claim of this process to a folder or URI; stale after `lease_s` seconds."""

    def __init__(self, place: str, lease_s: float) -> None:
        self._place, self._lease_s = place, lease_s
        self.name, self._renewals, self._renewed_s = new_name(), 0, 0.0
        self._is_late, self._is_held, self._lock = False, False, Lock()
        self._ended, self.keeper = StopSignal(), Thread(target=self._keep, daemon=True)

    def check(self) -> None:
        """Check before a commit that this process still holds the folder.

        Raises:
            OutputExistsError: another process took the folder over, or the claim was removed.
            StorageError: the storage fails, so this cannot be checked.
        """
        with self._lock:
            # Renew after half of the lease's time, which leaves the other half for the commit.
            if clock_gettime(CLOCK) - self._renewed_s > self._lease_s / 2:
                self._renew()
            if not self._is_held:
                raise OutputExistsError(
                    f"{self._place} is no longer held by this process: the lease was removed, or "
                    "another process took it over because it was not renewed for "
                    f"{self._lease_s:.0f} s; nothing more is written"
                )

    def take(self, listener: Listener, wait: Callable[[], None] | None) -> None:
        """Wait until this process holds the folder; see `exclusive`."""
        seen: dict[str, Sight] = {}
        is_told = False
        while (holder := self.contend(seen, listener)) is not None:
            if holder and wait is None:
                raise OutputExistsError(
                    f"{self._place} is being written by another command ({holder}); wait until it "
                    "has ended"
                )
            if holder and wait is not None and not is_told:
                wait()
                is_told = True
            sleep(SystemRandom().uniform(0, _POLL_S))  # no event reports that a file was removed
        self._is_held = True

    def release(self) -> None:
        """Remove the claim."""
        self._ended.set()
        if self.keeper.is_alive():
            self.keeper.join()  # or it could write the claim again
        with suppress(StorageError):  # the claim will be stale soon
            self._withdraw()

    def contend(self, seen: dict[str, Sight], listener: Listener = ignore) -> str | None:
        """Claim the folder, and withdraw the claim if another process holds or claims it.

        `seen` has earlier observations of other claims, and is updated. Return None if this process
        now holds the folder, the name of another holder, or "" to try again after another claim.
        """
        before = self.look(seen)
        for other in before.values():
            if other.blocks:
                return other.claim.holder
            if other.alive is not False and not other.claim.holds:
                return ""
        self._announce()
        watched: dict[str, Sight] = {}
        while others := self.look(watched, listener):
            for name, other in others.items():
                if other.alive is False:
                    storage.remove(storage.join(self._place, name))
                elif other.blocks:
                    self._withdraw()
                    seen[name] = other
                    return other.claim.holder
                elif not other.claim.holds and name < self.name and name not in before:
                    self._withdraw()  # of simultaneous claims, the first by name stays
                    return ""
            if any(other.alive is not False for other in others.values()):
                sleep(_POLL_S)
        self._write(holds=True)
        if self._is_late:
            self._withdraw()
        return "" if self._is_late else None

    def look(self, seen: dict[str, Sight], listener: Listener = ignore) -> dict[str, Sight]:
        """Read the claims of other processes; compare them with `seen`, and update `seen`."""
        began, now = monotonic(), dict[str, Sight]()
        for name, claim in self._others().items():
            before = seen.get(name)
            is_same = before is not None and before.claim == claim
            since = before.since_s if before is not None and is_same else monotonic()
            is_still = began - since > self._lease_s
            alive = machine.is_alive(name.split(".")[1])
            if alive is None and is_still:
                alive = False
                text = f"{claim.holder} did not renew its lease for {self._lease_s:.0f} s"
                listener(warning(f"{self._place}: {text}; taking it over"))
            elif alive is None and before is None:
                listener(info(f"{self._place}: waiting for a sign of life of {claim.holder}"))
            elif alive is None and before is not None and (before.alive or not is_same):
                alive = True
            now[name] = Sight(claim, since, alive, is_still)
        seen.update(now)
        return now

    def _announce(self) -> None:
        """Write a claim with a new name, and wait until it is listed, else raise StorageError."""
        self.name, self._renewals, self._renewed_s = new_name(), 0, clock_gettime(CLOCK)
        self._is_late = False
        self._write()
        deadline = monotonic() + _LATE * self._lease_s
        while True:
            is_last = monotonic() > deadline
            if self.name in storage.leases(self._place):
                return
            if is_last:
                if self._read(self.name) is None:
                    return  # another process removed the claim as stale; `_write` will note that
                raise StorageError(
                    f"{self._place} does not list a file that was written seconds ago, so that two "
                    "commands could write there at once; use a storage that lists what it stores"
                )
            sleep(_POLL_S)

    def _keep(self) -> None:
        while not self._ended.wait(self._lease_s / _RENEWALS):
            # After an error, try again at the next renewal; `check` raises it before a commit.
            with self._lock, suppress(NanogradError):
                self._renew()

    def _renew(self) -> None:
        """Renew the claim of a holder, or note that it is lost."""
        # Two processes hold the folder only if a list lacked a file; then one of them must stop.
        holders = [name for name, claim in self._others().items() if claim.holds]
        if max(holders, default="") > self.name or not self._read(self.name):
            self._is_held = False
            return
        self._write(holds=True)
        if self._is_late:
            self._is_held = False
            self._withdraw()
            with suppress(OutputExistsError):
                self.take(ignore, None)

    def _write(self, *, holds: bool = False) -> None:
        """Write the claim; note if it came so late that others may count it as stale."""
        began = clock_gettime(CLOCK)
        claim = Claim(f"process {os.getpid()} on {platform.node()}", self._renewals, holds)
        storage.commit(storage.join(self._place, self.name), json.dumps(claim).encode())
        self._is_late |= clock_gettime(CLOCK) - self._renewed_s > _LATE * self._lease_s
        self._renewals, self._renewed_s = self._renewals + 1, began

    def _withdraw(self) -> None:
        storage.remove(storage.join(self._place, self.name))

    def _read(self, name: str) -> Claim | None:
        try:
            holder, renewals, holds = json.loads(storage.read(storage.join(self._place, name)))
            return Claim(str(holder), int(renewals), bool(holds))
        except DataError:
            return None  # its process has withdrawn it
        except (ValueError, TypeError):
            return Claim(f"the process of the damaged lease {name}", 0, holds=True)

    def _others(self) -> dict[str, Claim]:
        names = [name for name in storage.leases(self._place) if name != self.name]
        claims = {name: self._read(name) for name in names}
        return {name: claim for name, claim in claims.items() if claim is not None}


def new_name() -> str:
    """Return a name for a new claim of this process."""
    return f".{machine.owner()}.{os.urandom(8).hex()}{storage.LEASE}"


@contextmanager
def exclusive(
    place: str,
    listener: Listener = ignore,
    wait: Callable[[], None] | None = None,
    lease_s: float = LEASE_S,
) -> Iterator[Lease]:
    """Hold a folder inside a with block, as the only process on any host; create the folder.

    `wait` is called before this process waits for another one. The listener is warned of each claim
    that is taken over, or whose process may have ended. The claim of another machine is stale if it
    is unchanged for `lease_s` seconds.

    Raises:
        OutputExistsError: another process holds the folder, and `wait` is None.
        StorageError: the folder cannot be written, or does not list what was written.
    """
    held = Lease(place, lease_s)
    try:
        held.take(listener, wait)
        held.keeper.start()
        storage.remove_leftovers(place, below=False)
        yield held
    finally:
        held.release()
