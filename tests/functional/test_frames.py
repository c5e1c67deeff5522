"""Sends, requests and history, frame by frame: what is answered, in which order, and what is refused."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chatcore.operations import Operation
from chatcore_ext.chain_hash import chain_hash
from chatcore_ext.constants import FrameType, SendFlag
from support.raw import RawClient
from support.servers import EVERY_DOOR, LocalServer

pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("door", EVERY_DOOR)]

OpenRaw = Callable[[LocalServer], Awaitable[RawClient]]


async def in_room(server: LocalServer, open_raw: OpenRaw, name: str = "ann") -> tuple[RawClient, int]:
    client = await open_raw(server)
    welcome = await client.login(token=server.token(name), channels={"room:x": 0})
    return client, welcome["channels"]["room:x"][0]


async def test_deliveries_chain(server: LocalServer, open_raw: OpenRaw) -> None:
    ann, number = await in_room(server, open_raw)
    hash = last = 0
    for seq in range(1, 20):
        ann.send(seq, number, b"m%d" % seq)
        channel, flags, id, prev, told, time, sender, body = await ann.delivery()
        assert (channel, flags, prev, sender, body) == (number, 0, last, b"ann", b"m%d" % seq)
        assert id > last
        hash, last = chain_hash(hash, id, sender, body), id
        assert told == hash
        assert (await ann.ack())[:2] == (seq, id)
        assert time > 1_700_000_000_000


async def test_a_resend_counts_once(server: LocalServer, open_raw: OpenRaw) -> None:
    ann, number = await in_room(server, open_raw)
    ann.send(1, number, b"once")
    first = await ann.ack()
    ann.send(1, number, b"once", SendFlag.SEND_RESEND)
    again = await ann.ack()
    assert again[:2] == first[:2]
    ann.send(2, number, b"first of two", SendFlag.SEND_RESEND)  # a resend of what never came
    second = await ann.ack()
    ann.send(2, number, b"first of two", SendFlag.SEND_RESEND)
    assert (await ann.ack())[:2] == second[:2]
    ann.send(3, number, b"end")
    await ann.ack()
    assert [(await ann.delivery())[7] for _ in range(3)] == [b"once", b"first of two", b"end"]
    history = await ann.request(Operation.SYNC, channel="room:x")
    assert [entry[6] for entry in history["entries"]] == [b"once", b"first of two", b"end"]


async def test_an_early_acknowledgement(server: LocalServer, open_raw: OpenRaw) -> None:
    ann, number = await in_room(server, open_raw)
    ann.send(1, number, b"quick", SendFlag.SEND_ACCEPTED)
    assert (await ann.ack())[:2] == (1, 0)
    assert (await ann.delivery())[7] == b"quick"
    ann.send(2, number, b"durable")
    assert (await ann.ack())[0] == 2  # and no second one for 1
    assert not ann.taken(FrameType.FRAME_ACK)


async def test_what_is_refused(server: LocalServer, open_raw: OpenRaw) -> None:
    ann, number = await in_room(server, open_raw)
    ann.send(1, number + 1000, b"nowhere")
    assert await ann.refusal() == (1, "not_joined", 0)
    ann.send(0, number, b"no seq")
    assert await ann.refusal() == (0, "bad_seq", 0)
    await ann.request(Operation.LEAVE, channel="room:x")
    ann.send(2, number, b"left")
    assert await ann.refusal() == (2, "not_joined", 0)


async def test_a_seq_used_twice_is_acknowledged_as_its_first_copy(server: LocalServer, open_raw: OpenRaw) -> None:
    ann, number = await in_room(server, open_raw)
    ann.send(1, number, b"first")
    first = await ann.ack()
    ann.send(1, number, b"another, under the same seq")
    assert (await ann.ack())[:2] == first[:2]
    ann.send(200, number, b"on")
    await ann.ack()
    ann.send(2, number, b"too late")
    assert await ann.refusal() == (2, "bad_seq", 0)
    assert [(await ann.delivery())[7] for _ in range(2)] == [b"first", b"on"]


async def test_requests_that_are_none(server: LocalServer, open_raw: OpenRaw) -> None:
    ann, _ = await in_room(server, open_raw)
    requests: list[tuple[int, dict[str, Any], str]] = [
        (99, {}, "unknown_operation"),
        (Operation.JOIN, {}, "bad_request"),
        (Operation.JOIN, {"channel": 7}, "bad_request"),
        (Operation.JOIN, {"channel": "room:"}, "bad_name"),
        (Operation.JOIN, {"channel": "dm:ann:ann"}, "bad_name"),
        (Operation.SYNC, {"channel": "room:x", "after": 1, "before": 2}, "bad_request"),
        (Operation.SYNC, {"channel": "room:x", "limit": 0}, "bad_request"),
        (Operation.SYNC, {"channel": "room:x", "after": 2**64 - 1}, "bad_request"),
        (Operation.ADD_MEMBER, {"channel": "group:x", "player": "bob", "role": "king"}, "bad_request"),
        (Operation.SET_PRESENCE, {"presence": "offline"}, "bad_request"),
        (Operation.MARK_READ, {"channel": "room:x", "id": 1}, "bad_request"),
        (Operation.BLOCK, {"player": "a b"}, "bad_name"),
    ]
    for operation, body, name in requests:
        assert await ann.request(operation, **body) == name, (operation, body)
    ann.writer.write(bytes([0, 0, 7, FrameType.FRAME_REQUEST, 0, 0, 0, 9, Operation.JOIN, 0xC1, 0xFF]))
    assert await ann.answer() == (9, "bad_request")
    ann.writer.write(bytes([0, 0, 5, FrameType.FRAME_REQUEST, 0, 0, 0, 10, Operation.BLOCKS]))  # no body at all
    assert await ann.answer() == (10, {"players": []})
    ann.writer.write(bytes([0, 0, 5, FrameType.FRAME_REQUEST, 0, 0, 0, 11, Operation.JOIN]))
    assert await ann.answer() == (11, "bad_request")


async def test_requests_about_a_channel_are_answered_in_their_order(server: LocalServer, open_raw: OpenRaw) -> None:
    ann, _ = await in_room(server, open_raw)
    ids = [ann.ask(Operation.JOIN if i % 2 == 0 else Operation.LEAVE, channel="room:y") for i in range(60)]
    answers = [await ann.answer() for _ in ids]
    assert [request_id for request_id, _ in answers] == ids
    assert all(
        isinstance(reply, dict) and bool(reply.get("number")) == (i % 2 == 0) for i, (_, reply) in enumerate(answers)
    )


async def test_frames_that_close(server: LocalServer, open_raw: OpenRaw) -> None:
    for kind, body, name in [
        (FrameType.FRAME_HELLO, b"chat\x01\0\0\0\x80", "unexpected_frame"),
        (0x77, b"", "unknown_frame"),
        (FrameType.FRAME_PING, b"short", "malformed_frame"),
        (FrameType.FRAME_SEND, b"", "malformed_frame"),
        (FrameType.FRAME_SEND, bytes(5000), "frame_too_large"),
    ]:
        client, _ = await in_room(server, open_raw)
        client.write_frame(kind, body)
        assert await client.closed_by() == name
    early = await open_raw(server)
    early.write_frame(FrameType.FRAME_PING, bytes(8))
    assert await early.closed_by() == "unexpected_frame"


async def test_no_hello_and_no_heartbeat(start_server: Any, open_raw: OpenRaw) -> None:
    server: LocalServer = start_server(
        limits={"hello_timeout": "200ms", "heartbeat": "200ms", "heartbeat_grace": "200ms"}
    )
    silent = await open_raw(server)
    assert await silent.closed_by() == "hello_timeout"
    quiet, _ = await in_room(server, open_raw)
    assert await quiet.closed_by() == "heartbeat_timeout"


async def test_pages_of_history(server: LocalServer, open_raw: OpenRaw) -> None:
    ann, number = await in_room(server, open_raw)
    for seq in range(1, 26):
        ann.send(seq, number, b"%d" % seq)
    ids = [(await ann.ack())[1] for _ in range(25)]
    forward: list[int] = []
    after, more = 0, True
    while more:
        page = await ann.request(Operation.SYNC, channel="room:x", after=after, limit=10)
        assert page["head"] == ids[-1]
        forward += [entry[0] for entry in page["entries"]]
        after, more = forward[-1], page["more"]
    assert forward == ids
    page = await ann.request(Operation.SYNC, channel="room:x", before=ids[20], limit=10)
    assert ([entry[0] for entry in page["entries"]], page["more"]) == (ids[10:20], True)
    page = await ann.request(Operation.SYNC, channel="room:x", before=ids[10], limit=10)
    assert ([entry[0] for entry in page["entries"]], page["more"]) == (ids[:10], False)
    page = await ann.request(Operation.SYNC, channel="room:x", after=ids[-1])
    assert (page["entries"], page["more"]) == ([], False)


async def test_an_answer_to_sync_has_a_bound_in_bytes(start_server: Any, open_raw: OpenRaw) -> None:
    server: LocalServer = start_server(limits={"sync_size": "10000B"})
    ann, number = await in_room(server, open_raw)
    for seq in range(1, 21):
        ann.send(seq, number, b"%d" % seq + bytes(3000))
    ids = [(await ann.ack())[1] for _ in range(20)]
    page = await ann.request(Operation.SYNC, channel="room:x", limit=500)
    assert ([entry[0] for entry in page["entries"]], page["more"]) == (ids[:3], True)
    page = await ann.request(Operation.SYNC, channel="room:x", before=2**64 - 1, limit=500)
    assert ([entry[0] for entry in page["entries"]], page["more"]) == (ids[-3:], True)


async def test_too_many_channels(start_server: Any, open_raw: OpenRaw) -> None:
    server: LocalServer = start_server(limits={"channels": 3})
    ann = await open_raw(server)
    welcome = await ann.login(token=server.token("ann"), channels={f"room:{i}": 0 for i in range(5)})
    assert (len(welcome["channels"]), len(welcome["lost"])) == (3, 2)
    assert await ann.request(Operation.JOIN, channel="room:more") == "too_many_channels"
