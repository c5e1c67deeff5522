"""/metrics of a real server after real traffic: what it says is what was done, in both formats."""

import asyncio
import contextlib
import socket
from typing import Any

import aiohttp
import pytest

from chatcore.errors import AuthenticationError, NotJoined
from chatcore.operations import Hello, encode_body
from chatcore_ext.frame import encode_hello
from support.players import player, until
from support.raw import RawClient
from support.scrapes import FORMATS, OPENMETRICS, Scrape, scrape
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

ROOM = "room:x"
Start = Any  # the fixture start_server
OpenRaw = Any  # the fixture open_raw


def assert_histogram(scraped: Scrape, name: str, count: float) -> None:
    """It has so many values, and its buckets add up."""
    assert scraped.value(f"{name}_count") == count
    buckets = scraped.values(f"{name}_bucket")
    assert list(buckets)[-1] == "+Inf"
    assert list(buckets.values()) == sorted(buckets.values())
    assert buckets["+Inf"] == count
    assert (scraped.value(f"{name}_sum") > 0) == (count > 0)


@pytest.mark.parametrize("accepted", FORMATS)
async def test_ten_messages(server: LocalServer, accepted: str) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    for each in (ann, bob):
        await each.client.join(ROOM)
    for i in range(10):
        await ann.client.send(ROOM, str(i))
    await bob.hears(ROOM, "8", "9")
    with pytest.raises(NotJoined):
        await bob.client.send("room:other", "x")
    scraped = await scrape(server.server.http_port, accepted)
    value = scraped.value
    assert value("chatcore_ready") == 1
    assert scraped.values("chatcore_connections") == {"half_open": 0, "ready": 2, "closing": 0}
    assert value("chatcore_connections_accepted_total") == 2
    assert value("chatcore_players") == value("chatcore_sessions") == value("chatcore_subscriptions") == 2
    assert value("chatcore_channels") == 1
    assert value("chatcore_frames_received_total", type="hello") == 2
    assert value("chatcore_frames_received_total", type="send") == value("chatcore_sends_accepted_total") == 10
    assert value("chatcore_frames_sent_total", type="welcome") == 2
    assert value("chatcore_frames_sent_total", type="ack") == value("chatcore_acks_total") == 10
    assert value("chatcore_frames_sent_total", type="deliver") == value("chatcore_deliveries_total") == 20
    assert value("chatcore_messages_delivered_total") == 10
    assert value("chatcore_received_bytes_total") > 10 * 20
    assert value("chatcore_sent_bytes_total") > 20 * 40
    assert value("chatcore_pending_bytes") == 0
    assert value("chatcore_logins_total", outcome="new") == 2
    assert value("chatcore_log_records_total") == 10
    assert value("chatcore_log_queue_records") == value("chatcore_log_queue_bytes") == 0
    assert value("chatcore_sends_under_way") == 0
    assert not any(scraped.values("chatcore_refusals_total").values()), "the client itself knew that it had not joined"
    assert_histogram(scraped, "chatcore_ack_latency_seconds", 10)
    assert_histogram(scraped, "chatcore_delivery_latency_seconds", 10)
    assert_histogram(scraped, "chatcore_messages_per_send_call", value("chatcore_send_calls_total"))
    assert value("chatcore_log_commit_seconds_count") >= 10, "one waits for the next"
    assert value("chatcore_loop_lag_seconds_count") > 0
    assert value("process_resident_memory_bytes") > 1_000_000
    assert value("process_open_fds") > 5


async def test_refusals_by_code(server: LocalServer, open_raw: OpenRaw) -> None:
    before = await scrape(server.server.http_port)
    assert before.value("chatcore_refusals_total", code="not_joined") == 0, "there before the first one"
    client: RawClient = await open_raw(server)
    await client.login(token=server.token("ann"))
    for seq in (1, 2, 3):
        client.send(seq, 77, b"into no channel")
        await client.refusal()
    scraped = await scrape(server.server.http_port)
    assert scraped.value("chatcore_refusals_total", code="not_joined") == 3
    assert scraped.value("chatcore_frames_sent_total", type="refused") == 3
    assert sum(scraped.values("chatcore_refusals_total").values()) == 3
    await client.close()
    await until(lambda: server.counted("closed_by_peer") == 1)
    scraped = await scrape(server.server.http_port)
    assert scraped.value("chatcore_connections_closed_total", code="by_peer") == 1
    assert scraped.value("chatcore_connections", state="ready") == 0


