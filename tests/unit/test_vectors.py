"""The test vectors: up to date, and agreed on by the codec, the structs, the chain hash and the names."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chatcore import operations
from chatcore.errors import BadName, ProtocolError
from chatcore.events import ConnectionClosed
from chatcore.names import channel_kind, direct_channel, direct_players, validate_channel, validate_player
from chatcore.operations import REQUEST_TYPES, Operation
from chatcore.session import ClientSession
from chatcore_ext import frame
from chatcore_ext.chain_hash import chain_hash
from chatcore_ext.error_codes import error_text
from support.oracles.model_server import ModelServer

ROOT = Path(__file__).parents[2]


def load(name: str) -> Any:
    return json.loads((ROOT / "tests" / "vectors" / f"{name}.json").read_text(encoding="ascii"))


FRAMES = load("frames")
BODIES = load("bodies")
CHAINS = load("chain_hash")
NAMES = load("names")

REPLY_TYPES: dict[int, type[msgspec.Struct]] = {
    Operation.JOIN: operations.JoinReply,
    Operation.SYNC: operations.SyncReply,
    Operation.MEMBERS: operations.MembersReply,
    Operation.CONVERSATIONS: operations.ConversationsReply,
    Operation.CREATE_GROUP: operations.RoleReply,
    Operation.BLOCKS: operations.BlocksReply,
    Operation.ADD_FRIEND: operations.AddFriendReply,
    Operation.FRIENDS: operations.FriendsReply,
    Operation.REFRESH: operations.RefreshReply,
}


def named(vectors: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


def fields_of(vector: dict[str, Any]) -> tuple[Any, ...]:
    """The fields in the frame's order, as Python has them."""
    return tuple(
        bytes.fromhex(value) if key.endswith("_hex") else int(value) for key, value in vector["fields"].items()
    )


def test_the_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_vectors.py", "--check"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# Each frame type's codec. What only Python's generic functions write has no pair of its own.
def _whole(body: bytes) -> tuple[bytes]:
    return (body,)


CODECS: dict[int, tuple[Callable[..., bytes], Callable[[bytes], tuple[Any, ...]]]] = {
    0x01: (frame.encode_hello, frame.decode_hello),
    0x05: (frame.encode_goaway, frame.decode_goaway),
    0x10: (frame.encode_send, frame.decode_send),
    0x11: (frame.encode_ack, frame.decode_ack),
    0x12: (frame.encode_refused, frame.decode_refused),
    0x14: (frame.encode_signal, frame.decode_signal),
    0x15: (frame.encode_gap, frame.decode_gap),
    0x20: (frame.encode_request, frame.decode_request),
    0x21: (frame.encode_reply, frame.decode_reply),
    0x22: (frame.encode_failed, frame.decode_reply),
    0x13: (frame.encode_deliver, frame.decode_deliver),
}


@pytest.mark.parametrize("vector", named(FRAMES["valid"]))
def test_valid_frame(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    ((frame_type, body),) = frame.FrameParser().feed(data)
    assert frame_type == vector["type"]
    fields = fields_of(vector)
    if frame_type not in CODECS:
        assert fields == (body,)
        assert frame.encode_frame(frame_type, body) == data
        return
    encode, decode = CODECS[frame_type]
    assert decode(body) == fields
    assert encode(*fields) == data


def test_every_frame_type_has_a_vector() -> None:
    assert {vector["type"] for vector in FRAMES["valid"]} == {*range(1, 7), *range(16, 22), *range(32, 36)}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 10_000])
def test_stream_in_pieces(size: int) -> None:
    data = bytes.fromhex(FRAMES["stream"]["hex"])
    parser = frame.FrameParser()
    types = [found for at in range(0, len(data), size) for found, _ in parser.feed(data[at : at + size])]
    assert types == FRAMES["stream"]["types"]
    assert parser.pending == 0


def test_stream_cut_everywhere() -> None:
    data = bytes.fromhex(FRAMES["stream"]["hex"])
    for cut in range(len(data) + 1):
        parser = frame.FrameParser()
        frames = parser.feed(data[:cut]) + parser.feed(data[cut:])
        assert [found for found, _ in frames] == FRAMES["stream"]["types"]


