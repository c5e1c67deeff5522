"""Tokens and tickets of people who mean no good, at a server with a key set, an audience and an issuer: each is refused
by its named code and counted, and players who chat there notice nothing.

The plain ones, at a server without configuration, are in test_hostile_input.py; what the keys themselves may be is in
tests/unit/test_keys.py.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio

from chatcore.operations import Operation
from chatcore_server.authentication import make_token
from chatcore_server.keys import Key
from chatcore_server.tickets import TicketSigner
from faults.test_hostile_input import Attacker, Row, refused_login, run_table
from support.keys import jwk, private_key, public_pem, write_jwks
from support.players import until
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

KEYS = [jwk("rsa", kid="rsa"), jwk("p256", kid="p256"), jwk("ed25519", kid="ed")]
GOOD = {"aud": "chat", "iss": "game"}


class KeyedServer(LocalServer):
    """Its players' tokens are signed by a key of the set."""

    def token(self, name: str, lifetime_s: int = 3600, channels: list[str] | None = None) -> str:
        key = Key("ES256", private_key("p256"), "p256")
        return make_token(key, name, lifetime_s, channels, audience="chat", issuer="game")


@pytest_asyncio.fixture
async def server(door: str, tmp_path: Path) -> AsyncIterator[KeyedServer]:
    path = str(write_jwks(tmp_path / "jwks.json", *KEYS))
    (tmp_path / "secret").write_bytes(bytes(range(32)))
    authentication = {"jwks_file": path, "secret_file": str(tmp_path / "secret"), "audience": "chat", "issuer": "game"}
    server = KeyedServer(tmp_path / "data", {"authentication": {**authentication, "leeway": 0}}, door)
    server.start()
    yield server
    await server.stop()


