"""The numbers of the wire protocol and the default limits, for C and, through constants.pyx, for Python.

docs/protocol.md explains each; this is the one place where each is written. Never holds anything that changes at run
time.
"""

cpdef enum FrameType:
    # Life of a connection
    FRAME_HELLO = 0x01
    FRAME_WELCOME = 0x02
    FRAME_PING = 0x03
    FRAME_PONG = 0x04
    FRAME_GOAWAY = 0x05
    FRAME_CLOSE = 0x06
    # Hot path: fixed binary layouts
    FRAME_SEND = 0x10
    FRAME_ACK = 0x11
    FRAME_REFUSED = 0x12
    FRAME_DELIVER = 0x13
    FRAME_SIGNAL = 0x14
    FRAME_GAP = 0x15
    # Everything else: MessagePack bodies
    FRAME_REQUEST = 0x20
    FRAME_REPLY = 0x21
    FRAME_FAILED = 0x22
    FRAME_EVENT = 0x23

cpdef enum SendFlag:
    SEND_RESEND = 0x01       # this seq may already be in the log: the acknowledgement must name its first copy
    SEND_ACCEPTED = 0x02     # acknowledge when the producer's queue has it, not when it is durable

cpdef enum DeliverFlag:
    DELIVER_HIDDEN = 0x01    # the receiver must not see this message: sender and body are empty

cpdef enum SignalKind:
    SIGNAL_TYPING = 1        # body empty = typing, one byte 0 = stopped
    SIGNAL_APPLICATION = 128  # 128-255 belong to the game

cpdef enum RecordKind:
    RECORD_MESSAGE = 1
    RECORD_CONTROL = 2