@pytest.mark.parametrize("vector", named(FRAMES["invalid_from_server"]))
def test_a_client_does_not_accept(vector: dict[str, Any]) -> None:
    server = ModelServer()
    session = ClientSession()
    connection = server.connect()
    session.connect(0, "token:ann")
    connection.receive(session.data_to_send())
    session.receive(connection.take_output(), 0)
    assert session.ready
    session.receive(bytes.fromhex(vector["hex"]), 0)
    assert session.closing
    (closed,) = session.disconnected(0)
    assert isinstance(closed, ConnectionClosed)
    assert isinstance(closed.error, ProtocolError)
    assert closed.error.name == vector["error"]


def test_invalid_frames_name_known_errors() -> None:
    names = {error_text(code) for code in range(1000)}
    assert {vector["error"] for vector in FRAMES["invalid_from_client"]} <= names - {""}


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"hex"}:
        return bytes.fromhex(value["hex"])
    if value.keys() == {"u64"}:
        return int(value["u64"])
    return {key: from_json(item) for key, item in value.items()}


def type_of(vector: dict[str, Any]) -> Any:
    if vector["kind"] == "request":
        return REQUEST_TYPES[Operation(vector["operation"])]
    if vector["kind"] == "reply":
        return REPLY_TYPES.get(vector["operation"], operations.Empty)
    return {"hello": operations.Hello, "welcome": operations.Welcome, "event": operations.AnyEvent}[vector["kind"]]


@pytest.mark.parametrize(
    "vector",
    [pytest.param(vector, id=f"{vector['kind']} {vector.get('name', '')}".strip()) for vector in BODIES["bodies"]],
)
def test_body(vector: dict[str, Any]) -> None:
    value = from_json(vector["value"])
    data = bytes.fromhex(vector["hex"])
    assert msgspec.msgpack.decode(data) == value
    decoded = msgspec.msgpack.decode(data, type=type_of(vector))
    for key in value.keys() - {"event"}:
        assert msgspec.to_builtins(getattr(decoded, key), builtin_types=(bytes,)) == value[key]
    assert msgspec.msgpack.decode(operations.encode_body(decoded), type=type_of(vector)) == decoded


def test_all_operations_and_events_have_vectors() -> None:
    requests = {vector["operation"]: vector["name"] for vector in BODIES["bodies"] if vector["kind"] == "request"}
    assert requests == {int(operation): operation.name.lower() for operation in Operation}
    assert {vector["operation"] for vector in BODIES["bodies"] if vector["kind"] == "reply"} == set(Operation)
    told = {vector["value"]["event"] for vector in BODIES["bodies"] if vector["kind"] == "event"}
    assert told == {kind.__struct_config__.tag for kind in operations.AnyEvent.__args__}


def test_what_a_later_version_may_add_is_ignored() -> None:
    with pytest.raises(msgspec.ValidationError):
        operations.decode_event(bytes.fromhex(BODIES["unknown_event"]["hex"]))
    request_type = REQUEST_TYPES[Operation(BODIES["unknown_key"]["operation"])]
    data = bytes.fromhex(BODIES["unknown_key"]["hex"])
    assert msgspec.msgpack.decode(data, type=request_type) == operations.ChannelRequest("room:lobby")


@pytest.mark.parametrize("sequence", named(CHAINS["sequences"]))
def test_chain(sequence: dict[str, Any]) -> None:
    state = 0
    for message in sequence["messages"]:
        if message["prev"] == "0":
            state = 0
        body = bytes.fromhex(message["body_hex"])
        state = chain_hash(state, int(message["id"]), message["sender"].encode(), body)
        assert state == int(message["hash"])


def test_names() -> None:
    for player in NAMES["players"]["valid"]:
        assert validate_player(player) == player
    for channel, kind in NAMES["channels"]["valid"].items():
        assert channel_kind(validate_channel(channel)) == kind
    for first, second, channel in NAMES["channels"]["direct"]:
        assert direct_channel(first, second) == channel
        assert set(direct_players(channel)) == {first, second}


@pytest.mark.parametrize("name", NAMES["players"]["invalid"])
def test_no_player(name: str) -> None:
    with pytest.raises(BadName):
        validate_player(name)
    with pytest.raises(BadName):
        direct_channel("ann", name)


@pytest.mark.parametrize("name", NAMES["channels"]["invalid"])
def test_no_channel(name: str) -> None:
    with pytest.raises(BadName):
        validate_channel(name)
