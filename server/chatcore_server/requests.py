"""From a REQUEST frame to its REPLY or FAILED: decodes, keeps the order by channel, and turns errors into codes.

Knows which part answers which operation, and nothing of what the operations do.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from chatcore.errors import ChatError, ConnectionLost, RequestError
from chatcore.operations import REQUEST_TYPES, UNDECODABLE, Operation
from chatcore_ext.constants import RETRY_AFTER_MS
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import BackendUnavailable
from chatcore_server.context import Caller, Context
from chatcore_server.logging import get_logger
from chatcore_server.tasks import Locks

# Answers with a body, or None if it has answered (or closed the connection) itself.
Handler = Callable[[Caller, Any], Awaitable[Struct | None]]

_log = get_logger()
_Lane = tuple[int, str]
# Their answers can be large. What was looked up would wait for its receiver as bytes that no limit counts, and the
# look-ups of who asks for many would make those of others wait.
_LARGE = frozenset((Operation.SYNC, Operation.MEMBERS, Operation.CONVERSATIONS, Operation.BLOCKS, Operation.FRIENDS))


class _Item(NamedTuple):
    caller: Caller
    handler: Handler
    request: Struct
    is_large: bool


class Requests:
    """Requests of a connection about one channel run one after the other, all others at the same time, except for large
    answers: a connection is given one at a time, looked up when there is room for it, one at a time for each player.
    """

    def __init__(self, context: Context, handlers: dict[Operation, Handler]) -> None:
        self._context = context
        self._handlers = {
            int(operation): (handler, msgspec.msgpack.Decoder(REQUEST_TYPES[operation]))
            for operation, handler in handlers.items()
        }
        self._lanes: dict[_Lane, list[_Item]] = {}  # lists are short, and a deque of one item takes 600 bytes
        # By connection that is being given a large answer: the lanes whose next answer is large, too.
        self._next_large: dict[int, deque[_Lane]] = {}
        self._lookups = Locks()  # by player
        self._under_way: dict[int, int] = {}  # by connection

    def on_request(self, connection: int, request_id: int, operation: int, body: bytes) -> None:
        who = self._context.hub.session(connection)
        if who is None:
            return
        if self._context.is_draining:
            self._context.outbox.fail(connection, request_id, ChatError(code=ErrorCode.ERROR_SHUTTING_DOWN))
            return
        caller = Caller(connection, request_id, *who)
        try:
            handler, decoder = self._handlers[operation]
            request = decoder.decode(body) if body else decoder.type()
        except KeyError:
            error = RequestError(f"there is no operation {operation}", code=ErrorCode.ERROR_UNKNOWN_OPERATION)
            self._context.outbox.fail(connection, request_id, error)
            return
        except (*UNDECODABLE, TypeError) as problem:
            # TypeError: there is no body, and the request has keys without a default.
            self._context.outbox.fail(connection, request_id, RequestError(str(problem)))
            return
        self._enqueue(_Item(caller, handler, request, operation in _LARGE))

    def _enqueue(self, item: _Item) -> None:
        caller = item.caller
        n_under_way = self._under_way.get(caller.connection, 0)
        if n_under_way >= self._context.settings.limits.requests_under_way:
            error = ChatError(
                "too many requests at once", code=ErrorCode.ERROR_OVERLOADED, retry_after_ms=RETRY_AFTER_MS
            )
            self._context.outbox.fail(caller.connection, caller.request_id, error)
            return
        self._under_way[caller.connection] = n_under_way + 1
        lane = (caller.connection, getattr(item.request, "channel", ""))
        waiting = self._lanes.get(lane)
        if waiting is not None:
            waiting.append(item)
            return
        self._lanes[lane] = [item]
        self._context.tasks.spawn(self._run(lane))

    async def _run(self, lane: _Lane, has_turn: bool = False) -> None:
        """Until nothing waits in the lane, or it has to wait for its turn: then it is run again."""
        waiting = self._lanes[lane]
        while waiting:
            item = waiting[0]
            if item.is_large and not has_turn and not self._take_turn(lane):
                return
            del waiting[0]
            await self._answer(item)
            if item.is_large:
                self._pass_turn(lane[0])
                has_turn = False
            self._done(lane[0])
        del self._lanes[lane]

    def _take_turn(self, lane: _Lane) -> bool:
        """To give a large answer; False: others do, and it is in their queue."""
        waiting = self._next_large.get(lane[0])
        if waiting is None:
            self._next_large[lane[0]] = deque()
            return True
        waiting.append(lane)
        return False

    def _pass_turn(self, connection: int) -> None:
        waiting = self._next_large[connection]
        if waiting:
            self._context.tasks.spawn(self._run(waiting.popleft(), has_turn=True))
        else:
            del self._next_large[connection]

    def _done(self, connection: int) -> None:
        n_under_way = self._under_way[connection] - 1
        if n_under_way:
            self._under_way[connection] = n_under_way
        else:
            del self._under_way[connection]

    async def _answer(self, item: _Item) -> None:
        caller, outbox, limits = item.caller, self._context.outbox, self._context.settings.limits
        try:
            if item.is_large:
                await outbox.wait_for_room(caller.connection, limits.pause_bytes - limits.sync_bytes)
            if self._context.hub.session(caller.connection) is None:
                return  # it has hung up: with the connection went what it was granted
            reply = await self._handle(item)
            if reply is not None:
                await outbox.reply_in_time(caller.connection, caller.request_id, reply, limits.pause_bytes)
        except ConnectionLost:
            return
        except (ChatError, BackendUnavailable) as error:
            outbox.fail(caller.connection, caller.request_id, error)
        except Exception as error:
            _log.error("request_failed", operation=type(item.request).__name__, exc_info=error)
            outbox.fail(caller.connection, caller.request_id, ChatError(code=ErrorCode.ERROR_INTERNAL))

    async def _handle(self, item: _Item) -> Struct | None:
        if not item.is_large:
            return await item.handler(item.caller, item.request)
        async with self._lookups.hold(item.caller.player):
            return await item.handler(item.caller, item.request)

    @property
    def n_under_way(self) -> int:
        return sum(self._under_way.values())
