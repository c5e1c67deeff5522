"""Who has failed to prove who they are, by remote address, so that nobody can guess without end.

Tokens are verified at logins and when they are replaced; both count here. Decides nothing about tokens.
"""

from chatcore.errors import RateLimited
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.buckets import KeyedBuckets, monotonic_ms
from chatcore_server.settings import LimitSettings

# Somebody is guessing, or does not speak the protocol.
_FAILURES = {
    ErrorCode.ERROR_BAD_TOKEN,
    ErrorCode.ERROR_TOKEN_EXPIRED,
    ErrorCode.ERROR_BAD_TICKET,
    ErrorCode.ERROR_BAD_REQUEST,
}


class LoginFailures:
    """An address is the hub's `limited_address`; None: no limit holds for it."""

    def __init__(self, limits: LimitSettings) -> None:
        self._failures: KeyedBuckets[int] = KeyedBuckets(limits.failed_logins_per_second, limits.failed_login_burst)

    def take_settings(self, limits: LimitSettings) -> None:
        self._failures.set_limit(limits.failed_logins_per_second, limits.failed_login_burst)

    def check(self, address: int | None) -> None:
        """Before anything is verified: verifying is what a flood of guesses would make us do. Raises RateLimited."""
        if address is not None and self._failures:
            wait = self._failures.wait(address, monotonic_ms())
            if wait:
                raise RateLimited("too many failed logins from this address", retry_after_ms=wait)

    def note(self, address: int | None, code: int) -> None:
        """It came to this error; not all of them count."""
        if code in _FAILURES and address is not None:
            self._failures.take(address, monotonic_ms())
