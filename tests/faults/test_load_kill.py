"""A load whose server is killed and started again: the tool comes back, heals, and finds nothing lost."""

import asyncio
from collections.abc import Callable

import pytest

from chatcore_server.authentication import data_secret, development_token_key
from chatcore_server.load_process import Progress
from chatcore_server.load_report import MISTAKES
from support.loads import play
from support.players import until
from support.servers import ServerProcess

pytestmark = pytest.mark.asyncio

MakeServer = Callable[..., ServerProcess]
CONFIG = "[limits]\nframes_per_second = 10000\nframe_burst = 10000\n"


async def test_killed_under_load(make_server: MakeServer) -> None:
    server = make_server(config=CONFIG)
    await server.start()
    key = development_token_key(data_secret(server.folder))
    now = Progress()

    def show(progress: Progress) -> None:
        nonlocal now
        now = progress

    load = asyncio.create_task(
        play(server.port, key, show, connections=30, rooms=3, rate=400, duration_s=3, private_share=0.2)
    )
    for goal in (200, 600):
        await until(lambda goal=goal: now.answered >= goal, f"{goal} answers")  # type: ignore[misc]
        await server.kill()
        await server.start()
    report = await load
    assert {name: getattr(report, name) for name in MISTAKES} == dict.fromkeys(MISTAKES, 0)
    assert report.sent == report.acked == 1_200
    assert report.delivered == report.expected
    assert report.disconnected == report.reconnected > 30
    assert report.new_sessions == report.absent == report.unanswered == 0
    assert report.exit_code == 0
