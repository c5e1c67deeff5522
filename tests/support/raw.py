"""A client of single frames, for tests of what a real client never does."""

import asyncio
from typing import Any

import msgspec

from chatcore_ext.constants import FrameType
from chatcore_ext.frame import (
    FrameParser,
    decode_ack,
    decode_deliver,
    decode_error,
    decode_refused,
    decode_reply,
    encode_frame,
    encode_hello,
    encode_request,
    encode_send,
)
from support.streams import Reader, Writer, open_stream

DEADLINE_S = 10.0


class RawClient:
    """One connection. Frames that a test does not wait for are kept for later."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self.writer = writer
        self._parser = FrameParser(0xFFFFFF)
        self._frames: list[tuple[int, bytes]] = []
        self._n_requests = 0

    @classmethod
    async def open(cls, address: int | str) -> "RawClient":
        """To the TCP door of this port, or to the door of this address."""
        return cls(*await open_stream(f"tcp://127.0.0.1:{address}" if isinstance(address, int) else address))

    async def next(self, *kinds: FrameType) -> tuple[int, bytes]:
        """The first frame of these kinds that has not been taken yet. Raises EOFError at the connection's end."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for i, (kind, _) in enumerate(self._frames):
                    if kind in kinds:
                        return self._frames.pop(i)
                data = await self._reader.read(65536)
                if not data:
                    raise EOFError
                self._frames += self._parser.feed(data)

    def taken(self, kind: FrameType) -> list[bytes]:
        """What has come of this kind and was not waited for."""
        return [body for found, body in self._frames if found == kind]

    def hello(self, **options: Any) -> None:
        self.writer.write(encode_hello(1, msgspec.msgpack.encode(options)))

    async def login(self, **options: Any) -> dict[str, Any]:
        """WELCOME's map."""
        self.hello(**options)
        return await self.welcome()

    async def welcome(self) -> dict[str, Any]:
        _, body = await self.next(FrameType.FRAME_WELCOME)
        welcome: dict[str, Any] = msgspec.msgpack.decode(body)
        return welcome

    async def closed_by(self) -> str:
        """The name of the error in CLOSE, after which the connection has ended."""
        _, body = await self.next(FrameType.FRAME_CLOSE)
        try:
            await self.next(FrameType.FRAME_CLOSE)
        except (EOFError, ConnectionResetError):
            return decode_error(body)[3]
        raise AssertionError("frames after CLOSE")

    def send(self, seq: int, channel: int, body: bytes, flags: int = 0) -> None:
        self.writer.write(encode_send(seq, channel, flags, body))

    async def ack(self) -> tuple[int, int, int]:
        return decode_ack((await self.next(FrameType.FRAME_ACK))[1])

    async def refusal(self) -> tuple[int, str, int]:
        """seq, name, flags."""
        seq, error = decode_refused((await self.next(FrameType.FRAME_REFUSED))[1])
        _, flags, _, name, _ = decode_error(error)
        return seq, name, flags

    async def delivery(self) -> tuple[int, int, int, int, int, int, bytes, bytes]:
        return decode_deliver((await self.next(FrameType.FRAME_DELIVER))[1])

    def ask(self, operation: int, **body: Any) -> int:
        """The request's id."""
        self._n_requests += 1
        self.writer.write(encode_request(self._n_requests, operation, msgspec.msgpack.encode(body)))
        return self._n_requests

    async def answer(self) -> tuple[int, dict[str, Any] | str]:
        """The next reply's request id, and its map or the name of its error."""
        kind, body = await self.next(FrameType.FRAME_REPLY, FrameType.FRAME_FAILED)
        request_id, rest = decode_reply(body)
        if kind == FrameType.FRAME_REPLY:
            reply: dict[str, Any] = msgspec.msgpack.decode(rest)
            return request_id, reply
        return request_id, decode_error(rest)[3]

    async def request(self, operation: int, **body: Any) -> Any:
        """The reply's map, or the name of the error."""
        request_id = self.ask(operation, **body)
        answered, reply = await self.answer()
        assert answered == request_id
        return reply

    async def event(self, name: str) -> dict[str, Any]:
        while True:
            _, body = await self.next(FrameType.FRAME_EVENT)
            event: dict[str, Any] = msgspec.msgpack.decode(body)
            if event["event"] == name:
                return event

    def write_frame(self, kind: int, body: bytes) -> None:
        self.writer.write(encode_frame(kind, body))

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass
