"""What can go wrong, as exceptions with the protocol's stable codes. Decides nothing about retrying: the flags say
that."""

from chatcore_ext.error_codes import ErrorCode, ErrorFlag, default_flags, error_text
from chatcore_ext.frame import decode_error


class ChatError(Exception):
    """Base of all errors. `code` and `name` are stable; the message is for people.

    `retry`: the same may succeed after `retry_after_ms` (0: at once). `uncertain`: the message may be in the log.
    """

    code: int = ErrorCode.ERROR_INTERNAL

    def __init__(
        self,
        message: str = "",
        *,
        code: int | None = None,
        flags: int | None = None,
        retry_after_ms: int = 0,
        name: str = "",
    ) -> None:
        self.code = type(self).code if code is None else code
        self.name = name or error_text(self.code) or f"error_{self.code}"
        self.message = message
        flags = default_flags(self.code) if flags is None else flags
        self.retry = bool(flags & ErrorFlag.ERROR_FLAG_RETRY)
        self.uncertain = bool(flags & ErrorFlag.ERROR_FLAG_UNCERTAIN)
        self.retry_after_ms = retry_after_ms
        super().__init__(f"{self.name}: {message}" if message else self.name)


class ProtocolError(ChatError):
    """1xx: the bytes on the connection."""

    code = ErrorCode.ERROR_MALFORMED_FRAME


class AuthenticationError(ChatError):
    """2xx: who the player is."""

    code = ErrorCode.ERROR_BAD_TOKEN


class RequestError(ChatError):
    """3xx: what may be done. The same request will fail again."""

    code = ErrorCode.ERROR_BAD_REQUEST


class TemporaryError(ChatError):
    """4xx: try again."""

    code = ErrorCode.ERROR_INTERNAL


class SlowReceiver(ProtocolError):
    code = ErrorCode.ERROR_SLOW_RECEIVER


class BadToken(AuthenticationError):
    code = ErrorCode.ERROR_BAD_TOKEN


class TokenExpired(AuthenticationError):
    code = ErrorCode.ERROR_TOKEN_EXPIRED


class BadTicket(AuthenticationError):
    code = ErrorCode.ERROR_BAD_TICKET


class SessionReplaced(AuthenticationError):
    code = ErrorCode.ERROR_SESSION_REPLACED


class TooManySessions(AuthenticationError):
    code = ErrorCode.ERROR_TOO_MANY_SESSIONS


class LoggedOut(AuthenticationError):
    code = ErrorCode.ERROR_LOGGED_OUT


class BadName(RequestError):
    code = ErrorCode.ERROR_BAD_NAME


class NotAllowed(RequestError):
    code = ErrorCode.ERROR_NOT_ALLOWED


class NotJoined(RequestError):
    code = ErrorCode.ERROR_NOT_JOINED


class NoSuchChannel(RequestError):
    code = ErrorCode.ERROR_NO_SUCH_CHANNEL


class AlreadyExists(RequestError):
    code = ErrorCode.ERROR_ALREADY_EXISTS


class NoSuchMember(RequestError):
    code = ErrorCode.ERROR_NO_SUCH_MEMBER


class TooManyChannels(RequestError):
    code = ErrorCode.ERROR_TOO_MANY_CHANNELS


class BodyTooLarge(RequestError):
    code = ErrorCode.ERROR_BODY_TOO_LARGE


class Blocked(RequestError):
    code = ErrorCode.ERROR_BLOCKED


class ListFull(RequestError):
    code = ErrorCode.ERROR_LIST_FULL


class ChannelFull(RequestError):
    code = ErrorCode.ERROR_CHANNEL_FULL


class RateLimited(TemporaryError):
    code = ErrorCode.ERROR_RATE_LIMITED


class Overloaded(TemporaryError):
    code = ErrorCode.ERROR_OVERLOADED


class OutcomeUnknown(TemporaryError):
    """A send that is neither known to be in the log nor known not to be, and may no longer be sent again."""

    code = ErrorCode.ERROR_OUTCOME_UNKNOWN


class ConnectionLost(ChatError):
    """The connection ended and the client does not come back by itself. Not a code of the wire."""

    code = 0

    def __init__(self, message: str = "the connection is lost") -> None:
        super().__init__(message, name="connection_lost", flags=ErrorFlag.ERROR_FLAG_RETRY)


def connection_ended() -> ChatError:
    """What a request gets whose connection ended before its answer: it may be made again on the next."""
    return ChatError(
        "the connection ended before the answer",
        code=0,
        name="connection_lost",
        flags=ErrorFlag.ERROR_FLAG_RETRY | ErrorFlag.ERROR_FLAG_UNCERTAIN,
    )


def server_silent() -> ChatError:
    """Why a client drops a connection that still looks open."""
    return ChatError("the server does not answer", code=0, name="server_silent", flags=ErrorFlag.ERROR_FLAG_RETRY)


def _subclasses(base: type[ChatError]) -> list[type[ChatError]]:
    return [found for child in base.__subclasses__() for found in (child, *_subclasses(child))]


_FAMILIES: dict[int, type[ChatError]] = {1: ProtocolError, 2: AuthenticationError, 3: RequestError, 4: TemporaryError}
_BY_CODE = {int(kind.code): kind for kind in _subclasses(ChatError) if kind not in _FAMILIES.values()}


def error_from_code(
    code: int, message: str = "", *, flags: int | None = None, retry_after_ms: int = 0, name: str = ""
) -> ChatError:
    """The error of the most fitting class; a code that this version does not know goes by its hundred and its flags."""
    if flags is None and code // 100 == 4 and not error_text(code):
        flags = ErrorFlag.ERROR_FLAG_RETRY
    kind = _BY_CODE.get(code) or _FAMILIES.get(code // 100, ChatError)
    if kind is ConnectionLost:
        kind = ChatError
    return kind(message, code=code, flags=flags, retry_after_ms=retry_after_ms, name=name)


def error_from_body(body: bytes) -> ChatError:
    """The error in an error body of the wire. Raises FrameError if the body is malformed."""
    code, flags, retry_after_ms, name, message = decode_error(body)
    return error_from_code(code, message, flags=flags, retry_after_ms=retry_after_ms, name=name)
