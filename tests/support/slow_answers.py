"""Answers of the relations that come late, when they are not true any more."""

import asyncio
from collections.abc import Callable
from typing import Any

from support.servers import LocalServer


class SlowAnswer:
    """In front of the relations: the first answer of one method comes late, when it is not true any more."""

    def __init__(self, real: Any, method: str) -> None:
        self._real = real
        self._method = method
        self.is_asked = False
        self.may_answer = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        return self._late(real) if name == self._method and not self.is_asked else real

    def _late(self, real: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(*arguments: object) -> Any:
            self.is_asked = True
            result = await real(*arguments)
            while not self.may_answer:  # noqa: ASYNC110  # set on the thread of the test
                await asyncio.sleep(0.005)
            return result

        return answer


def slow_down(server: LocalServer, method: str) -> SlowAnswer:
    store: Any = server.server.store
    slow = SlowAnswer(store.relations, method)
    server.do(lambda worker: setattr(store, "relations", slow))
    return slow
