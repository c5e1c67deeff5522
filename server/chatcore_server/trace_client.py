"""The other end of /admin: what `chatcore trace` and `chatcore why` ask a running server, and what they print.

Everything that comes from the server is shown without control characters: names and texts are the players'.
"""

import asyncio
import json
import os
from collections.abc import Callable
from datetime import datetime
from typing import Any

import aiohttp

from chatcore.address import parse_address
from chatcore_server.chat_display import harmless

_CONNECT_S = 5.0
_ANSWER_S = 15.0  # of `why`, whose backends have their own time-outs
_DEFAULT_PORT = 7480
_LINE_BYTES = 1 << 20  # a line with a body is a few KB
_OTHER = "what answers at {} is not a chatcore server's HTTP port, which is the http= of its ready line"
_ARROWS = {"in": ">", "out": "<"}
# Said by the line's beginning, or only of use to machines.
_UNSHOWN = frozenset(
    {"time", "event", "direction", "connection", "player", "channel", "number", "body", "size", "fields"}
)
_REASONS = {
    "hidden": "hidden (has blocked the sender)",
    "left_out": "left out (reads too slowly; a GAP will tell)",
    "taken_back": "left out at the flush (too much is unsent to all)",
    "waits": "the last of its kind waits until this reader has caught up",
    "closing": "its connection is ending",
    "not_joined": "not in the channel",
    "not_connected": "not connected here",
}


class TraceError(Exception):
    """The server is not there, has gone, or does not answer this. The text says what to do."""


class WrongToken(TraceError):
    """The server's token is another one. Where it could be, those know who know where this one came from."""


async def follow(
    address: str, token: str, query: dict[str, str], show: Callable[[dict[str, Any], str], None], seconds: float
) -> None:
    """Give each line to `show`, parsed and as it came, for so many seconds (0: until the server ends it). Raises
    TraceError."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
    try:
        async with (
            asyncio.timeout(seconds or None),
            _session(token, timeout) as session,
            session.get(_url(address, "trace"), params=query) as response,
        ):
            await _check(response)
            async for line in response.content:
                show(json.loads(line), line.decode().rstrip("\n"))
    except aiohttp.ServerTimeoutError as error:  # a TimeoutError, but not that of `seconds`
        raise _lost(address, error) from None
    except TimeoutError:
        return
    except (aiohttp.ClientError, OSError) as error:
        raise _lost(address, error) from None
    except (ValueError, KeyError, TypeError):
        raise TraceError(_OTHER.format(address)) from None
    raise TraceError(f"the server at {address} has ended the trace")


async def ask_why(address: str, token: str, query: dict[str, str]) -> dict[str, Any]:
    """The answer, as /admin/why gives it. Raises TraceError."""
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S, sock_connect=_CONNECT_S)
    try:
        async with (
            _session(token, timeout) as session,
            session.get(_url(address, "why"), params=query) as response,
        ):
            await _check(response)
            answer: dict[str, Any] = await response.json()
            return answer
    except (aiohttp.ClientError, OSError) as error:  # a time-out is one
        raise _lost(address, error) from None
    except ValueError:
        raise TraceError(_OTHER.format(address)) from None


def _url(address: str, path: str) -> str:
    if "://" in address:
        raise TraceError(f"{harmless(address)}: a server's HTTP is named by HOST:PORT alone")
    try:
        server = parse_address(address, _DEFAULT_PORT)
    except ValueError as error:
        raise TraceError(harmless(str(error))) from None
    return f"{server.uri.replace('tcp', 'http', 1)}/admin/{path}"


def _session(token: str, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {token}"}
    return aiohttp.ClientSession(headers=headers, timeout=timeout, read_bufsize=_LINE_BYTES)


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    try:
        answer = await response.json()
        name, message = answer["error"], harmless(str(answer["message"]))
    except (aiohttp.ContentTypeError, ValueError, KeyError, TypeError):
        raise TraceError(_OTHER.format(f"{response.host}:{response.url.port}")) from None
    raise (WrongToken if name == "forbidden" else TraceError)(message)


def _lost(address: str, error: Exception) -> TraceError:
    """In words of our own: those of aiohttp are for who wrote the request."""
    if isinstance(error, aiohttp.ClientConnectorError):
        problem = error.os_error
        number = problem.errno or 0  # a look-up's are below 0 and have a text; asyncio's texts are none
        text = os.strerror(number) if number > 0 else problem.strerror
        return TraceError(f"no server answers at {address}: {text or problem}")
    if isinstance(error, aiohttp.InvalidURL):
        return TraceError(f"{harmless(address)}: there can be no host of this name")
    if isinstance(error, aiohttp.ClientResponseError):  # such as a status line that is none
        return TraceError(_OTHER.format(address))
    if isinstance(error, TimeoutError):
        return TraceError(f"the server at {address} does not answer in time")
    return TraceError(f"the server at {address} has gone: the connection ended before its answer did")


# ---- For readers -----------------------------------------------------------------------------------------------------


def readable(line: dict[str, Any]) -> str:
    """`12:35:01.123 > alice#3.1     send room:lobby seq=4 12 bytes`; > from the client, < to it, * in the server."""
    moment = datetime.fromtimestamp(line["time"] / 1000).strftime("%H:%M:%S.%f")[:-3]
    if line["event"] == "lost":
        return f"{moment} ! {line['events']} events were lost: more happened than fits"
    who = line["player"] + (f"#{line['connection']}" if line["connection"] else "")
    words = [line["event"], line["channel"], *_details(line)]
    return harmless(f"{moment} {_ARROWS.get(line['direction'], '*')} {who:<16} {' '.join(filter(None, words))}")


def _details(line: dict[str, Any]) -> list[str]:
    details = []
    for name, value in line.items():
        if name == "reason":
            value = _REASONS.get(value, value)
        if name not in _UNSHOWN and value not in ("", [], {}):
            details.append(f"{name}={_shown(value)}")
    fields = line.get("fields", {})
    details += [
        f"{name}={_shown(fields[name])}" for name in fields if name != "channel" and fields[name] not in ([], {})
    ]
    if "body" in line:
        details.append(json.dumps(line["body"], ensure_ascii=False))
    elif "size" in line:
        details.append(f"{line['size']} bytes")
    return details


def _shown(value: object) -> str:
    if value is None:
        return "?"
    return value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False)


def readable_answer(answer: dict[str, Any]) -> str:
    """The verdict and its sentence, then what is known of each device."""
    lines = [f"{answer['verdict']}: {answer['answer']}"]
    lines += [
        "  " + ", ".join(f"{name} {_shown(value)}" for name, value in device.items() if value != "")
        for device in answer["facts"]["devices"]
    ]
    return "\n".join(harmless(line) for line in lines)