async def test_logins_resumes_and_who_could_not_prove_it(server: LocalServer, open_raw: OpenRaw) -> None:
    ann = await server.login("ann")
    session = ann.client.session_id
    server.do(lambda worker: worker.hub.close_connections(400))
    server.do(lambda worker: worker.wake())
    await until(lambda: server.counted("logins_resumed") == 1)
    assert ann.client.session_id == session
    with pytest.raises(AuthenticationError):
        await player(server.uri, "no token").start()
    client: RawClient = await open_raw(server)
    client.hello(ticket=b"forged")
    assert await client.closed_by() == "bad_ticket"
    client = await open_raw(server)
    welcome = await client.login(token=server.token("bob"), ticket=b"forged")
    assert not welcome["resumed"]
    scraped = await scrape(server.server.http_port)
    logins = {outcome: n for outcome, n in scraped.values("chatcore_logins_total").items() if n}
    assert logins == {"new": 2, "resumed": 1, "bad_token": 1, "bad_ticket": 1}
    resumes = {outcome: n for outcome, n in scraped.values("chatcore_resumes_total").items() if n}
    assert resumes == {"resumed": 1, "new_session": 1, "bad_ticket": 1}
    failures = scraped.values("chatcore_authentication_failures_total")
    assert {reason: n for reason, n in failures.items() if n} == {"bad_token": 1, "bad_ticket": 1}


def read_all(connection: socket.socket) -> bool:
    """All that is there. True, for conditions."""
    with contextlib.suppress(BlockingIOError):
        while connection.recv(65536):
            pass
    return True


async def test_a_slow_receiver_is_seen(start_server: Start) -> None:
    """One that logs in by the TCP door and reads nothing, then everything."""
    server: LocalServer = start_server(
        limits={
            "pause_size": "64KiB",
            "pending_size": "128KiB",
            "player_bytes_per_second": "100MB",
            "player_byte_burst": "2MB",
            **dict.fromkeys(("frame_burst", "player_frame_burst"), 2_000_000),
        }
    )
    ann = await server.login("ann")
    await ann.client.join(ROOM)
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.setblocking(False)
        slow.send(encode_hello(1, encode_body(Hello(token=server.token("slow"), channels={ROOM: 0}))))
        await until(lambda: server.counted("connections_ready") == 2)
        while server.counted("receivers_paused") == 0:
            await asyncio.gather(*(ann.client.send(ROOM, "x" * 3000) for _ in range(10)))
        scraped = await scrape(server.server.http_port)
        steps = scraped.values("chatcore_slow_receiver_steps_total")
        assert steps["paused"] == 1
        assert steps["message_left_out"] >= 1
        assert steps["gap_told"] == steps["closed"] == 0
        assert 0 < scraped.value("chatcore_pending_bytes") <= 128 * 1024
        assert scraped.value("chatcore_sends_incomplete_total") >= 1
        await until(lambda: read_all(slow) and server.counted("gaps") == 1)
        await until(lambda: read_all(slow) and server.counted("pending_bytes") == 0)
        scraped = await scrape(server.server.http_port)
        assert scraped.value("chatcore_slow_receiver_steps_total", step="gap_told") == 1


async def test_scrapes_at_once_and_strange_ones(server: LocalServer) -> None:
    assert len(await asyncio.gather(*(scrape(server.server.http_port, accepted) for accepted in FORMATS * 10))) == 20
    url = f"http://127.0.0.1:{server.server.http_port}/metrics"
    strange = ["", "*/*", "application/openmetrics-text;version=x", "text/plain;version=;q=0", "text/plain;" * 100]
    async with aiohttp.ClientSession() as session:
        for accepted in strange:
            async with session.get(url, headers={"Accept": accepted}) as response:
                assert response.status == 200, accepted
                assert b"chatcore_build_info" in await response.read()
        async with session.post(url) as response:
            assert response.status == 405


async def test_a_server_that_stops_is_not_ready(start_server: Start) -> None:
    server: LocalServer = start_server()
    server.do(lambda worker: setattr(server.server, "_is_stopping", True))
    assert (await scrape(server.server.http_port)).value("chatcore_ready") == 0


async def test_a_door_that_refuses_counts(start_server: Start) -> None:
    server: LocalServer = start_server(proxy_protocol={"trusted": ["10.0.0.0/8"]})
    with socket.create_connection(("127.0.0.1", server.port)):
        await until(lambda: server.counted("proxy_headers_refused") == 1)
    scraped = await scrape(server.server.http_port, OPENMETRICS)
    assert scraped.value("chatcore_proxy_headers_refused_total") == 1
    assert scraped.families["chatcore_proxy_headers_refused"].type == "counter"
