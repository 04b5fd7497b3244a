import pytest

from tests.helpers.lease_simulation import LEASE_S, Schedule, competed, overlaps

SCHEDULES = {
    "at once": Schedule(apart_s=0.3, work_s=5),
    "seven at once": Schedule(apart_s=0.3, work_s=5, processes=7, machines=7),
    "slow store": Schedule(stop=0.01, latency_s=1.0, apart_s=20, work_s=25, machines=2),
    "stops": Schedule(stop=0.02),
    "stops of one machine": Schedule(stop=0.02, machines=1),
    "long stops": Schedule(
        stop=0.04, stop_s=(20, 60), apart_s=90, processes=5, machines=5, work_s=5, commits=9
    ),
    "short stops": Schedule(stop=0.15, stop_s=(8, 24), apart_s=10, work_s=9),
    "kills at the start": Schedule(kill=0.05, apart_s=3, faults_until=1.5, processes=4),
    "kills": Schedule(stop=0.01, kill=0.01, processes=5),
    "many faults": Schedule(stop=0.03, kill=0.002, apart_s=20, work_s=25, processes=4, machines=4),
    "late lists": Schedule(stop=0.02, lag_s=8.0),
    "late lists at once": Schedule(apart_s=0.3, work_s=5, lag_s=8.0),
}


# 130 find every mutant of tests/mutants.
@pytest.mark.parametrize("num_seeds", [130, pytest.param(20_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_lets_two_processes_hold_a_place_or_all_give_up(name, num_seeds):
    schedule, num_without = SCHEDULES[name], 0
    for seed in range(num_seeds):
        world = competed(seed, schedule)

        outcomes = {process.outcome for process in world.processes}
        killed = {each.owner for each in world.processes if each.outcome == "killed"}
        assert not overlaps([name for _, name in world.holds]), seed
        num_without += not outcomes & {"ended", "killed"}
        assert schedule.stop or outcomes <= {"ended", "refused", "killed"}, seed
        assert world.left() <= killed, seed
    # Two that were both stopped for long can refuse each other.
    assert num_without <= (num_seeds // 1000 if schedule.stop else 0)


def test_of_two_that_lists_hid_from_each_other_one_ends():
    schedule = Schedule(
        processes=2, machines=2, apart_s=1, work_s=6, commits=9, hides_until=LEASE_S
    )
    num_overlaps = 0
    for seed in range(200):
        world = competed(seed, schedule)

        late = [name for time, name in world.holds if time > schedule.hides_until + LEASE_S / 2]
        num_overlaps += overlaps([name for _, name in world.holds])
        assert len(set(late)) <= 1, seed
        first, second = sorted(each.outcome for each in world.processes)
        assert first == "ended", seed
        assert second in ("lost", "refused", "ended"), seed
    assert num_overlaps > 100


def test_simulation_is_repeated_by_its_seed():
    first, again, other = (competed(seed, SCHEDULES["many faults"]).holds for seed in (7, 7, 8))

    assert first == again != other
