"""The load generator's own check: it says so when a server loses, doubles or swaps a single delivery."""

import pytest

from processes import Load, limit_server, run_load

SMALL = Load("small", rooms=2, members=10, talkers=2, window=4)
BRIEF = ["--warm=0.05", "--seconds=0.2", "--stall=0.4"]
FAULTS = ("lost", "duplicated", "out_of_order", "wrong", "refused", "gaps", "holes")


@pytest.mark.parametrize("mode", ["signals", "messages"])
def test_all_deliveries_of_a_right_server_are_right(mode: str) -> None:
    with limit_server() as server:
        answer = run_load(server, [*SMALL._replace(mode=mode).arguments, *BRIEF])
    assert answer["right"], answer
    receivers = SMALL.members - (mode == "signals")
    assert answer["all_deliveries"] == answer["all_messages"] * receivers > 0
    assert [answer[fault] for fault in FAULTS] == [0] * len(FAULTS)


@pytest.mark.parametrize("mode", ["signals", "messages"])
@pytest.mark.parametrize(("breakage", "fault"), [("drop", "lost"), ("double", "duplicated"), ("swap", "out_of_order")])
def test_one_wrong_delivery_is_reported(mode: str, breakage: str, fault: str) -> None:
    with limit_server("--break", breakage, "300") as server:
        answer = run_load(server, [*SMALL._replace(mode=mode, talkers=1).arguments, *BRIEF])
    assert not answer["right"]
    assert answer[fault] == 1, answer
    others = {name: answer[name] for name in FAULTS if name not in (fault, "holes")}
    assert not any(others.values()), others
    assert (answer["holes"] > 0) == (mode == "messages"), "prev tells of each of them too"


def test_open_loop_sends_at_its_rate() -> None:
    with limit_server() as server:
        answer = run_load(server, [*SMALL.arguments, *BRIEF, "--rate=2000"])
    assert answer["right"], answer
    assert 0.8 < answer["messages"] / answer["seconds"] / 2000 < 1.25
