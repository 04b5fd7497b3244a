import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import pytest

from nanograd.errors import OutputExistsError, StorageError
from nanograd.runtime import lease, machine, storage
from nanograd.runtime.events import Event as Message
from nanograd.runtime.events import Level, ignore
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
CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
BIND = 'mkdir -p "$0.mount" && mount --bind "$0" "$0.mount" && place="$0.mount" && '


@contextmanager
def held(place: str, *prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    """Hold a place in another process."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", PROGRAM, place],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        if holder.stdout.readline() != b"held\n":
            pytest.skip("needs namespaces")
        yield holder


@contextmanager
def held_elsewhere(place: str, owner: str = "0123456789-7-7") -> Iterator[str]:
    """A claim as another machine holds and renews it; returns its place."""
    claim, ended = storage.join(place, f".{owner}.k3{storage.LEASE}"), Event()

    def renew() -> None:
        renewals = 1
        while not ended.wait(LEASE_S / 4):
            renewals += 1
            storage.commit(claim, json.dumps(["process 7 on far", renewals, True]).encode())

    storage.commit(claim, json.dumps(["process 7 on far", 1, True]).encode())
    thread = Thread(target=renew)
    thread.start()
    try:
        yield claim
    finally:
        ended.set()
        thread.join()


def test_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    place = str(tmp_path / "run")

    with held(place) as holder:
        before = contents(tmp_path)
        named = rf"is being written by another process \(process {holder.pid} on "
        with pytest.raises(OutputExistsError, match=named), exclusive(place):
            pytest.fail("two processes hold one folder")
        holder.send_signal(signal.SIGSTOP)  # on this machine it keeps its lease
        with pytest.raises(OutputExistsError), exclusive(place, lease_s=0.0):
            pytest.fail("two processes hold one folder")
        holder.send_signal(signal.SIGCONT)
        assert contents(tmp_path).keys() == before.keys()
        holder.kill()
    with pytest.raises(RuntimeError, match="mine"), exclusive(place):
        assert storage.names(place) == []  # no claim
        raise RuntimeError("mine")
    with exclusive(place):
        locked = storage.exists(place)

    assert locked
    assert contents(tmp_path) == {}  # no claim is left


def test_exclusive_waits_for_another_process_if_asked_to(tmp_path: Path) -> None:
    place, waits = str(tmp_path / "run"), list[int]()

    with (
        held(place) as holder,
        exclusive(place, wait=lambda: (waits.append(holder.pid), holder.kill())),
    ):
        ended = holder.wait()

    assert waits == [holder.pid]
    assert ended == -signal.SIGKILL


@pytest.mark.parametrize("mount", ["", BIND], ids=["one folder", "two mounts"])
def test_process_in_another_container_is_refused_while_the_holder_lives(
    tmp_path: Path, mount: str
) -> None:
    place = tmp_path / "run"
    place.mkdir()
    events: list[Message] = []
    script = f'place="$0" && {mount} exec "$@" "$place"'
    words = ["unshare", "--mount", *CONTAINER[1:], "sh", "-c", script, str(place)]
    with subprocess.Popen(
        [*words, sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        if holder.stdout.readline() != b"held\n":
            pytest.skip("needs namespaces")
        with (
            pytest.raises(OutputExistsError, match="is being written by another process"),
            exclusive(str(place), events.append, lease_s=LEASE_S),
        ):
            pytest.fail("two processes hold one folder")
        refused = [event.level for event in events]
        holder.kill()
        holder.wait()  # or the end of its input could end it first
    with exclusive(str(place), events.append, lease_s=LEASE_S):
        pass

    assert refused == [Level.INFO]
    assert events[-1].level is Level.WARNING
    assert f"did not renew its lease for {LEASE_S:.0f} s; taking it over" in str(events[-1])
    assert contents(place) == {}


def test_one_of_many_simultaneous_starts_holds_the_place(tmp_path: Path) -> None:
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


def test_holder_whose_lease_was_taken_over_is_told_before_it_commits(tmp_path: Path) -> None:
    def is_taken_over() -> bool:
        try:
            held_lease.check()
        except OutputExistsError:
            return True
        return False

    with exclusive(str(tmp_path), lease_s=0.2) as held_lease:
        held_lease.check()
        [claim] = storage.leases(str(tmp_path))
        storage.remove(str(tmp_path / claim))

        wait_for(is_taken_over, "the lease was not missed")

    assert contents(tmp_path) == {}  # nor is it written again


def test_machine_that_was_suspended_finds_the_takeover_before_it_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with exclusive(str(tmp_path)) as held_lease:
        [claim] = storage.leases(str(tmp_path))
        storage.remove(str(tmp_path / claim))
        later = lease.clock_gettime(lease._CLOCK) + 3600
        monkeypatch.setattr(lease, "clock_gettime", lambda clock: later)

        with pytest.raises(OutputExistsError, match=r"no longer held .* for 20 s; nothing more is"):
            held_lease.check()


@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("name", [".!.k3", ".~.k3"])  # sorted before and after that of the holder
def test_one_of_two_holders_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, holds: bool
) -> None:
    is_lost = False
    with exclusive(str(tmp_path)) as held_lease:
        other = tmp_path / f"{name}{storage.LEASE}"
        other.write_text(json.dumps(["process 7 on far", 7, holds]))
        later = lease.clock_gettime(lease._CLOCK) + 12
        monkeypatch.setattr(lease, "clock_gettime", lambda clock: later)
        try:
            held_lease.check()
        except OutputExistsError:
            is_lost = True

    assert is_lost == (holds and name == ".~.k3")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that each kind of request takes; clocks stand still meanwhile and otherwise."""
    seconds, now = dict[str, float](), [0.0]

    def slowed(kind: str, request: Callable[..., Any]) -> Callable[..., Any]:
        def run(*words: Any) -> Any:
            now[0] += seconds.get(kind, 0.0)
            return request(*words)

        return run

    for kind in ("commit", "read"):
        monkeypatch.setattr(storage, kind, slowed(kind, getattr(storage, kind)))
    monkeypatch.setattr(lease, "monotonic", lambda: now[0])
    monkeypatch.setattr(lease, "clock_gettime", lambda clock: now[0])
    return seconds


@pytest.mark.parametrize(("seconds", "renewals"), [(9, 2), (11, 3)])
def test_renewal_counts_from_its_begin(
    tmp_path: Path, slow: dict[str, float], seconds: float, renewals: int
) -> None:
    held_lease = lease.Lease(str(tmp_path), 20.0)
    assert held_lease._contend({}, ignore) is None
    held_lease._is_held = True
    slow["commit"] = seconds
    held_lease._write(holds=True)
    slow["commit"] = 0

    held_lease.check()

    [claim] = storage.leases(str(tmp_path))
    assert json.loads((tmp_path / claim).read_text())[1] == renewals


@pytest.mark.parametrize(("seconds", "holds"), [(14, True), (16, False)])
def test_claim_that_took_long_to_write_is_withdrawn_before_others_take_it_for_stale(
    tmp_path: Path, slow: dict[str, float], seconds: float, holds: bool
) -> None:
    slow["commit"] = seconds / 2  # the first and the one that confirms it

    found = lease.Lease(str(tmp_path), 20.0)._contend({}, ignore)

    assert (found is None) == holds
    assert bool(storage.leases(str(tmp_path))) == holds


@pytest.mark.parametrize(("seconds", "alive"), [(19, None), (21, False)])
def test_claim_is_stale_by_what_was_read_after_its_time(
    tmp_path: Path, slow: dict[str, float], seconds: float, alive: bool | None
) -> None:
    (tmp_path / f".far.k3{storage.LEASE}").write_text(json.dumps(["process 7 on far", 7, True]))
    seen: dict[str, lease.Sight] = {}
    reader = lease.Lease(str(tmp_path), 20.0)
    reader._look(seen)
    slow["read"] = seconds
    reader._look({})  # time passes

    slow["read"] = 2
    [sight] = reader._look(seen).values()

    assert sight.alive is alive


def test_storage_that_does_not_list_what_was_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "leases", lambda place: [])

    with (
        pytest.raises(StorageError, match="does not list a file that was written"),
        exclusive(str(tmp_path), lease_s=0.3),
    ):
        pytest.fail("the place was held")
    assert contents(tmp_path) == {}


