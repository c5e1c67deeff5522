"""Administration over HTTP, for whoever has the token: follow a player or a channel (/admin/trace), and ask why
somebody has not seen a message (/admin/why).

Changes nothing in the chat. A token is compared in constant time; wrong ones are counted and limited by address.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from chatcore.errors import BadName
from chatcore.names import validate_channel, validate_player
from chatcore_ext.constants import MAX_TRACES
from chatcore_server.backends import MAX_ID, BackendUnavailable
from chatcore_server.buckets import KeyedBuckets, monotonic_ms
from chatcore_server.context import Context
from chatcore_server.logging import get_logger
from chatcore_server.tracing import TooManyTraces, Trace, TraceTarget
from chatcore_server.why import Why

# Wrong tokens of one address: 256 random bits are not guessed at any rate, but nobody need listen to more of it.
_FAILURES_PER_SECOND = 1
_FAILURE_BURST = 20
_LOOK_S = 1.0  # how often a silent trace looks whether somebody is still there
_UNREAD_S = 30.0  # a follower that takes nothing for so long has gone, and others may need its place
_log = get_logger()

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminError(Exception):
    """What is answered instead: an HTTP status, a stable name, and what to do."""

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.name = name


class Admin:
    """The routes and what they count. One token opens all of them."""

    def __init__(self, context: Context, token: str) -> None:
        self._context = context
        self._token = token.encode()
        self._why = Why(context)
        self._failures: KeyedBuckets[str] = KeyedBuckets(_FAILURES_PER_SECOND, _FAILURE_BURST)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/admin/trace", self._guarded(self._trace), allow_head=False),
            web.get("/admin/why", self._guarded(self._ask_why), allow_head=False),
        ]

    def _guarded(self, handler: _Handler) -> _Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                self._check_token(request)
                self._context.counters["admin_requests"] += 1
                return await handler(request)
            except AdminError as error:
                body = {"error": error.name, "message": str(error)}
                return web.json_response(body, status=error.status)

        return guarded

    def _check_token(self, request: web.Request) -> None:
        """The right token always works: otherwise whoever shares the operator's address could lock them out."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        given = given.strip()
        # aiohttp hands bytes that are no UTF-8 on as surrogates.
        if scheme.lower() == "bearer" and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token):
            return
        self._context.counters["admin_requests_refused"] += 1
        if self._failures.take(request.remote or "", monotonic_ms()):
            raise AdminError(429, "too_many_failures", "too many wrong tokens from this address")
        if not given:
            raise AdminError(
                401, "unauthorized", "Authorization: Bearer TOKEN is missing; docs/tracing.md tells where it is"
            )
        _log.warning("admin_token_wrong", address=request.remote)
        raise AdminError(403, "forbidden", "the token is wrong")

    # ---- Traces ------------------------------------------------------------------------------------------------------

    async def _trace(self, request: web.Request) -> web.StreamResponse:
        target = _target_of(request)
        try:
            trace = self._context.tracer.start(target)
        except TooManyTraces:
            message = f"{MAX_TRACES} traces are running, which is as many as may"
            raise AdminError(503, "too_many_traces", message) from None
        try:
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
            await response.prepare(request)
            await self._follow(request, response, trace)
        finally:
            self._context.tracer.stop(trace)
        return response

    async def _follow(self, request: web.Request, response: web.StreamResponse, trace: Trace) -> None:
        """Until the follower hangs up, or takes nothing for too long, or the server drains."""
        try:
            while request.transport is not None and not request.transport.is_closing():
                if self._context.is_draining:
                    return
                lines = await trace.next_lines(_LOOK_S)
                if lines:
                    async with asyncio.timeout(_UNREAD_S):
                        await response.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()

    # ---- Why ---------------------------------------------------------------------------------------------------------

    async def _ask_why(self, request: web.Request) -> web.StreamResponse:
        target = _target_of(request)
        id = _number(request, "id")
        if not target.player or not target.channel or not id:
            raise AdminError(400, "bad_request", "why takes a player, a channel and the id of a message")
        try:
            answer = await self._why.ask(target.player, target.channel, id)
        except BackendUnavailable as error:
            raise AdminError(503, "backend_unavailable", f"it cannot be looked up now: {error}") from None
        return web.Response(body=msgspec.json.encode(answer) + b"\n", content_type="application/json")


def _target_of(request: web.Request) -> TraceTarget:
    player, channel = request.query.get("player", ""), request.query.get("channel", "")
    bodies = request.query.get("bodies", "0")
    if not player and not channel:
        raise AdminError(400, "bad_request", "name a player, a channel or both")
    if bodies not in ("0", "1"):
        raise AdminError(400, "bad_request", "bodies is 0 or 1")
    try:
        return TraceTarget(
            validate_player(player).encode("ascii") if player else b"",
            validate_channel(channel).encode("ascii") if channel else b"",
            _number(request, "message"),
            bodies == "1",
        )
    except BadName as error:
        raise AdminError(400, "bad_name", error.message) from None


def _number(request: web.Request, name: str) -> int:
    """An id; 0: not given."""
    text = request.query.get(name, "")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) <= MAX_ID and len(text) < 20):
        raise AdminError(400, "bad_request", f"{name} is the id of a message, a number from 1 on")
    return int(text)
