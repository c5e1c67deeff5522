"""Followers of a server's /admin/trace, for tests: lines are collected while a test goes on."""

import asyncio
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec

from chatcore_server.authentication import admin_token, data_secret
from support.players import until

Line = dict[str, Any]


def admin_header(folder: Path) -> dict[str, str]:
    return {"Authorization": f"Bearer {admin_token(data_secret(folder))}"}


async def ask(http_port: int, path: str, headers: dict[str, str], **query: object) -> tuple[int, Any]:
    """The status and the JSON of one answer."""
    url = f"http://127.0.0.1:{http_port}/admin/{path}"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(url, params={name: str(value) for name, value in query.items()}) as response,
    ):
        return response.status, await response.json()


class Follower:
    """One trace, from `start` to `stop`."""

    def __init__(self, http_port: int, folder: Path, **query: object) -> None:
        self._url = f"http://127.0.0.1:{http_port}/admin/trace"
        self._headers = admin_header(folder)
        self._query = {name: str(value) for name, value in query.items()}
        self.lines: list[Line] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        self._response = await self._session.get(self._url, params=self._query)
        assert self._response.status == 200, await self._response.text()
        self._task = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        async for line in self._response.content:
            self.lines.append(msgspec.json.decode(line))

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        self._response.close()
        await self._session.close()

    def told(self, event: str, **fields: Any) -> list[Line]:
        return [line for line in self.lines if line["event"] == event and fields.items() <= line.items()]

    async def sees(self, event: str, **fields: Any) -> Line:
        """Wait for such a line; the last of them."""
        try:
            await until(lambda: self.told(event, **fields))
        except AssertionError:
            raise AssertionError(f"no {event} {fields} in {self.lines[-30:]}") from None
        return self.told(event, **fields)[-1]

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]
