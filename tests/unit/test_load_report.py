"""The plan of a load follows from its options; the report adds its processes up and judges them."""

import json
from typing import Any

import pytest

from chatcore.names import channel_kind, validate_channel, validate_player
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.load_checker import LoadChecker
from chatcore_server.load_plan import LoadError, LoadOptions, plan_shares
from chatcore_server.load_report import (
    MISTAKES,
    LoadReport,
    ShareResult,
    StormResult,
    as_text,
    merge_results,
    percentile,
)

OPTIONS = LoadOptions(connections=10, rooms=3, rate=50, duration_s=3, private_share=0.5, processes=2)


def test_every_player_is_in_one_room_and_one_pair() -> None:
    shares = plan_shares(OPTIONS, run=1)
    clients = [client for share in shares for client in share.clients]
    assert len({client.name for client in clients}) == 10
    rooms: dict[str, int] = {}
    for client in clients:
        validate_player(client.name)
        assert [channel_kind(validate_channel(name)) for name in client.channels] in (["room"], ["room", "dm"])
        rooms[client.channels[0]] = rooms.get(client.channels[0], 0) + 1
        for channel in client.channels[1:]:
            assert client.name in channel.split(":")
            assert sum(channel in other.channels for other in clients) == 2
    assert sorted(rooms.values()) == [3, 3, 4]


def test_processes_share_no_channel_and_all_messages() -> None:
    shares = plan_shares(OPTIONS, run=1)
    channels = [{name for client in share.clients for name in client.channels} for share in shares]
    assert not channels[0] & channels[1]
    assert sum(share.n_messages for share in shares) == 150
    assert sum(share.rate for share in shares) == pytest.approx(50)
    assert shares[0].run != shares[1].run


def test_the_seed_decides() -> None:
    def pairs(seed: int) -> list[list[str]]:
        (share,) = plan_shares(LoadOptions(connections=30, rooms=2, private_share=1, seed=seed), run=1)
        return [[name.replace(f"-{seed}-", "-") for name in client.channels] for client in share.clients]

    assert pairs(1) == pairs(1) != pairs(2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"connections": 0},
        {"rooms": 11},
        {"rate": 0.0},
        {"rate": float("inf")},
        {"duration_s": -1.0},
        {"ramp_s": -1.0},
        {"seed": -1},
        {"body_bytes": 15},
        {"private_share": 1.1},
        {"processes": 4},
        {"rate": 1e9},
    ],
)
def test_what_no_load_can_be(wrong: dict[str, Any]) -> None:
    options = LoadOptions(**{"connections": 10, "rooms": 3, **wrong})
    with pytest.raises(LoadError, match="--"):
        plan_shares(options, run=1)


def result(**changes: Any) -> ShareResult:
    counts = LoadChecker(1).counts()
    counts.update(planned=10, sent=10, acked=9, refused=1, expected=18, delivered=18)
    counts.update(changes.pop("counts", {}))
    return ShareResult(
        counts=counts,
        **{
            "refused": {ErrorCode.ERROR_RATE_LIMITED: 1},
            "histograms": {"ack": {1_000_000: 9}, "deliver": {1_000_000: 17, 5_000_000: 1}},
            "slowest_ns": {"ack": 900_000, "deliver": 4_900_000},
            "closed": {"slow_receiver": 1},
            "disconnected": 1,
            "reconnected": 1,
            "new_sessions": 0,
            "connections": 2,
            "absent": 0,
            "connect_s": 0.5,
            "run_s": 2.0,
            "storm": StormResult(2, 2, 1, 0.5, 4.0),
            "server": "chatcore 9",
            "interrupted": False,
            **changes,
        },
    )


def merged(*results: ShareResult) -> LoadReport:
    return merge_results(list(results), OPTIONS, "1.2.3")


def test_processes_are_added_up() -> None:
    report = merged(result(), result(run_s=3.0, connect_s=0.25))
    assert (report.sent, report.acked, report.delivered, report.lost) == (20, 18, 36, 0)
    assert report.refused == {"rate_limited": 2}
    assert report.closed == {"slow_receiver": 2}
    assert report.unanswered == report.unsent == 0
    assert (report.run_s, report.connect_per_s, report.deliveries_per_s) == (3.0, 8.0, 12.0)
    assert report.ack_ms == {"p50": 0.9, "p90": 0.9, "p99": 0.9, "max": 0.9}
    assert report.deliver_ms == {"p50": 1.0, "p90": 1.0, "p99": 4.9, "max": 4.9}
    assert report.storm == StormResult(4, 4, 2, 0.5, 8.0)
    assert report.exit_code == 0
    assert json.loads(report.as_json())["version"] == "1.2.3"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_mistake_is_enough(mistake: str) -> None:
    report = merged(result(), result(counts={mistake: 1}))
    assert report.exit_code == 1
    assert as_text(report).splitlines()[-1] == f"WRONG: {mistake} 1"


def test_a_run_that_checked_nothing_is_no_success() -> None:
    nothing = result(counts={"expected": 0, "delivered": 0})
    assert merged(nothing).exit_code == 1
    assert "nothing checked" in as_text(merged(nothing))
    assert merged(result(counts={"expected": 0, "delivered": 0}, interrupted=True)).exit_code == 0


def test_the_notes_say_what_to_change() -> None:
    report = merged(result(absent=1, counts={"planned": 12, "foreign": 1, "unverified": 9}, interrupted=True))
    notes = " ".join(report.notes)
    for word in ("frames_per_second", "pending_size", "2 messages came due", "1 connections", "seed", "hash", "inter"):
        assert word in notes, word
    assert all(f"note: {note}" in as_text(report) for note in report.notes)


def test_percentiles() -> None:
    assert percentile({}, 0.5) == 0
    assert percentile({10: 1}, 0.99) == 10
    buckets = {10: 50, 20: 40, 30: 9, 40: 1}
    assert [percentile(buckets, share) for share in (0.5, 0.51, 0.9, 0.99, 1)] == [10, 20, 20, 30, 40]


def test_the_report_holds_every_count_of_the_checker() -> None:
    fields = set(LoadReport.__struct_fields__)
    assert LoadChecker(1).counts().keys() - {"unknown"} <= fields
