from nanograd.runtime.events import Rate


def test_rate_forgets_what_is_long_ago() -> None:
    now = [0.0]
    rate = Rate(over_s=10.0, clock=lambda: now[0])
    found = []

    for second in range(41):
        now[0] = float(second)
        # Ten a second, from the middle on two.
        found.append(rate.at(10 * min(second, 20) + 2 * max(second - 20, 0)))

    assert found[0] == 0
    assert found[20] == 10
    assert 2 < found[25] < 10
    assert found[40] == 2
