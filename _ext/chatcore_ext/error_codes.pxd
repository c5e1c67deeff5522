"""The stable error codes that clients see, for C and Python. docs/protocol.md lists what each means and what to do."""

cpdef enum ErrorCode:
    # 1xx the connection's bytes: always closes
    ERROR_MALFORMED_FRAME = 100
    ERROR_FRAME_TOO_LARGE = 101
    ERROR_UNKNOWN_FRAME = 102
    ERROR_UNEXPECTED_FRAME = 103
    ERROR_UNSUPPORTED_VERSION = 104
    ERROR_HELLO_TIMEOUT = 105
    ERROR_HEARTBEAT_TIMEOUT = 106
    ERROR_SLOW_RECEIVER = 107
    ERROR_TOO_MANY_CONNECTIONS = 108
    # 2xx who the player is
    ERROR_BAD_TOKEN = 200
    ERROR_TOKEN_EXPIRED = 201
    ERROR_BAD_TICKET = 202
    ERROR_SESSION_REPLACED = 203
    ERROR_TOO_MANY_SESSIONS = 204
    ERROR_LOGGED_OUT = 205
    # 3xx what may be done
    ERROR_BAD_REQUEST = 300
    ERROR_UNKNOWN_OPERATION = 301
    ERROR_BAD_NAME = 302
    ERROR_NOT_ALLOWED = 303
    ERROR_NOT_JOINED = 304
    ERROR_NO_SUCH_CHANNEL = 305
    ERROR_ALREADY_EXISTS = 306
    ERROR_NO_SUCH_MEMBER = 307
    ERROR_TOO_MANY_CHANNELS = 308
    ERROR_BODY_TOO_LARGE = 309
    ERROR_BAD_SEQ = 310
    ERROR_BLOCKED = 311
    ERROR_LIST_FULL = 312
    ERROR_CHANNEL_FULL = 313
    # 4xx try again
    ERROR_RATE_LIMITED = 400
    ERROR_OVERLOADED = 401
    ERROR_LOG_UNAVAILABLE = 402
    ERROR_RELATIONS_UNAVAILABLE = 403
    ERROR_HISTORY_UNAVAILABLE = 404
    ERROR_OUTCOME_UNKNOWN = 405
    ERROR_SHUTTING_DOWN = 406
    ERROR_INTERNAL = 407

cpdef enum ErrorFlag:
    ERROR_FLAG_RETRY = 0x01      # the same thing may succeed after "retry after"
    ERROR_FLAG_UNCERTAIN = 0x02  # the message may be in the log: only a resend under the same seq tells

# "rate_limited" for ERROR_RATE_LIMITED and so on; a static string, "" for a code that does not exist.
cdef const char* error_name(int code) noexcept nogil
# The default flags of a code.
cdef int error_flags(int code) noexcept nogil
