import pytest

from tests.helpers.processes import run_helper


@pytest.mark.slow
@pytest.mark.parametrize("way", ["shared", "calls"])
def test_lost_host_changes_no_bit_and_a_new_one_takes_its_share(way):
    outcome = run_helper("node_loss", way)

    assert outcome["actual"] == outcome["expected"]
    assert outcome["workers"] == 3
    assert {"lost", "server_lost"} & set(outcome["events"])
    assert "joined" in outcome["events"]


@pytest.mark.slow
def test_server_lost_in_the_last_round_of_a_segment_changes_no_bit():
    outcome = run_helper("node_loss", "last")

    assert outcome["actual"] == outcome["expected"]
    assert [each for each in outcome["events"] if each != "waiting"] == ["started", "host_lost"]
