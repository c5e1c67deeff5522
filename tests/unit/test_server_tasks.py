"""Locks by name, background tasks, and how far the log has been applied."""

import asyncio

import pytest
from structlog.testing import capture_logs

from chatcore.errors import ChatError
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.record import decode_record
from chatcore_server.applied import AppliedOffsets, ControlLog
from chatcore_server.backends import LogFull, Outcome
from chatcore_server.controls import Blocked, decode_control
from chatcore_server.tasks import Locks, Tasks

pytestmark = pytest.mark.asyncio


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_a_lock_is_held_by_one_in_the_order_of_coming() -> None:
    locks = Locks()
    done: list[str] = []

    async def use(key: bytes, name: str) -> None:
        async with locks.hold(key):
            done.append(f"{name} in")
            await turns()
            done.append(f"{name} out")

    await asyncio.gather(use(b"x", "a"), use(b"x", "b"), use(b"y", "c"))
    assert [step for step in done if step[0] != "c"] == ["a in", "a out", "b in", "b out"]
    assert done.index("c in") < done.index("a out")
    assert locks._locks == {}


async def test_a_lock_survives_who_fails_and_who_gives_up() -> None:
    locks = Locks()

    async def fail() -> None:
        async with locks.hold(b"x"):
            await turns()
            raise ValueError

    async def wait() -> None:
        async with locks.hold(b"x"):
            pass

    failing, waiting, last = (asyncio.create_task(what()) for what in (fail, wait, wait))
    await turns(2)
    waiting.cancel()
    await asyncio.gather(failing, waiting, last, return_exceptions=True)
    assert isinstance(failing.exception(), ValueError)
    assert waiting.cancelled()
    assert last.exception() is None
    assert locks._locks == {}


async def test_a_task_that_fails_is_logged() -> None:
    tasks = Tasks()

    async def fail() -> None:
        raise ValueError("oh")

    with capture_logs() as logs:
        tasks.spawn(fail())
        assert tasks.n_running == 1
        await turns()
    assert tasks.n_running == 0
    assert [entry["event"] for entry in logs] == ["task_failed"]


async def test_tasks_are_cancelled_together() -> None:
    tasks = Tasks()
    for _ in range(3):
        tasks.spawn(asyncio.sleep(3600))
    await turns()
    await tasks.cancel()
    assert tasks.n_running == 0


async def test_reach_waits_for_its_offset_and_its_partition() -> None:
    applied = AppliedOffsets()
    waiting = {place: asyncio.create_task(applied.reach(*place)) for place in [(0, 5), (0, 3), (1, 4), (0, 4)]}
    await turns()
    applied.advance(0, 4)
    await turns()
    assert {place for place, task in waiting.items() if task.done()} == {(0, 3), (0, 4)}
    applied.advance(1, 9)
    applied.advance(0, 5)
    await asyncio.gather(*waiting.values())
    await applied.reach(0, 5)  # long since


class Log:
    """Takes what it is given after `n_full` refusals; the test says what becomes of it."""

    def __init__(self, n_full: int = 0) -> None:
        self.n_full = n_full
        self.appended: list[tuple[bytes, bytes, asyncio.Future[Outcome]]] = []

    def append(self, channel: bytes, value: bytes, token: object) -> None:
        if self.n_full:
            self.n_full -= 1
            raise LogFull
        assert isinstance(token, asyncio.Future)
        self.appended.append((channel, value, token))


async def test_a_control_is_told_when_it_is_durable_and_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatcore_server.applied._RETRY_S", 0)
    log, applied = Log(n_full=2), AppliedOffsets()
    control = Blocked(b"ann", b"bob")
    telling = asyncio.create_task(ControlLog(log, applied).tell(b"dm:ann:bob", control, 77))  # type: ignore[arg-type]
    await turns(20)
    [(channel, value, token)] = log.appended
    assert channel == b"dm:ann:bob"
    kind, session, seq, time, sender, body = decode_record(value)
    assert (kind, session, seq, time, sender, decode_control(body)) == (2, 0, 0, 77, b"", control)
    token.set_result(Outcome(token, 3, 8, 78))
    await turns()
    assert not telling.done()
    applied.advance(3, 8)
    await telling


async def test_a_control_that_failed_may_be_told_again() -> None:
    log = Log()
    telling = asyncio.create_task(ControlLog(log, AppliedOffsets()).tell(b"group:x", Blocked(b"", b""), 1))  # type: ignore[arg-type]
    await turns()
    log.appended[0][2].set_result(Outcome(None, -1, 0, 0, ErrorCode.ERROR_LOG_UNAVAILABLE))
    with pytest.raises(ChatError) as caught:
        await telling
    assert caught.value.retry


async def test_cancel_also_ends_what_an_ending_task_starts() -> None:
    tasks = Tasks()

    async def wait() -> None:
        await asyncio.Event().wait()

    async def start_another() -> None:
        try:
            await wait()
        finally:
            tasks.spawn(wait())

    tasks.spawn(start_another())
    await asyncio.sleep(0)
    await tasks.cancel()
    assert tasks.n_running == 0
