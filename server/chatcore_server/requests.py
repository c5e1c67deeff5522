"""From a REQUEST frame to its REPLY or FAILED: decodes, keeps the order by channel, and turns errors into codes.

Knows which part answers which operation, and nothing of what the operations do.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct

from chatcore.errors import ChatError, ConnectionLost, RequestError
from chatcore.operations import REQUEST_TYPES, UNDECODABLE, Operation
from chatcore_ext.constants import RETRY_AFTER_MS
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import BackendUnavailable
from chatcore_server.context import Caller, Context
from chatcore_server.logging import get_logger

# Answers with a body, or None if it has answered (or closed the connection) itself.
Handler = Callable[[Caller, Any], Awaitable[Struct | None]]

_log = get_logger()
_Lane = tuple[int, str]
_Item = tuple[Caller, Handler, Struct]


class Requests:
    """Requests of a connection about one channel run one after the other, all others at the same time."""

    def __init__(self, context: Context, handlers: dict[Operation, Handler]) -> None:
        self._context = context
        self._handlers = {
            int(operation): (handler, msgspec.msgpack.Decoder(REQUEST_TYPES[operation]))
            for operation, handler in handlers.items()
        }
        self._lanes: dict[_Lane, deque[_Item]] = {}
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
        self._enqueue(caller, handler, request)

    def _enqueue(self, caller: Caller, handler: Handler, request: Struct) -> None:
        n_under_way = self._under_way.get(caller.connection, 0)
        if n_under_way >= self._context.settings.limits.requests_under_way:
            error = ChatError(
                "too many requests at once", code=ErrorCode.ERROR_OVERLOADED, retry_after_ms=RETRY_AFTER_MS
            )
            self._context.outbox.fail(caller.connection, caller.request_id, error)
            return
        self._under_way[caller.connection] = n_under_way + 1
        lane = (caller.connection, getattr(request, "channel", ""))
        waiting = self._lanes.get(lane)
        if waiting is not None:
            waiting.append((caller, handler, request))
            return
        self._lanes[lane] = deque([(caller, handler, request)])
        self._context.tasks.spawn(self._run(lane))

    async def _run(self, lane: _Lane) -> None:
        waiting = self._lanes[lane]
        try:
            while waiting:
                caller, handler, request = waiting.popleft()
                await self._answer(caller, handler, request)
                self._done(caller.connection)
        finally:
            del self._lanes[lane]

    def _done(self, connection: int) -> None:
        n_under_way = self._under_way[connection] - 1
        if n_under_way:
            self._under_way[connection] = n_under_way
        else:
            del self._under_way[connection]

    async def _answer(self, caller: Caller, handler: Handler, request: Struct) -> None:
        outbox = self._context.outbox
        if self._context.hub.session(caller.connection) is None:
            return  # it has hung up: with the connection went what it was granted
        try:
            reply = await handler(caller, request)
        except ConnectionLost:
            return
        except (ChatError, BackendUnavailable) as error:
            outbox.fail(caller.connection, caller.request_id, error)
        except Exception as error:
            _log.error("request_failed", operation=type(request).__name__, exc_info=error)
            outbox.fail(caller.connection, caller.request_id, ChatError(code=ErrorCode.ERROR_INTERNAL))
        else:
            if reply is not None:
                most = self._context.settings.limits.pause_bytes
                await outbox.reply_in_time(caller.connection, caller.request_id, reply, most)

    @property
    def n_under_way(self) -> int:
        return sum(self._under_way.values())
