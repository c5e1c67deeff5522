"""The asyncio client: moves the bytes of a ClientSession, reconnects, and offers its calls as coroutines.

Works on plain asyncio and on uvloop. Keeps no rules of the protocol: those are session.py's.

    async with Client(token=token) as client:
        await client.join("room:lobby")
        await client.send("room:lobby", "hello")
        async for message in client:
            print(f"{message.sender}: {message.text}")
"""

import asyncio
import contextlib
import inspect
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import msgspec
from msgspec import Struct

from chatcore import operations
from chatcore.backoff import Reconnect
from chatcore.errors import AuthenticationError, ChatError, ConnectionLost, ProtocolError
from chatcore.events import (
    Acknowledged,
    Connected,
    ConnectionClosed,
    Draining,
    Message,
    Replied,
    RequestFailed,
    SendFailed,
    SessionEvent,
)
from chatcore.names import direct_channel, validate_channel, validate_player
from chatcore.operations import ChannelRequest, Empty, MemberRequest, Operation, PlayerRequest, Role
from chatcore.session import ClientSession

DEFAULT_PORT = 7400
READ_SIZE = 65536  # bytes asked of the socket at once
MAX_QUEUED_EVENTS = 10_000  # above it the client stops reading until its user has caught up; TCP then slows the server
CONNECT_TIMEOUT_S = 10.0
HISTORY_PAGE = 50

TokenSource = str | Callable[[], str | Awaitable[str]]
_Reply = TypeVar("_Reply", bound=Struct)


class Receipt(Struct, frozen=True):
    """A send that is durable. `id` is 0 where the server no longer knows it, or for `accepted`; `time` in ms since
    1970."""

    id: int
    time: int


