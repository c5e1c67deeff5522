"""The stable error codes that clients see: their names and default flags. Never decides which code a situation
deserves."""

# The one table: (code, name, default flags). docs/protocol.md says what each means.
_CODES = (
    (ERROR_MALFORMED_FRAME, b"malformed_frame", 0),
    (ERROR_FRAME_TOO_LARGE, b"frame_too_large", 0),
    (ERROR_UNKNOWN_FRAME, b"unknown_frame", 0),
    (ERROR_UNEXPECTED_FRAME, b"unexpected_frame", 0),
    (ERROR_UNSUPPORTED_VERSION, b"unsupported_version", 0),
    (ERROR_HELLO_TIMEOUT, b"hello_timeout", ERROR_FLAG_RETRY),
    (ERROR_HEARTBEAT_TIMEOUT, b"heartbeat_timeout", ERROR_FLAG_RETRY),
    (ERROR_SLOW_RECEIVER, b"slow_receiver", ERROR_FLAG_RETRY),
    (ERROR_TOO_MANY_CONNECTIONS, b"too_many_connections", ERROR_FLAG_RETRY),
    (ERROR_BAD_TOKEN, b"bad_token", 0),
    (ERROR_TOKEN_EXPIRED, b"token_expired", 0),
    (ERROR_BAD_TICKET, b"bad_ticket", 0),
    (ERROR_SESSION_REPLACED, b"session_replaced", 0),
    (ERROR_TOO_MANY_SESSIONS, b"too_many_sessions", ERROR_FLAG_RETRY),
    (ERROR_LOGGED_OUT, b"logged_out", 0),
    (ERROR_BAD_REQUEST, b"bad_request", 0),
    (ERROR_UNKNOWN_OPERATION, b"unknown_operation", 0),
    (ERROR_BAD_NAME, b"bad_name", 0),
    (ERROR_NOT_ALLOWED, b"not_allowed", 0),
    (ERROR_NOT_JOINED, b"not_joined", 0),
    (ERROR_NO_SUCH_CHANNEL, b"no_such_channel", 0),
    (ERROR_ALREADY_EXISTS, b"already_exists", 0),
    (ERROR_NO_SUCH_MEMBER, b"no_such_member", 0),
    (ERROR_TOO_MANY_CHANNELS, b"too_many_channels", 0),
    (ERROR_BODY_TOO_LARGE, b"body_too_large", 0),
    (ERROR_BAD_SEQ, b"bad_seq", 0),
    (ERROR_BLOCKED, b"blocked", 0),
    (ERROR_LIST_FULL, b"list_full", 0),
    (ERROR_CHANNEL_FULL, b"channel_full", ERROR_FLAG_RETRY),
    (ERROR_RATE_LIMITED, b"rate_limited", ERROR_FLAG_RETRY),
    (ERROR_OVERLOADED, b"overloaded", ERROR_FLAG_RETRY),
    (ERROR_LOG_UNAVAILABLE, b"log_unavailable", ERROR_FLAG_RETRY),
    (ERROR_RELATIONS_UNAVAILABLE, b"relations_unavailable", ERROR_FLAG_RETRY),
    (ERROR_HISTORY_UNAVAILABLE, b"history_unavailable", ERROR_FLAG_RETRY),
    (ERROR_OUTCOME_UNKNOWN, b"outcome_unknown", ERROR_FLAG_RETRY | ERROR_FLAG_UNCERTAIN),
    (ERROR_SHUTTING_DOWN, b"shutting_down", ERROR_FLAG_RETRY),
    (ERROR_INTERNAL, b"internal", ERROR_FLAG_RETRY),
)

cdef enum:
    FIRST_CODE = 100
    N_CODES = 400   # codes 100-499 have a place in the tables

# Indexed by code - FIRST_CODE, so that C code needs no look-up. The names live as long as _CODES, that is for ever.
ctypedef const char* StaticName
cdef StaticName[N_CODES] _names
cdef unsigned char[N_CODES] _flags


cdef int _fill_tables() except -1:
    for place in range(N_CODES):
        _names[place] = b""
    for code, name, flags in _CODES:
        _names[<int>code - FIRST_CODE] = name
        _flags[<int>code - FIRST_CODE] = <unsigned char>flags
    return 0


_fill_tables()


cdef const char* error_name(int code) noexcept nogil:
    if code < FIRST_CODE or code >= FIRST_CODE + N_CODES:
        return b""
    return _names[code - FIRST_CODE]


cdef int error_flags(int code) noexcept nogil:
    if code < FIRST_CODE or code >= FIRST_CODE + N_CODES:
        return 0
    return _flags[code - FIRST_CODE]


def error_text(int code):
    return error_name(code).decode("ascii")


def default_flags(int code):
    return error_flags(code)
