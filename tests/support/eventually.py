"""Waiting for a condition with a deadline, for tests of things that happen soon but not at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE_S = 10.0


async def eventually(condition: Callable[[], bool], what: str = "it", deadline_s: float = DEADLINE_S) -> None:
    """Returns as soon as the condition holds. Fails the test when the deadline is over."""
    end = asyncio.get_running_loop().time() + deadline_s
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"{what} did not come about within {deadline_s:g} s"
        await asyncio.sleep(0.001)


async def eventually_answers(
    look_up: Callable[[], Awaitable[T]], is_right: Callable[[T], bool], deadline_s: float = DEADLINE_S
) -> T:
    """Asks again until the answer is right, and returns it. Fails the test when the deadline is over."""
    end = asyncio.get_running_loop().time() + deadline_s
    while True:
        answer = await look_up()
        if is_right(answer):
            return answer
        assert asyncio.get_running_loop().time() < end, f"still wrong after {deadline_s:g} s: {answer!r}"
        await asyncio.sleep(0.005)