def test_machine_that_was_suspended_before_it_confirms_its_claim_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = count(step=1000)
    monkeypatch.setattr(lease, "clock_gettime", lambda clock: next(times))
    held_lease = lease.Lease(str(tmp_path), 20.0)

    assert held_lease._contend({}, ignore) == ""
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("renewed", [True, False])
def test_process_of_another_machine_is_named_while_it_renews_its_claim(
    tmp_path: Path, renewed: bool
) -> None:
    events: list[Message] = []
    with held_elsewhere(str(tmp_path)) as claim:
        if renewed:
            with (
                pytest.raises(OutputExistsError, match=r"another process \(process 7 on far\)"),
                exclusive(str(tmp_path), lease_s=LEASE_S),
            ):
                pytest.fail("two machines hold one folder")
    if not renewed:
        with exclusive(str(tmp_path), events.append, lease_s=0.3):
            assert not storage.exists(claim)
        assert [event.level for event in events] == [Level.INFO, Level.WARNING]


@pytest.mark.parametrize("data", [b"\xff{", b"null", b"[1]", b'{"a": 1, "b": 2}', b""])
def test_damaged_lease_is_respected_while_its_process_may_live(tmp_path: Path, data: bytes) -> None:
    events: list[Message] = []
    far = tmp_path / f".0123456789-7-7.k3{storage.LEASE}"
    far.write_bytes(data)
    with exclusive(str(tmp_path), events.append, lease_s=0.3):
        assert not far.exists()
    assert [event.level for event in events] == [Level.INFO, Level.WARNING]
    assert far.name in str(events[1])

    far.mkdir()  # a folder is no lease
    near = tmp_path / f".{machine.owner()}.k3{storage.LEASE}"
    near.write_bytes(data)
    with pytest.raises(OutputExistsError, match=near.name), exclusive(str(tmp_path)):
        pytest.fail("the lease was ignored")
    near.write_text('["process 7 on near", 0, false]')  # stopped before it confirms its claim
    with (
        pytest.raises(OutputExistsError, match="process 7 on near"),
        exclusive(str(tmp_path), lease_s=0.3),
    ):
        pytest.fail("the claim was ignored")


def test_leftovers_are_removed_unless_their_process_may_live(tmp_path: Path) -> None:
    dead, near, far = (
        f"{machine.owner().split('-')[0]}-{2**22}-7",
        machine.owner(),
        "0123456789-7-7",
    )
    (tmp_path / "run" / "deep").mkdir(parents=True)
    names = [
        *(
            f"{below}.a.b.{owner}.k3.nanograd-tmp"
            for below in ("", "run/deep/")
            for owner in (dead, near)
        ),
        f".config.toml.{far}.k3.nanograd-tmp",
        # Of a claim that another machine is about to make.
        f"..{far}.k3{storage.LEASE}.{far}.k3.nanograd-tmp",
    ]
    for name in names:
        (tmp_path / name).touch()
    kept = {names[1], names[2], names[3], names[5]}

    with exclusive(str(tmp_path)):
        assert {name for name in names if (tmp_path / name).exists()} == kept
        storage.remove_leftovers(str(tmp_path))

    assert contents(tmp_path).keys() == kept - {names[2]}