cpdef enum:
    PROTOCOL_VERSION = 1
    HEADER_SIZE = 4            # bytes: u24 body length, u8 type
    MAX_BODY_LENGTH = 0xFFFFFF  # bytes a header can say
    HELLO_PREFIX_SIZE = 8      # bytes: magic "chat", u8 version, 3 zero bytes
    SEND_PREFIX_SIZE = 13      # bytes: u64 seq, u32 channel, u8 flags
    ACK_SIZE = 24              # bytes: u64 seq, u64 id, u64 time
    DELIVER_PREFIX_SIZE = 38   # bytes: u32 channel, u8 flags, u8 sender length, u64 id, prev, hash, time
    SIGNAL_PREFIX_SIZE = 6     # bytes: u32 channel, u8 kind, u8 sender length
    GAP_SIZE = 20              # bytes: u32 channel, u64 from, u64 to
    REQUEST_PREFIX_SIZE = 5    # bytes: u32 request id, u8 operation
    REPLY_PREFIX_SIZE = 4      # bytes: u32 request id
    ERROR_PREFIX_SIZE = 8      # bytes: u16 code, u8 flags, u32 retry after ms, u8 name length
    GOAWAY_SIZE = 8            # bytes: u32 deadline ms, u32 reconnect window ms
    PING_SIZE = 8              # bytes, opaque
    RECORD_PREFIX_SIZE = 27    # bytes: u8 version, u8 kind, u64 session, u64 seq, u64 time, u8 sender length
    RECORD_VERSION = 1

    MAX_NAME_SIZE = 64         # bytes of a player's, room's or group's name: fits one length byte and a log line
    MAX_CHANNEL_NAME_SIZE = 132  # bytes: "dm:" + two names + ":"; every other kind is shorter
    MAX_SIGNAL_BODY_SIZE = 128  # bytes: a signal is a hint, not a message

    # A sender may have this many unacknowledged seqs; see docs/protocol.md, "Sending". The replay window is wider.
    MAX_UNACKED_SENDS = 128
    # Seqs per (session, partition) that a reader remembers; RFC 6479 keeps one word in reserve.
    REPLAY_WINDOW_BITS = 256

    DEFAULT_MAX_FRAME_SIZE = 4096           # bytes of one inbound frame body: a chat line, not a file
    DEFAULT_MAX_PENDING_SIZE = 262144       # bytes unsent per connection: seconds of a busy room on a slow line
    DEFAULT_MAX_TOTAL_PENDING_SIZE = 1073741824  # bytes unsent per worker: 4,096 clients with all that one may have
    DEFAULT_FLUSH_WINDOW_RATE = 100         # outputs a second, from which on a window, if there is one, holds them
    KEPT_SIGNALS_SIZE = 4096                # bytes of signals that wait for one who lags: some 85 who are typing
    KEPT_TYPING_MS = 5000                   # nobody types for so long without saying it again: older is not told
    DEFAULT_HELLO_TIMEOUT_MS = 5000         # a real client says hello in one round trip
    DEFAULT_HEARTBEAT_MS = 30000            # below the idle time-out of home routers and mobile carriers
    DEFAULT_HEARTBEAT_GRACE_MS = 45000      # added to the heartbeat before a silent connection is closed
    DEFAULT_FRAMES_PER_SECOND = 100         # per connection; a person types one message a second at best
    DEFAULT_FRAME_BURST = 400               # frames at once: a client that joins its channels after a start
    DEFAULT_RESUME_GRACE_MS = 15000         # a session without connection keeps its presence this long
    DEFAULT_REPLAY_WINDOW_MS = 300000       # how long a resend of an unacknowledged seq is recognised
    DEFAULT_CHAIN_IDLE_MS = 604800000       # a channel silent this long (7 days) starts a new chain
    DEFAULT_MAX_HEADS = 1000000             # channels whose last id a reader keeps; about 200 bytes each
    DEFAULT_MAX_CHANNELS_PER_CONNECTION = 256  # joins of one connection
    DEFAULT_MAX_CONNECTIONS = 100000        # per worker; above it the newest is refused
    DEFAULT_MAX_HALF_OPEN = 10000           # connections before WELCOME; above it the oldest without HELLO gives way
    DEFAULT_MAX_CLOSING = 1024              # beside them: told CLOSE, and not gone yet
    DEFAULT_MAX_CONNECTIONS_PER_ADDRESS = 1000  # a mobile carrier puts hundreds of players behind one address
    DEFAULT_ACCEPTS_PER_SECOND = 100        # per address
    DEFAULT_ACCEPT_BURST = 1000             # per address at once: all of them come back after a restart
    MAX_NETWORKS = 64                       # without the limits of an address: each new connection walks them
    EXCESS_FACTOR = 4                       # frames over the limit, for each within it, before the connection is closed
    BYTES_PER_FRAME = 1024                  # that a player may send for each frame of the limit; most have under 100
    MAX_TRACES = 8                          # at once: each traced player is looked up at each message
    RETRY_AFTER_MS = 1000                   # with refusals of which nobody knows when they pass: soon, and no storm
    LINGER_MS = 2000                        # a closing connection has this long to take its CLOSE and hang up
    # Bytes that a transport (TLS, WebSocket) holds unsent before the hub keeps the rest, and at which it goes on.
    # uvloop's own are 64 KiB or 512 KiB, by kind, and 16 bytes or 128 KiB.
    TRANSPORT_HIGH_WATER = 65536
    TRANSPORT_LOW_WATER = 16384
    WHEEL_TICK_MS = 50                      # how late a deadline may be; none of them is finer than a second
    WHEEL_SLOTS = 2048                      # one revolution, 102 s, is over the longest common deadline (heartbeat)
    BURST_EVENTS = 512                      # epoll events handled in one turn: bounds the turn to a few ms
    RECEIVE_BUFFER_SIZE = 65536             # bytes read per connection and turn, one buffer for all

cpdef enum:
    HASH_UNKNOWN = 0

# A message's id is its log offset, at least 1. These two stand where there is no id.
cdef inline unsigned long long no_id() noexcept nogil:        # nothing before
    return 0
cdef inline unsigned long long unknown_id() noexcept nogil:   # the worker cannot know; the client syncs
    return 0xFFFFFFFFFFFFFFFF
