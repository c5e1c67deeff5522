"""Slow, obvious models of the timing wheel and the token bucket."""

from fractions import Fraction


class TimersModel:
    """Deadlines in a dict. Tells which keys must have fired, and which may not."""

    def __init__(self, tick_ms: int, now_ms: int) -> None:
        self.tick_ms = tick_ms
        self.now_ms = now_ms
        self.deadlines: dict[int, int] = {}

    def insert(self, key: int, deadline_ms: int) -> None:
        self.deadlines[key] = deadline_ms

    def cancel(self, key: int) -> bool:
        return self.deadlines.pop(key, None) is not None

    def overdue(self, now_ms: int) -> set[int]:
        """What must have fired by now: the tick that its deadline lies in is over."""
        return {key for key, deadline in self.deadlines.items() if deadline + self.tick_ms <= now_ms}

    def due(self, now_ms: int) -> set[int]:
        """What may have fired by now."""
        return {key for key, deadline in self.deadlines.items() if deadline <= now_ms}


class BucketModel:
    """A token bucket in exact fractions."""

    def __init__(self, rate_per_second: int, burst: int, now_ms: int) -> None:
        self.rate_per_ms = Fraction(rate_per_second, 1000)
        self.burst = burst
        self.tokens = Fraction(burst)
        self.now_ms = now_ms

    def take(self, now_ms: int, amount: int) -> int | None:
        """0: taken. Otherwise the milliseconds to wait; None: for ever."""
        if now_ms > self.now_ms:
            self.tokens = min(Fraction(self.burst), self.tokens + (now_ms - self.now_ms) * self.rate_per_ms)
            self.now_ms = now_ms
        if amount > self.burst:
            return None
        if amount <= self.tokens:
            self.tokens -= amount
            return 0
        if self.rate_per_ms == 0:
            return None
        return -((self.tokens - amount) // self.rate_per_ms)