class Client:
    """One player's session with a chatcore server.

    `token` is the player's JWT, or a callable that gets one (it may be a coroutine function, and it is called again
    at every log-in, so that it can renew). Messages come by `async for message in client`; `events()` gives all that
    happens, `ConnectionClosed` and `Connected` included. Use one of both iterations at a time. Calls wait through
    reconnects; they raise ChatError subclasses, ConnectionLost once the client is closed or has given up.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        *,
        token: TokenSource,
        name: str = "chatcore-python",
        reconnect: Reconnect | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._token = token
        self._reconnect = reconnect or Reconnect()
        self._session = ClientSession(client=name)
        self._requests: dict[int, asyncio.Future[bytes]] = {}
        self._sends: dict[int, asyncio.Future[Receipt]] = {}
        self._queue: deque[SessionEvent] = deque()
        self._queue_changed = asyncio.Event()
        self._ready = asyncio.Event()
        self._window_open = asyncio.Event()
        self._window_open.set()
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: ChatError | None = None
        self._wake = asyncio.Event()
        self._attempt = 0  # connections since the last WELCOME
        self._refusal: ChatError | None = ConnectionLost()  # of the first attempt; None once there was a WELCOME
        self._at_least_ms = 0  # what the server asked to wait before the next one

    # Life

    async def connect(self) -> None:
        """Connect and log in. Raises what the first attempt ended with; only later losses lead to reconnects."""
        if self._task is not None:
            raise RuntimeError("the client is connected already")
        reader = await self._open()
        self._task = asyncio.create_task(self._run(reader), name="chatcore-client")
        await self._wait_ready()

    async def close(self) -> None:
        """Close the connection. The player's presence ends after the server's grace period."""
        self._fail(ConnectionLost("the client was closed"))
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ChatError):
                await self._task
        await self._close_writer()

    async def logout(self) -> None:
        """End the session at once (presence goes off, the ticket is void), then close."""
        with contextlib.suppress(ChatError):
            await self._call(Operation.LOGOUT, Empty(), Empty, retry=False)
        await self.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def player(self) -> str:
        return self._session.player

    @property
    def session_id(self) -> int:
        return self._session.session_id

    @property
    def connected(self) -> bool:
        return self._ready.is_set()

    @property
    def channels(self) -> list[str]:
        return self._session.channels

    # What comes in

    async def events(self) -> AsyncIterator[SessionEvent]:
        """Everything that happens, in order. Ends when the client is closed; raises what made it give up."""
        while True:
            while self._queue:
                event = self._queue.popleft()
                if len(self._queue) == MAX_QUEUED_EVENTS // 2:
                    self._wake.set()
                yield event
            if self._failure is not None:
                if isinstance(self._failure, ConnectionLost):
                    return
                raise self._failure
            self._queue_changed.clear()
            await self._queue_changed.wait()

    async def __aiter__(self) -> AsyncIterator[Message]:
        async for event in self.events():
            if isinstance(event, Message):
                yield event

    # Messages and signals

    async def send(self, channel: str, body: bytes | str, *, accepted: bool = False) -> Receipt:
        """Send a message; returns when it is durable (with `accepted`: when the server has queued it).

        Survives reconnects: the message shows once. Raises the refusal; OutcomeUnknown if the session ended first.
        """
        data = body.encode() if isinstance(body, str) else body
        while self._session.send_window_full:
            self._window_open.clear()
            await self._or_failure(self._window_open.wait())
        self._check_failure()
        handle = self._session.send(channel, data, _now_ms(), accepted=accepted)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._sends[handle] = future
        self._flush()
        try:
            return await future
        finally:
            self._sends.pop(handle, None)

    async def send_direct(self, player: str, body: bytes | str) -> Receipt:
        """Send a private message, joining the private chat first if need be."""
        channel = direct_channel(self.player, player)
        if channel not in self._session.channels:
            await self.join(channel)
        return await self.send(channel, body)

    def signal(self, channel: str, kind: int, body: bytes = b"") -> None:
        """Send a signal; dropped while there is no connection."""
        self._session.signal(channel, kind, body, _now_ms())
        self._flush()

    def typing(self, channel: str, *, stopped: bool = False) -> None:
        self.signal(channel, 1, b"\0" if stopped else b"")

    # Channels

    async def join(self, channel: str) -> operations.JoinReply:
        """Enter a channel: its messages come from now on, over reconnects too, until `leave`."""
        return await self._call(Operation.JOIN, ChannelRequest(validate_channel(channel)), operations.JoinReply)

    async def leave(self, channel: str) -> None:
        await self._call(Operation.LEAVE, ChannelRequest(channel), Empty)

    async def history(self, channel: str, *, before: int | None = None, limit: int = HISTORY_PAGE) -> list[Message]:
        """The last `limit` (at most 500) messages, or those before an id, oldest first. What is hidden is left out."""
        request = operations.SyncRequest(channel, before=2**64 - 1 if before is None else before, limit=limit)
        reply = await self._call(Operation.SYNC, request, operations.SyncReply)
        return [
            Message(channel, entry.id, entry.sender, entry.body, entry.time, entry.sender == self.player)
            for entry in reply.entries
            if entry.sender
        ]

    async def members(self, channel: str) -> list[operations.MemberState]:
        """Who is in a room now; all members of a group. At most 1,000."""
        return (await self._call(Operation.MEMBERS, ChannelRequest(channel), operations.MembersReply)).members

    async def conversations(self) -> dict[str, operations.ConversationState]:
        """The player's groups and private chats, newest first."""
        return (await self._call(Operation.CONVERSATIONS, Empty(), operations.ConversationsReply)).conversations

    async def mark_read(self, channel: str, id: int) -> None:
        await self._call(Operation.MARK_READ, operations.MarkReadRequest(channel, id), Empty)

    # Groups

    async def create_group(self, channel: str) -> str:
        """Found a group; returns the player's role in it."""
        return (await self._call(Operation.CREATE_GROUP, ChannelRequest(channel), operations.RoleReply)).role

    async def add_member(self, channel: str, player: str, role: Role = "member") -> None:
        await self._call(Operation.ADD_MEMBER, MemberRequest(channel, validate_player(player), role), Empty)

    async def remove_member(self, channel: str, player: str) -> None:
        await self._call(Operation.REMOVE_MEMBER, MemberRequest(channel, validate_player(player)), Empty)

    async def set_role(self, channel: str, player: str, role: Role) -> None:
        await self._call(Operation.SET_ROLE, MemberRequest(channel, validate_player(player), role), Empty)

    async def leave_group(self, channel: str) -> None:
        await self._call(Operation.LEAVE_GROUP, ChannelRequest(channel), Empty)

    # Blocks, friends, presence

    async def block(self, player: str) -> None:
        await self._call(Operation.BLOCK, PlayerRequest(validate_player(player)), Empty)

    async def unblock(self, player: str) -> None:
        await self._call(Operation.UNBLOCK, PlayerRequest(validate_player(player)), Empty)

    async def blocks(self) -> list[str]:
        return (await self._call(Operation.BLOCKS, Empty(), operations.BlocksReply)).players

    async def add_friend(self, player: str) -> bool:
        """True if the two are friends now: both have added each other."""
        request = PlayerRequest(validate_player(player))
        return (await self._call(Operation.ADD_FRIEND, request, operations.AddFriendReply)).mutual

    async def remove_friend(self, player: str) -> None:
        await self._call(Operation.REMOVE_FRIEND, PlayerRequest(validate_player(player)), Empty)

    async def friends(self) -> operations.FriendsReply:
        return await self._call(Operation.FRIENDS, Empty(), operations.FriendsReply)

    async def set_presence(self, presence: str) -> None:
        request = msgspec.convert({"presence": presence}, operations.SetPresenceRequest)
        await self._call(Operation.SET_PRESENCE, request, Empty)

    # The connection

    async def _run(self, reader: asyncio.StreamReader) -> None:
        """Keep a connection until the client is closed or gives up."""
        try:
            while True:
                await self._serve(reader)
                if self._refusal is not None:
                    raise self._refusal
                reader = await self._come_back()
        except ChatError as error:
            self._fail(error)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fail(ProtocolError(f"the client failed: {error!r}"))
            raise

    async def _open(self) -> asyncio.StreamReader:
        """Open a connection and say hello. Raises ConnectionLost if nobody listens, and what the token source
        raises."""
        token = await self._get_token()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=READ_SIZE)
        except (OSError, TimeoutError) as error:
            raise ConnectionLost(f"cannot connect to {self._host}:{self._port}: {error or 'timed out'}") from error
        self._session.connect(_now_ms(), token)
        self._flush()
        return reader

    async def _get_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        token = self._token()
        return await token if inspect.isawaitable(token) else token

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        """Move bytes until the connection ends. Raises the error if it is of a kind that no reconnect mends."""
        reading: asyncio.Task[bytes] = asyncio.create_task(reader.read(READ_SIZE))
        try:
            while not self._session.closing:
                await self._wait_for_input(reading)
                if reading.done():
                    data = _read_result(reading)
                    if not data:
                        break
                    self._take(self._session.receive(data, _now_ms()))
                    if len(self._queue) >= MAX_QUEUED_EVENTS:
                        await self._wait_for_user()
                    reading = asyncio.create_task(reader.read(READ_SIZE))
                self._take(self._session.tick(_now_ms()))
                self._flush()
        finally:
            reading.cancel()
            self._ready.clear()
            lost = self._session.disconnected(_now_ms())
            self._take(lost)
            await self._close_writer()
        _raise_if_final(lost)

    async def _wait_for_input(self, reading: asyncio.Task[bytes]) -> None:
        """Until there are bytes, a deadline of the session is due, or a call has changed its deadlines."""
        deadline = self._session.next_deadline_ms()
        timeout = None if deadline is None else max(0, deadline - _now_ms()) / 1000
        await asyncio.wait({reading}, timeout=timeout)

    async def _wait_for_user(self) -> None:
        self._wake.clear()
        while len(self._queue) > MAX_QUEUED_EVENTS // 2:
            await self._wake.wait()
            self._wake.clear()

    async def _come_back(self) -> asyncio.StreamReader:
        """Reconnect with back-off until a connection is open. Raises when the policy gives up."""
        while True:
            at_least_ms, self._at_least_ms = self._at_least_ms, 0
            await asyncio.sleep(self._reconnect.delay_ms(self._attempt, at_least_ms) / 1000)
            self._attempt += 1
            try:
                return await self._open()
            except ConnectionLost:
                if self._reconnect.attempts is not None and self._attempt >= self._reconnect.attempts:
                    raise

    def _take(self, taken: list[SessionEvent]) -> None:
        for event in taken:
            if isinstance(event, Acknowledged):
                _resolve(self._sends.get(event.handle), Receipt(event.id, event.time))
            elif isinstance(event, SendFailed):
                _reject(self._sends.get(event.handle), event.error)
            elif isinstance(event, Replied):
                _resolve(self._requests.get(event.request_id), event.body)
            elif isinstance(event, RequestFailed):
                _reject(self._requests.get(event.request_id), event.error)
            else:
                self._note(event)
                self._queue.append(event)
        if taken:
            self._queue_changed.set()
            if not self._session.send_window_full:
                self._window_open.set()

    def _note(self, event: SessionEvent) -> None:
        if isinstance(event, Connected):
            self._ready.set()
            self._attempt = 0
            self._refusal = None
        elif isinstance(event, Draining):
            self._at_least_ms = random.randint(0, event.reconnect_window_ms)
        elif isinstance(event, ConnectionClosed) and event.error is not None:
            if self._refusal is not None:
                self._refusal = event.error
            self._at_least_ms = max(self._at_least_ms, event.error.retry_after_ms)

    def _flush(self) -> None:
        data = self._session.data_to_send()
        if data and self._writer is not None and not self._writer.is_closing():
            self._writer.write(data)

    async def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    # Calls

    async def _call(
        self, operation: Operation, body: Struct, reply_type: type[_Reply], *, retry: bool = True
    ) -> _Reply:
        """One request. All of them are idempotent, so one whose connection was lost is made again on the next."""
        while True:
            await self._wait_ready()
            future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            request_id = self._session.request(operation, body, _now_ms())
            self._requests[request_id] = future
            self._flush()
            try:
                return msgspec.msgpack.decode(await future, type=reply_type)
            except ChatError as error:
                if error.name != "connection_lost" or not retry or self._failure is not None:
                    raise
            finally:
                self._requests.pop(request_id, None)

    async def _wait_ready(self) -> None:
        while not self._ready.is_set():
            await self._or_failure(self._ready.wait())

    async def _or_failure(self, waited: Awaitable[object]) -> None:
        """Wait, but not beyond the client's end."""
        waiting = asyncio.ensure_future(waited)
        assert self._task is not None
        try:
            self._check_failure()
            await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        self._check_failure()

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: ChatError) -> None:
        """The end: everything that waits gets the error."""
        if self._failure is not None:
            return
        self._failure = error
        for request in self._requests.values():
            _reject(request, error)
        for send in self._sends.values():
            _reject(send, error)
        self._queue_changed.set()
        self._window_open.set()


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _read_result(reading: asyncio.Task[bytes]) -> bytes:
    """What was read; b"" for a connection that broke."""
    try:
        return reading.result()
    except OSError:
        return b""


def _raise_if_final(lost: list[SessionEvent]) -> None:
    """A refusal that no reconnect mends: a wrong token, a replaced session, a protocol that does not fit."""
    for event in lost:
        if isinstance(event, ConnectionClosed) and event.error is not None:
            error = event.error
            if isinstance(error, AuthenticationError | ProtocolError) and not error.retry:
                raise error


_Value = TypeVar("_Value")


def _resolve(future: "asyncio.Future[_Value] | None", value: _Value) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _reject(future: "asyncio.Future[_Value] | None", error: ChatError) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