def signed(kind: str, algorithm: str, kid: str | None, number: int = 0, **claims: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    content = {"sub": "mallory", "exp": int(time.time()) + 600, **GOOD, **claims}
    return jwt.encode(content, private_key(kind, number), algorithm, headers)


def with_header(header: str, secret: bytes) -> str:
    """Any text as header, and a signature by HMAC."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    claims = json.dumps({"sub": "mallory", "exp": int(time.time()) + 600, **GOOD})
    content = f"{part(header.encode())}.{part(claims.encode())}"
    return f"{content}.{part(hmac.digest(secret, content.encode(), hashlib.sha256)) if secret else ''}"


def bad(label: str, token: str, name: str = "bad_token") -> Row:
    return refused_login(label, name, lambda attacker: {"token": token})


async def test_hostile_tokens(server: KeyedServer) -> None:
    now = int(time.time())
    pem = public_pem("rsa")
    await run_table(
        server,
        [
            bad("another audience", signed("p256", "ES256", "p256", aud="shop")),
            bad("other audiences", signed("p256", "ES256", "p256", aud=["shop", "mail"])),
            bad("no audience", signed("p256", "ES256", "p256", aud="")),
            bad("another issuer", signed("p256", "ES256", "p256", iss="game.example")),
            bad("expired", signed("p256", "ES256", "p256", exp=now - 1), "token_expired"),
            bad("not yet valid", signed("p256", "ES256", "p256", nbf=now + 600)),
            bad("never expires", signed("p256", "ES256", "p256", exp=None)),
            bad("a key that is not in the set", signed("p256", "ES256", "p256", number=1)),
            bad("another key's name", signed("p256", "ES256", "ed")),
            bad("a name that nobody has", signed("p256", "ES256", "p257")),
            bad("a path for a name", signed("p256", "ES256", "../../dev/null")),
            bad("another hash", signed("rsa", "RS512", "rsa")),
            bad("another padding", signed("rsa", "PS256", "rsa")),
            bad("another curve", signed("p384", "ES384", "p256")),
            bad("the public key as a secret", with_header('{"alg":"HS256","kid":"rsa"}', pem)),
            bad("the public key as a secret, without a name", with_header('{"alg":"HS256"}', pem)),
            bad("the secret's signature by a key's name", with_header('{"alg":"RS256","kid":"rsa"}', bytes(range(32)))),
            bad("alg none", with_header('{"alg":"none","kid":"rsa"}', b"")),
            bad("alg None", with_header('{"alg":"None"}', b"")),
            bad("no alg", with_header('{"kid":"rsa"}', b"")),
            bad("half a surrogate pair", with_header('{"alg":"HS256","crit":["\\ud800"]}', b"x")),
            bad("a header of brackets", with_header("[" * 2000, b"x")),
            bad("a header that brings its key", own_key()),
        ],
    )


def own_key() -> str:
    headers = {"kid": "p256", "jwk": jwk("p256", 1)}
    return jwt.encode(
        {"sub": "mallory", "exp": int(time.time()) + 600, **GOOD}, private_key("p256", 1), "ES256", headers
    )


# ---- Tokens of sessions that run -------------------------------------------------------------------------------------


async def a_session_that_outlives_its_token(attacker: Attacker) -> None:
    client = await attacker.connect()
    await client.login(token=attacker.server.token("mallory", 3))
    await client.event("token_expiring")
    assert await client.closed_by() == "token_expired"


async def another_players_token(attacker: Attacker) -> None:
    client, _ = await attacker.log_in()
    stolen = attacker.server.token("neighbour1")
    assert await client.request(Operation.REFRESH, token=stolen) == "not_allowed"


async def guesses_by_refresh(attacker: Attacker) -> None:
    client, _ = await attacker.log_in()
    answers = {await client.request(Operation.REFRESH, token=f"guess{i}") for i in range(50)}
    assert answers == {"bad_token", "rate_limited"}
    assert await client.request(Operation.BLOCKS) == {"players": []}, "it may go on"


async def test_hostile_refreshes(server: KeyedServer) -> None:
    await run_table(
        server,
        [
            (a_session_that_outlives_its_token, "closed_token_expired"),
            (another_players_token, "token_refreshes_failed_not_allowed"),
            (guesses_by_refresh, "token_refreshes_failed_rate_limited"),
        ],
    )


# ---- Tickets ---------------------------------------------------------------------------------------------------------


async def refused_ticket(attacker: Attacker, ticket: bytes) -> None:
    forger = await attacker.connect()
    forger.hello(ticket=ticket)
    assert await forger.closed_by() == "bad_ticket"
    await forger.close()


async def a_ticket_with_a_bit_flipped_in_every_byte(attacker: Attacker) -> None:
    client, welcome = await attacker.log_in()
    ticket = welcome["ticket"]
    for i in range(len(ticket)):
        await refused_ticket(attacker, ticket[:i] + bytes([ticket[i] ^ 1 << i % 8]) + ticket[i + 1 :])
    assert await client.request(Operation.BLOCKS) == {"players": []}, "its owner noticed nothing"


async def a_ticket_cut_short_or_made_longer(attacker: Attacker) -> None:
    client, welcome = await attacker.log_in()
    ticket = welcome["ticket"]
    for size in (1, 31, 32, 33, len(ticket) - 1):
        await refused_ticket(attacker, ticket[:size])
    for wrong in (ticket + b"\0", ticket + ticket, bytes(3000), ticket[32:], ticket[::-1]):
        await refused_ticket(attacker, wrong)
    assert await client.request(Operation.BLOCKS) == {"players": []}, "its owner noticed nothing"


async def a_ticket_of_another_server(attacker: Attacker) -> None:
    """Of the same session and player, but signed by another secret."""
    client, welcome = await attacker.log_in()
    other = TicketSigner(bytes(32), 300_000)
    now = int(time.time() * 1000)
    forged, _ = other.issue(welcome["session"], b"mallory", now, now + 10**9, None, [])
    await refused_ticket(attacker, forged)
    assert await client.request(Operation.BLOCKS) == {"players": []}, "its owner noticed nothing"


async def a_ticket_of_a_session_that_has_ended(attacker: Attacker) -> None:
    client, welcome = await attacker.log_in()
    client.ask(Operation.LOGOUT)
    assert await client.closed_by() == "logged_out"
    await refused_ticket(attacker, welcome["ticket"])


async def a_ticket_whose_token_has_expired(attacker: Attacker) -> None:
    client = await attacker.connect()
    welcome = await client.login(token=attacker.server.token("mallory", 3))
    await client.close()
    signer = attacker.server.do(lambda worker: worker.context.signer)
    expires_ms = signer.verify(welcome["ticket"], 0).expires_ms
    await until(lambda: time.time() * 1000 > expires_ms, "the ticket is over")
    await refused_ticket(attacker, welcome["ticket"])


async def a_ticket_that_was_replaced(attacker: Attacker) -> None:
    """It works until its time is over, and whoever uses it has the session: the owner is told, and can take it back."""
    client, welcome = await attacker.log_in()
    newer = await client.request(Operation.REFRESH, token=attacker.server.token("mallory"))
    thief = await attacker.connect()
    assert (await thief.login(ticket=welcome["ticket"]))["session"] == welcome["session"]
    assert await client.closed_by() == "session_replaced"
    owner = await attacker.connect()
    assert (await owner.login(ticket=newer["ticket"]))["session"] == welcome["session"]
    assert await thief.closed_by() == "session_replaced"


async def test_hostile_tickets(server: KeyedServer) -> None:
    await run_table(
        server,
        [
            (a_ticket_with_a_bit_flipped_in_every_byte, "logins_failed_bad_ticket"),
            (a_ticket_cut_short_or_made_longer, "logins_failed_bad_ticket"),
            (a_ticket_of_another_server, "logins_failed_bad_ticket"),
            (a_ticket_of_a_session_that_has_ended, "logins_failed_bad_ticket"),
            (a_ticket_whose_token_has_expired, "logins_failed_bad_ticket"),
            (a_ticket_that_was_replaced, "closed_session_replaced"),
        ],
    )
