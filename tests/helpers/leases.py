"""The end of a lease: another machine takes a place over while this one does not run."""

import json

import pytest

from nanograd.runtime import lease, storage


def take_over(place: str, patch: pytest.MonkeyPatch) -> None:
    """Suspend this machine for an hour in which another one takes over and begins to write."""
    for name in storage.leases(place):
        storage.remove(storage.join(place, name))
    claim = storage.join(place, f".zz-7-7.k3{storage.LEASE}")
    storage.commit(claim, json.dumps(["process 7 on far", 7, True]).encode())
    clock = lease.clock_gettime
    patch.setattr(lease, "clock_gettime", lambda which: clock(which) + 3600)
