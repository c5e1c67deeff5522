"""How long to wait before the next attempt to connect. Pure arithmetic: sleeps nowhere."""

import random

from msgspec import Struct


class Reconnect(Struct, frozen=True, kw_only=True):
    """Exponential back-off with full jitter: a random part of min(limit, first * 2**attempt).

    Full jitter spreads a storm of clients best: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015.
    `attempts` in a row without a WELCOME end the client; None: it never gives up.
    """

    first_ms: int = 100
    limit_ms: int = 10_000
    attempts: int | None = None

    def delay_ms(self, attempt: int, at_least_ms: int = 0) -> int:
        """The wait before attempt 0, 1, 2 ... after a loss; `at_least_ms` is what the server asked for."""
        ceiling = min(self.limit_ms, self.first_ms << min(attempt, 20))
        return at_least_ms + random.randint(0, ceiling)
