from typing import Final, final

NEVER: Final[int]

@final
class TokenBucket:
    """Lets `rate_per_second` events through on average, and `burst` at once. Starts full. Has no clock: each call
    says the time.

    RFC 2697, section 3, with one rate. Raises ValueError for a negative rate, or a burst that is not 1 to 2,147,483.
    """
    def __init__(self, rate_per_second: int, burst: int, now_ms: int) -> None: ...
    def wait(self, now_ms: int, amount: int = 1) -> int:
        """What `take` would answer, and nothing is taken."""
    def take(self, now_ms: int, amount: int = 1) -> int:
        """0: taken. Otherwise nothing was taken, and it is the milliseconds until it would succeed, or NEVER.

        A `now_ms` before an earlier one counts as that one. Raises ValueError for a negative amount."""
