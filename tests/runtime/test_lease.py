import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any

import pytest

from nanograd.errors import OutputExistsError, StorageError
from nanograd.runtime import lease, machine, storage
from nanograd.runtime.events import Event, Level
from nanograd.runtime.lease import exclusive
from simulators.waiting import wait_for
from tests.helpers.folders import contents

# Of the test's own processes: short, but many times what a renewal takes.
LEASE_S = 1.0
PROGRAM = f"""
import sys
from nanograd.runtime.lease import exclusive
with exclusive(sys.argv[1], lease_s={LEASE_S}):
    print("held", flush=True)
    sys.stdin.read()
"""
CONTAINER = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
BIND = 'mkdir -p "$0.mount" && mount --bind "$0" "$0.mount" && place="$0.mount" && '
FAR = f".0123456789-7-7.k3{storage.LEASE}"


@contextmanager
def held(place: str, *prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", PROGRAM, *[place] * (not prefix)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        if holder.stdout.readline() != b"held\n":
            pytest.skip("needs namespaces")
        yield holder


def refused(place: object, *arguments: Any, **options: Any) -> str:
    with pytest.raises(OutputExistsError) as caught, exclusive(str(place), *arguments, **options):
        pytest.fail("two processes hold one folder")
    return str(caught.value)


def test_second_process_is_refused_until_the_first_has_ended(tmp_path):
    place = str(tmp_path / "run")

    with held(place) as holder:
        before = contents(tmp_path)
        assert f"process {holder.pid} on " in refused(place)
        holder.send_signal(signal.SIGSTOP)  # on this machine it keeps its lease
        refused(place, lease_s=0.0)
        holder.send_signal(signal.SIGCONT)
        assert contents(tmp_path).keys() == before.keys()
        holder.kill()
    with pytest.raises(RuntimeError, match="mine"), exclusive(place):
        assert storage.names(place) == []  # no claim
        raise RuntimeError("mine")
    with exclusive(place):
        assert storage.exists(place)
    assert contents(tmp_path) == {}  # no claim is left


@pytest.mark.parametrize("mount", ["", BIND], ids=["one folder", "two mounts"])
def test_process_in_another_container_is_refused_while_the_holder_lives(tmp_path, mount):
    place = tmp_path / "run"
    place.mkdir()
    events: list[Event] = []
    script = f'place="$0" && {mount} exec "$@" "$place"'
    with held(str(place), *CONTAINER, "sh", "-c", script, str(place)) as holder:
        refused(place, events.append, lease_s=LEASE_S)
        levels = [event.level for event in events]
        holder.kill()
        holder.wait()  # or the end of its input could end it first
    with exclusive(str(place), events.append, lease_s=LEASE_S):
        pass

    assert levels == [Level.INFO]
    assert events[-1].level is Level.WARNING
    assert contents(place) == {}


def test_one_of_many_simultaneous_starts_holds_the_place(tmp_path):
    start, end = Barrier(7), Barrier(7)

    def contend(number: int) -> bool:
        start.wait()
        try:
            with exclusive(str(tmp_path)):
                end.wait()
                return True
        except OutputExistsError:
            end.wait()
            return False

    with ThreadPoolExecutor(7) as pool:
        held_by = list(pool.map(contend, range(7)))

    assert sorted(held_by) == [False] * 6 + [True]
    assert contents(tmp_path) == {}


def is_lost(held_lease: lease.Lease) -> bool:
    try:
        held_lease.check()
    except OutputExistsError:
        return True
    return False


def test_holder_whose_lease_was_taken_over_is_told_before_it_commits(tmp_path):
    with exclusive(str(tmp_path), lease_s=0.2) as held_lease:
        held_lease.check()
        [claim] = storage.leases(str(tmp_path))
        storage.remove(str(tmp_path / claim))

        wait_for(lambda: is_lost(held_lease), "the lease was not missed")

    assert contents(tmp_path) == {}  # nor is it written again


def suspend(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    later = lease.clock_gettime(lease.CLOCK) + seconds
    monkeypatch.setattr(lease, "clock_gettime", lambda clock: later)


@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("name", [".!.k3", ".~.k3"])  # sorted before and after that of the holder
def test_one_of_two_holders_ends(tmp_path, monkeypatch, name, holds):
    with exclusive(str(tmp_path)) as held_lease:
        other = tmp_path / f"{name}{storage.LEASE}"
        other.write_text(json.dumps(["process 7 on far", 7, holds]))
        suspend(monkeypatch, 12)

        assert is_lost(held_lease) == (holds and name == ".~.k3")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that each kind of request takes, and what clocks show: they stand still otherwise."""
    seconds = {"now": 0.0}

    def slowed(kind: str, request: Callable[..., Any]) -> Callable[..., Any]:
        def run(*words: Any) -> Any:
            seconds["now"] += seconds.get(kind, 0.0)
            return request(*words)

        return run

    for kind in ("commit", "read"):
        monkeypatch.setattr(storage, kind, slowed(kind, getattr(storage, kind)))
    monkeypatch.setattr(lease, "monotonic", lambda: seconds["now"])
    monkeypatch.setattr(lease, "clock_gettime", lambda clock: seconds["now"])
    return seconds


@pytest.mark.parametrize(("seconds", "renewals"), [(9, 2), (11, 3)])
def test_renewal_counts_from_its_begin(tmp_path, slow, seconds, renewals):
    with exclusive(str(tmp_path)) as held_lease:
        slow |= {"now": 10.5, "commit": 4}
        held_lease.check()
        slow |= {"now": 10.5 + seconds, "commit": 0}

        held_lease.check()

        claim = tmp_path / held_lease.name
        assert json.loads(claim.read_text())[1] == renewals


@pytest.mark.parametrize(("seconds", "holds"), [(14, True), (16, False)])
def test_claim_that_took_long_to_write_is_withdrawn_before_others_take_it_for_stale(
    tmp_path, slow, seconds, holds
):
    slow["commit"] = seconds / 2  # the first and the one that confirms it

    found = lease.Lease(str(tmp_path), 20.0).contend({})

    assert (found is None) == holds
    assert bool(storage.leases(str(tmp_path))) == holds


@pytest.mark.parametrize(
    ("seconds", "renewals", "alive"), [(19, 7, None), (21, 7, False), (21, 8, True)]
)
def test_claim_is_stale_by_what_was_read_after_its_time(tmp_path, slow, seconds, renewals, alive):
    claim = tmp_path / f".far.k3{storage.LEASE}"
    claim.write_text(json.dumps(["process 7 on far", 7, True]))
    seen: dict[str, lease.Sight] = {}
    reader = lease.Lease(str(tmp_path), 20.0)
    reader.look(seen)
    slow["now"] += seconds
    claim.write_text(json.dumps(["process 7 on far", renewals, True]))

    slow["read"] = 2
    [sight] = reader.look(seen).values()

    assert sight.alive is alive


def test_storage_that_does_not_list_what_was_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "leases", lambda place: [])

    with pytest.raises(StorageError, match="list"), exclusive(str(tmp_path), lease_s=0.3):
        pytest.fail("the place was held")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("data", [b"\xff{", b"null", b"[1]", b'{"a": 1, "b": 2}', b""])
def test_damaged_lease_is_respected_while_its_process_may_live(tmp_path, data):
    events: list[Event] = []
    far = tmp_path / FAR
    far.write_bytes(data)
    with exclusive(str(tmp_path), events.append, lease_s=0.3):
        assert not far.exists()
    assert [event.level for event in events] == [Level.INFO, Level.WARNING]
    assert far.name in str(events[1])

    far.mkdir()  # a folder is no lease
    near = tmp_path / f".{machine.owner()}.k3{storage.LEASE}"
    near.write_bytes(data)
    assert near.name in refused(tmp_path)
    near.write_text('["process 7 on near", 0, false]')  # stopped before it confirms its claim
    assert "process 7 on near" in refused(tmp_path, lease_s=0.3)


def test_leftovers_are_removed_unless_their_process_may_live(tmp_path):
    near, far = machine.owner(), "0123456789-7-7"
    dead = f"{near.split('-')[0]}-{2**22}-7"
    folder = tmp_path / "run" / "deep"
    folder.mkdir(parents=True)
    stale, kept = (f".a.b.{owner}.k3.nanograd-tmp" for owner in (dead, near))
    other = f".config.toml.{far}.k3.nanograd-tmp"
    # Of a claim that another machine is about to make.
    coming = f"..{far}.k3{storage.LEASE}.{far}.k3.nanograd-tmp"
    for name in (stale, kept, other, coming):
        (tmp_path / name).touch()
    for name in (stale, kept):
        (folder / name).touch()

    with exclusive(str(tmp_path)) as held_lease:
        found = contents(tmp_path).keys() - {held_lease.name}
        storage.remove_leftovers(str(tmp_path))

    deep = {f"run/deep/{name}" for name in (stale, kept)}
    assert found == {kept, coming, *deep}
    assert contents(tmp_path).keys() == {kept, coming, f"run/deep/{kept}"}
