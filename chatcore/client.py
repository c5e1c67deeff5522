"""The asyncio client: reconnects a ClientSession, and offers its calls as coroutines.

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
import ssl as tls
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import msgspec
from msgspec import Struct

from chatcore import operations
from chatcore.address import encryption, parse_address
from chatcore.backoff import Reconnect
from chatcore.connection import Connection, now_ms
from chatcore.errors import (
    AuthenticationError,
    BadTicket,
    ChatError,
    ConnectionLost,
    LoggedOut,
    ProtocolError,
    SessionReplaced,
)
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
    TokenExpiring,
)
from chatcore.names import direct_channel, validate_channel, validate_player
from chatcore.operations import ChannelRequest, Empty, MemberRequest, Operation, PlayerRequest, Role
from chatcore.session import ClientSession
from chatcore.websocket import WebSocketAdapter
from chatcore_ext.constants import UNKNOWN_ID, DeliverFlag, SignalKind
from chatcore_ext.error_codes import ErrorCode

MAX_QUEUED_EVENTS = 10_000  # above it the client stops reading until its user has caught up; TCP then slows the server
CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0  # for what is still to be sent when the client is closed
# When a token source is asked for a new token: after a random part, between these, of the time that the old one has
# left. So clients that logged in together do not ask together, and there is time to ask again.
REFRESH_AFTER = (0.1, 0.5)
REFRESH_UNTIL_S = 0.5  # with less time left it is not tried again: the server ends the session, and a new one begins
DRAIN_POLL_S = 0.05  # how often a client that is asked to leave looks whether its calls are answered
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

    `host` is a host's name or address, or a URL of one of the server's doors: tcp://, tls://, ws:// or wss://, with a
    port unless it is the default one. `ssl` is the context for tls:// and wss://; without it, the system's certificate
    authorities count. Raises ValueError if it is neither.

    `token` is the player's JWT, or a callable that gets one (it may be a coroutine function). It is called at every
    log-in, so that it can renew, once more if the server refuses what it gave, and when its token is about to expire:
    the session then goes on with the new one. With a plain text, the program gets `TokenExpiring` and may call
    `refresh`; otherwise the server ends the session. Messages come by `async for message
    in client`; `events()` gives all that happens, `ConnectionClosed` and `Connected` included. Use one of the two, one
    at a time, and do use it: nothing is dropped, so a client whose events nobody takes stops reading at last.

    Calls wait through reconnects; they raise ChatError subclasses, ConnectionLost once the client is closed.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int | None = None,
        *,
        token: TokenSource,
        ssl: tls.SSLContext | None = None,
        name: str = "chatcore-python/0.1",
        reconnect: Reconnect | None = None,
    ) -> None:
        self._address = parse_address(host, port)
        self._encryption = encryption(self._address, ssl)
        self._token = token
        self._reconnect = reconnect or Reconnect()
        self._session = ClientSession(client=name)
        self._connection: Connection | None = None
        self._requests: dict[int, asyncio.Future[bytes]] = {}
        self._sends: dict[int, asyncio.Future[Receipt]] = {}
        self._queue: deque[SessionEvent] = deque()
        self._queue_changed = asyncio.Event()
        self._ready = asyncio.Event()
        self._window_open = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._token_ends = 0.0  # loop time, as the last warning had it; 0: nothing is to be done
        self._failure: ChatError | None = None
        self._logging_out = False
        self._may_ask_again = True  # the token source was not yet asked again since the last WELCOME
        self._was_welcome = False  # at least once
        self._attempt = 0  # connections since the last WELCOME
        self._not_before = 0.0  # loop time of the next connection, as the server wishes
        self._at_once = False

    # Life

    async def connect(self) -> None:
        """Connect and log in. Raises what the first attempt ended with; only later losses lead to reconnects."""
        if self._task is not None:
            raise RuntimeError("the client is connected already")
        connection = await self._open()
        self._task = asyncio.create_task(self._run(connection), name="chatcore-client")
        try:
            await self._wait_ready()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection. The player's presence ends after the server's grace period."""
        self._fail(ConnectionLost("the client was closed"))
        self._stop_refreshing()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        connection = self._connection
        if connection is not None:
            connection.close()
            await asyncio.wait([connection.ended], timeout=CLOSE_TIMEOUT_S)
            connection.abort()

    async def logout(self) -> None:
        """End the session at once (presence goes off, the ticket is void), then close."""
        self._logging_out = True
        with contextlib.suppress(ChatError):
            await self._call(Operation.LOGOUT, Empty(), Empty, retry=False)
        await self.close()

    async def refresh(self, token: str) -> int:
        """Go on with this token of the same player: the session, its connection and its channels stay, but for channels
        that the token does not allow. Returns for how many ms it will be valid.
        """
        reply = await self._call(Operation.REFRESH, operations.RefreshRequest(token), operations.RefreshReply)
        if isinstance(self._token, str):
            self._token = token  # for the next log-in, too
        return reply.token_ms

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
                    self._update_reading()
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
        handle = self._session.send(channel, data, now_ms(), accepted=accepted)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._sends[handle] = future
        self._flush()
        try:
            return await future
        finally:
            del self._sends[handle]

    async def send_direct(self, player: str, body: bytes | str) -> Receipt:
        """Send a private message, joining the private chat first if need be."""
        channel = direct_channel(self.player, player)
        if channel not in self._session.channels:
            await self.join(channel)
        return await self.send(channel, body)

    def signal(self, channel: str, kind: int, body: bytes = b"") -> None:
        """Send a signal; dropped while there is no connection."""
        self._session.signal(channel, kind, body, now_ms())
        self._flush()

    def typing(self, channel: str, *, stopped: bool = False) -> None:
        self.signal(channel, SignalKind.SIGNAL_TYPING, b"\0" if stopped else b"")

    # Channels

    async def join(self, channel: str) -> operations.JoinReply:
        """Enter a channel: its messages come from now on, over reconnects too, until `leave`."""
        return await self._call(Operation.JOIN, ChannelRequest(validate_channel(channel)), operations.JoinReply)

    async def leave(self, channel: str) -> None:
        await self._call(Operation.LEAVE, ChannelRequest(channel), Empty)

    async def history(self, channel: str, *, before: int | None = None, limit: int = HISTORY_PAGE) -> list[Message]:
        """The last `limit` (at most 500) messages, or those before an id, oldest first. What is hidden is left out."""
        request = operations.SyncRequest(channel, before=UNKNOWN_ID if before is None else before, limit=limit)
        reply = await self._call(Operation.SYNC, request, operations.SyncReply)
        return [
            Message(channel, entry.id, entry.sender, entry.body, entry.time, entry.sender == self.player)
            for entry in reply.entries
            if not entry.flags & DeliverFlag.DELIVER_HIDDEN
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

    async def _run(self, connection: Connection) -> None:
        """Keep a connection until the client is closed or gives up."""
        try:
            while True:
                self._check_end(await asyncio.shield(connection.ended))
                connection = await self._come_back()
        except ChatError as error:
            self._fail(error)
        except Exception as error:  # the token source's, or a mistake of ours: nobody may wait for ever
            self._fail(ConnectionLost(f"the client failed: {error!r}"), cause=error)

    async def _open(self) -> Connection:
        """Open a connection, which says hello. Raises ConnectionLost if nobody listens, and what the token source
        raises."""
        token = await self._get_token()
        connection = Connection(self._session, token, self._take)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._connect_door(connection)
        except (OSError, TimeoutError, UnicodeError) as error:  # the last: a host that can be no name
            raise ConnectionLost(f"cannot connect to {self._address.uri}: {error or 'timed out'}") from error
        self._connection = connection
        self._update_reading()
        return connection

    async def _connect_door(self, connection: Connection) -> None:
        """Raises OSError."""
        address = self._address
        protocol = WebSocketAdapter(connection, address.uri) if address.is_websocket else connection
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: protocol, address.host, address.port, ssl=self._encryption
        )
        if isinstance(protocol, WebSocketAdapter):
            try:
                refusal = await protocol.opened
            except BaseException:
                transport.abort()
                raise
            if refusal is not None:
                raise refusal

    async def _get_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        token = self._token()
        return await token if inspect.isawaitable(token) else token

    # Tokens that expire

    def _start_refreshing(self, in_ms: int) -> None:
        self._token_ends = asyncio.get_running_loop().time() + in_ms / 1000
        if self._refreshing is None and not isinstance(self._token, str):
            self._refreshing = asyncio.create_task(self._refresh_in_time(), name="chatcore-refresh")

    def _stop_refreshing(self) -> None:
        """The connection is gone. The next one hears of its token anew."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            self._refreshing = None

    async def _refresh_in_time(self) -> None:
        """Until there is a token that lives longer, or no time is left. What goes wrong on the way is of no interest:
        at the end the server says what it thinks, and the token source is asked for a log-in.
        """
        loop = asyncio.get_running_loop()
        while (left := self._token_ends - loop.time()) > REFRESH_UNTIL_S:
            await asyncio.sleep(left * random.uniform(*REFRESH_AFTER))
            before, self._token_ends = self._token_ends, 0.0
            with contextlib.suppress(Exception):
                ends = loop.time() + await self.refresh(await self._get_token()) / 1000
                if ends > before + REFRESH_UNTIL_S:
                    continue  # unless it has been warned of already, that was it
            self._token_ends = self._token_ends or before
        self._refreshing = None

    def _check_end(self, error: ChatError | None) -> None:
        """Raises the error if it is of a kind that no reconnect mends."""
        if error is None or error.retry:
            if not self._was_welcome:  # the first attempt: `connect` raises it
                raise error or ConnectionLost("the server closed the connection before it said why")
            return
        if isinstance(error, BadTicket) and self._session.has_ticket:
            self._session.forget_ticket()
        elif isinstance(error, LoggedOut) and self._logging_out:
            raise ConnectionLost("logged out")
        elif isinstance(error, AuthenticationError) and self._can_ask_again(error):
            self._may_ask_again = False
        else:
            raise error

    def _can_ask_again(self, error: AuthenticationError) -> bool:
        is_about_token = not isinstance(error, SessionReplaced | LoggedOut)
        return is_about_token and self._may_ask_again and not isinstance(self._token, str)

    async def _come_back(self) -> Connection:
        """Reconnect with back-off until a connection is open. Raises when the policy gives up."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._at_once:
                wished_ms = max(0, int((self._not_before - loop.time()) * 1000))
                await asyncio.sleep(self._reconnect.delay_ms(self._attempt, wished_ms) / 1000)
            self._at_once = False
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
            self._update_reading()
            if not self._session.send_window_full:
                self._window_open.set()

    def _note(self, event: SessionEvent) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(event, Connected):
            self._ready.set()
            self._was_welcome = True
            self._attempt = 0
            self._not_before = 0.0
            self._may_ask_again = True
        elif isinstance(event, Draining):
            self._not_before = loop.time() + random.uniform(0, event.reconnect_window_ms / 1000)
            deadline = loop.time() + event.deadline_ms / 1000
            loop.call_at(min(self._not_before, deadline), self._leave, self._connection, deadline)
        elif isinstance(event, TokenExpiring):
            self._start_refreshing(event.in_ms)
        elif isinstance(event, ConnectionClosed):
            self._ready.clear()
            self._stop_refreshing()
            if event.error is not None:
                self._not_before = max(self._not_before, loop.time() + event.error.retry_after_ms / 1000)

    def _leave(self, connection: Connection | None, deadline: float) -> None:
        """The server wants to stop: once nothing waits for an answer, go where there is another."""
        if connection is None or connection is not self._connection or connection.ended.done():
            return
        loop = asyncio.get_running_loop()
        if self._session.is_idle or loop.time() >= deadline:
            self._at_once = True
            connection.close()
        else:
            loop.call_later(DRAIN_POLL_S, self._leave, connection, deadline)

    def _flush(self) -> None:
        if self._connection is not None:
            self._connection.flush()
            self._update_reading()

    def _update_reading(self) -> None:
        """Read unless the user has fallen behind; but never keep an answer from a call that waits for it."""
        if self._connection is None:
            return
        is_waited_for = bool(self._sends or self._requests)
        if is_waited_for or len(self._queue) <= MAX_QUEUED_EVENTS // 2:
            self._connection.set_paused(False)
        elif len(self._queue) >= MAX_QUEUED_EVENTS:
            self._connection.set_paused(True)

    # Calls

    async def _call(
        self, operation: Operation, body: Struct, reply_type: type[_Reply], *, retry: bool = True
    ) -> _Reply:
        """One request. All of them are idempotent, so one whose connection was lost is made again on the next."""
        while True:
            await self._wait_ready()
            connection = self._connection
            future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            request_id = self._session.request(operation, body, now_ms())
            self._requests[request_id] = future
            self._flush()
            try:
                return msgspec.msgpack.decode(await future, type=reply_type)
            except msgspec.MsgspecError as error:
                raise ProtocolError(f"the answer to {operation.name} is malformed: {error}") from error
            except ChatError as error:
                is_over = error.name == "connection_lost" or error.code == ErrorCode.ERROR_SHUTTING_DOWN
                if not is_over or not retry or self._failure is not None:
                    raise
                await self._wait_lost(connection)
            finally:
                del self._requests[request_id]

    async def _wait_lost(self, connection: Connection | None) -> None:
        if connection is not None:
            await self._or_failure(asyncio.shield(connection.ended))

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

    def _fail(self, error: ChatError, *, cause: BaseException | None = None) -> None:
        """The end: everything that waits gets the error."""
        if self._failure is not None:
            return
        self._failure = error
        error.__cause__ = cause
        for request in self._requests.values():
            _reject(request, error)
        for send in self._sends.values():
            _reject(send, error)
        self._queue_changed.set()
        self._window_open.set()


_Value = TypeVar("_Value")


def _resolve(future: "asyncio.Future[_Value] | None", value: _Value) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _reject(future: "asyncio.Future[_Value] | None", error: ChatError) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
