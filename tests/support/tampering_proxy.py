"""A man in the middle: passes bytes between clients and a server, and now and then changes what the server delivers.

Parses frames towards the client with the slow oracle of the protocol, so it shares no code with what it tests.
"""

import asyncio
import struct
from typing import Literal

from support.oracles.frames import frame, split

Mistake = Literal["drop", "double", "swap", "body", "hash"]
DELIVER = 0x13
HASH_AT = 22  # of DELIVER's body
MAX_BODY = 0xFFFFFF


class TamperingProxy:
    """Makes the mistake with one DELIVER in `every`, counted over all connections, `times` in all."""

    def __init__(self, server_port: int, mistake: Mistake, every: int = 500, times: int = 3) -> None:
        self.port = 0
        self.made = 0
        self._server_port = server_port
        self._mistake = mistake
        self._every = every
        self._times = times
        self._n_deliveries = 0
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> "TamperingProxy":
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        for task in (
            asyncio.create_task(self._pass(reader, server_writer)),
            asyncio.create_task(self._tamper(server_reader, writer)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _tamper(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest, held = b"", b""
        try:
            while data := await reader.read(65536):
                frames, rest = split(rest + data, MAX_BODY)
                for kind, body in frames:
                    if kind != DELIVER:
                        writer.write(frame(kind, body))
                        continue
                    if held and held[HEADER_AT:CHANNEL_END] == frame(kind, body)[HEADER_AT:CHANNEL_END]:
                        writer.write(frame(kind, body) + held)
                        held = b""
                        continue
                    changed = self._changed(body) if not held else [body]
                    if changed is None:
                        held = frame(kind, body)
                    else:
                        writer.write(b"".join(frame(kind, each) for each in changed))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _changed(self, body: bytes) -> list[bytes] | None:
        """What comes out instead; None: this one waits for the next of its channel."""
        self._n_deliveries += 1
        if self._n_deliveries % self._every or self.made == self._times:
            return [body]
        self.made += 1
        if self._mistake == "drop":
            return []
        if self._mistake == "double":
            return [body, body]
        if self._mistake == "body":
            return [body[:-1] + bytes([body[-1] ^ 1])]
        if self._mistake == "hash":
            (hash,) = struct.unpack_from(">Q", body, HASH_AT)
            return [body[:HASH_AT] + struct.pack(">Q", hash ^ 2) + body[HASH_AT + 8 :]]
        return None


HEADER_AT, CHANNEL_END = 4, 8  # where the channel's number is in a DELIVER frame
