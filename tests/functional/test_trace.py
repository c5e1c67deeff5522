"""/admin/trace and /admin/why over every door: what is seen of a message's life, and who may look."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chatcore import ChatError
from chatcore.operations import Operation
from chatcore_ext.constants import FrameType, SendFlag
from support.following import Follower, admin_header, ask
from support.players import until
from support.raw import RawClient
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

StartServer = Callable[..., LocalServer]
OpenRaw = Callable[[LocalServer], Awaitable[RawClient]]
ROOM = "room:lobby"
SECRET = "nobody else's business"


def follow(server: LocalServer, **query: object) -> Follower:
    return Follower(server.server.http_port, server.folder, **query)


async def why(server: LocalServer, player: str, channel: str, id: int) -> dict[str, Any]:
    status, answer = await ask(
        server.server.http_port, "why", admin_header(server.folder), player=player, channel=channel, id=id
    )
    assert status == 200, answer
    assert answer["answer"].endswith((".", f"--channel {channel}"))
    return answer  # type: ignore[no-any-return]


def n_traces(server: LocalServer) -> int:
    return server.do(lambda worker: len(worker.context.tracer._traces))


# ---- What is seen ----------------------------------------------------------------------------------------------------


async def test_the_life_of_a_message_by_player_and_by_channel(server: LocalServer) -> None:
    async with follow(server, player="alice") as alice_trace, follow(server, channel=ROOM) as room_trace:
        alice, bob = await server.login("alice"), await server.login("bob")
        await alice.client.join(ROOM)
        await bob.client.join(ROOM)
        id = (await alice.client.send(ROOM, SECRET)).id
        await bob.hears(ROOM, SECRET)
        await alice_trace.sees("deliver", id=id)
        await room_trace.sees("fanned_out", id=id)
        await room_trace.sees("ack", id=id)
        await alice.close()
        await alice_trace.sees("left", channel=ROOM)
        await alice_trace.sees("disconnected")
    life = [event for event in alice_trace.events() if event not in ("event", "ping", "pong")]
    assert life[:5] == ["logged_in", "welcome", "request", "joined", "reply"]
    assert set(life[5:8]) == {"send", "ack", "deliver"}
    [sent] = alice_trace.told("send")
    assert (sent["direction"], sent["channel"], sent["size"]) == ("in", ROOM, len(SECRET))
    [ack] = alice_trace.told("ack")
    assert (ack["channel"], ack["seq"]) == (ROOM, sent["seq"])
    assert {line["player"] for line in alice_trace.lines} == {"alice"}
    [record] = room_trace.told("recorded")
    assert (record["id"], record["player"], record["members"]) == (id, "alice", 2)
    [summary] = room_trace.told("fanned_out")
    assert (summary["delivered"], summary["hidden"], summary["left_out"]) == (2, 0, 0)
    assert not room_trace.told("missed")
    assert {line["player"] for line in room_trace.told("joined")} == {"alice", "bob"}
    for line in alice_trace.lines + room_trace.lines:
        assert "body" not in line
        assert SECRET not in str(line)
        assert "ticket" not in line.get("fields", {}) or line["fields"]["ticket"] == "(secret)"
    await until(lambda: n_traces(server) == 0)
    assert not server.do(lambda worker: worker.context.tracer.is_on)


async def test_bodies_only_for_whom_has_asked(server: LocalServer) -> None:
    alice = await server.login("alice")
    await alice.client.join(ROOM)
    async with follow(server, player="alice", bodies=1) as curious, follow(server, player="alice") as discreet:
        id = (await alice.client.send(ROOM, SECRET)).id
        assert (await curious.sees("deliver", id=id))["body"] == SECRET
        assert curious.told("send")[0]["body"] == SECRET
        await discreet.sees("deliver", id=id)
    assert SECRET not in str(discreet.lines)


async def test_a_blocked_sender_is_hidden(server: LocalServer) -> None:
    alice, bob = await server.login("alice"), await server.login("bob")
    for each in (alice, bob):
        await each.client.join(ROOM)
    await bob.client.block("alice")
    async with follow(server, channel=ROOM) as trace, follow(server, channel=ROOM, player="bob") as both:
        id = (await alice.client.send(ROOM, "hello")).id
        assert (await trace.sees("missed", id=id))["player"] == "bob"
        assert trace.told("missed")[0]["reason"] == "hidden"
        summary = await trace.sees("fanned_out", id=id)
        assert (summary["delivered"], summary["hidden"]) == (1, 1)
        assert (await both.sees("deliver", id=id))["hidden"] is True
    assert (await why(server, "bob", ROOM, id))["verdict"] == "hidden"
    assert (await why(server, "alice", ROOM, id))["verdict"] == "is_sender"


@pytest.mark.parametrize("door", ["tcp"])  # the one at which a test can keep a client from reading
async def test_who_is_behind_is_left_out_and_told_by_a_gap(start_server: StartServer, open_raw: OpenRaw) -> None:
    many = {"frames_per_second": 1_000_000, "frame_burst": 1_000_000, "player_bytes_per_second": "1GiB"}
    sizes = {"pause_size": "64KiB", "pending_size": "128KiB", "sync_size": "16KiB", "player_byte_burst": "2MiB"}
    server = start_server(limits=many | sizes)
    slow = await open_raw(server)
    await slow.login(token=server.token("slow"))
    await slow.request(Operation.JOIN, channel=ROOM)
    alice = await server.login("alice")
    await alice.client.join(ROOM)
    async with follow(server, channel=ROOM, player="slow") as trace:
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        ids: list[int] = []
        answer: dict[str, Any] = {"verdict": ""}
        while answer["verdict"] != "left_out":  # it catches up for as long as the kernel's buffers grow
            assert len(ids) < 20_000
            sent = await asyncio.gather(*(alice.client.send(ROOM, "x" * 3_900) for _ in range(50)))
            ids += [receipt.id for receipt in sent]
            answer = await why(server, "slow", ROOM, ids[-1])
        first_left_out = answer["facts"]["devices"][0]["first_left_out"]
        missed = await trace.sees("missed", id=first_left_out, reason="left_out", player="slow")
        assert missed["first_left_out"] == first_left_out
        assert missed["pending"] > 50_000
        assert (await why(server, "slow", ROOM, ids[0]))["verdict"] == "pending"
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await slow.next(FrameType.FRAME_GAP)
        gap = await trace.sees("gap", **{"from": first_left_out - 1})
        assert gap["to"] >= ids[-1]
    await until(lambda: server.do(lambda worker: worker.hub.pending_output) == 0)
    assert (await why(server, "slow", ROOM, ids[-1]))["verdict"] == "sent"


async def test_refused_and_repeated_sends(server: LocalServer, open_raw: OpenRaw) -> None:
    raw = await open_raw(server)
    await raw.login(token=server.token("alice"))
    number = (await raw.request(Operation.JOIN, channel=ROOM))["number"]
    async with follow(server, channel=ROOM) as trace, follow(server, player="alice") as by_player:
        for flags in (0, SendFlag.SEND_RESEND):
            raw.send(1, number, b"once", flags)
            await raw.ack()
        raw.send(2, number, b"x" * 4_050)
        assert (await raw.refusal())[1] == "body_too_large"
        raw.send(3, number + 99, b"lost")
        assert (await raw.refusal())[1] == "not_joined"
        await trace.sees("refused", seq=2, code="body_too_large", player="alice")
        await by_player.sees("refused", seq=3, code="not_joined")
        repeated = await trace.sees("repeated", seq=1)
    [recorded] = trace.told("recorded")
    assert repeated["id"] > recorded["id"]
    assert len(trace.told("fanned_out")) == 1
    assert trace.told("send", seq=1)[1]["resend"] is True
    answer = await why(server, "bob", ROOM, repeated["id"])
    assert answer["verdict"] == "no_such_message"
    assert "repeated copy" in answer["answer"]


async def test_joins_that_fail_signals_sync_and_logins_that_are_refused(server: LocalServer, open_raw: OpenRaw) -> None:
    async with follow(server, player="alice") as trace:
        alice = await server.login("alice")
        with pytest.raises(ChatError):
            await alice.client.join("group:wolves")
        failed = await trace.sees("failed")
        assert (failed["operation"], failed["channel"]) == ("join", "group:wolves")
        await alice.client.join(ROOM)
        await alice.client.send(ROOM, "one")
        raw = await open_raw(server)
        await raw.login(token=server.token("alice"))
        await raw.request(Operation.JOIN, channel=ROOM)
        await raw.request(Operation.SYNC, channel=ROOM, after=0)
        reply = await trace.sees("reply", operation="sync")
        assert reply["fields"]["entries"] == "(1)"
        alice.client.typing(ROOM)
        await trace.sees("signal", direction="in")
        await trace.sees("signal", direction="out", sender="alice")
        refused = await open_raw(server)
        refused.hello(token=server.token("alice")[:-3] + "abc")
        assert await refused.closed_by() == "bad_token"
        await trace.sees("login_refused", code="bad_token", player="alice")
        refused = await open_raw(server)
        refused.hello(token="nonsense")
        assert await refused.closed_by() == "bad_token"
    assert len(trace.told("login_refused")) == 1


async def test_why_names_who_is_not_there(server: LocalServer) -> None:
    alice, bob = await server.login("alice"), await server.login("bob")
    await alice.client.join(ROOM)
    async with follow(server, channel=ROOM, player="bob") as trace:
        id = (await alice.client.send(ROOM, "anybody?")).id
        assert (await trace.sees("missed", id=id))["reason"] == "not_joined"
    assert (await why(server, "bob", ROOM, id))["verdict"] == "not_joined"
    assert (await why(server, "carol", ROOM, id))["verdict"] == "not_here"
    assert (await why(server, "bob", ROOM, id + 100))["verdict"] == "no_such_message"
    await bob.client.join(ROOM)
    assert (await why(server, "bob", ROOM, id))["verdict"] == "sent"
    await alice.client.join("dm:alice:bob")
    private = (await alice.client.send("dm:alice:bob", "psst")).id
    assert (await why(server, "carol", "dm:alice:bob", private))["verdict"] == "not_a_participant"
    await alice.client.create_group("group:wolves")
    await alice.client.join("group:wolves")
    howl = (await alice.client.send("group:wolves", "awoo")).id
    assert (await why(server, "bob", "group:wolves", howl))["verdict"] == "not_a_member"
    await bob.close()
    await until(lambda: server.do(lambda worker: not any(c for _, c in worker.hub.sessions_of(b"bob"))))
    assert (await why(server, "bob", ROOM, id))["verdict"] == "disconnected"
