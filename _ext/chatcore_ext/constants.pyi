from enum import IntEnum
from typing import Final

class FrameType(IntEnum):
    FRAME_HELLO = 0x01
    FRAME_WELCOME = 0x02
    FRAME_PING = 0x03
    FRAME_PONG = 0x04
    FRAME_GOAWAY = 0x05
    FRAME_CLOSE = 0x06
    FRAME_SEND = 0x10
    FRAME_ACK = 0x11
    FRAME_REFUSED = 0x12
    FRAME_DELIVER = 0x13
    FRAME_SIGNAL = 0x14
    FRAME_GAP = 0x15
    FRAME_REQUEST = 0x20
    FRAME_REPLY = 0x21
    FRAME_FAILED = 0x22
    FRAME_EVENT = 0x23

class SendFlag(IntEnum):
    SEND_RESEND = 0x01
    SEND_ACCEPTED = 0x02

class DeliverFlag(IntEnum):
    DELIVER_HIDDEN = 0x01

class SignalKind(IntEnum):
    SIGNAL_TYPING = 1
    SIGNAL_APPLICATION = 128

class RecordKind(IntEnum):
    RECORD_MESSAGE = 1
    RECORD_CONTROL = 2

# The limits and sizes; constants.pxd has each with its unit and reason.
PROTOCOL_VERSION: Final[int]
HEADER_SIZE: Final[int]
MAX_BODY_LENGTH: Final[int]
HELLO_PREFIX_SIZE: Final[int]
SEND_PREFIX_SIZE: Final[int]
ACK_SIZE: Final[int]
DELIVER_PREFIX_SIZE: Final[int]
SIGNAL_PREFIX_SIZE: Final[int]
GAP_SIZE: Final[int]
REQUEST_PREFIX_SIZE: Final[int]
REPLY_PREFIX_SIZE: Final[int]
ERROR_PREFIX_SIZE: Final[int]
GOAWAY_SIZE: Final[int]
PING_SIZE: Final[int]
RECORD_PREFIX_SIZE: Final[int]
RECORD_VERSION: Final[int]
MAX_NAME_SIZE: Final[int]
MAX_CHANNEL_NAME_SIZE: Final[int]
MAX_SIGNAL_BODY_SIZE: Final[int]
MAX_UNACKED_SENDS: Final[int]
REPLAY_WINDOW_BITS: Final[int]
DEFAULT_MAX_FRAME_SIZE: Final[int]
DEFAULT_MAX_PENDING_SIZE: Final[int]
DEFAULT_HELLO_TIMEOUT_MS: Final[int]
DEFAULT_HEARTBEAT_MS: Final[int]
DEFAULT_HEARTBEAT_GRACE_MS: Final[int]
DEFAULT_FRAMES_PER_SECOND: Final[int]
DEFAULT_FRAME_BURST: Final[int]
DEFAULT_RESUME_GRACE_MS: Final[int]
DEFAULT_REPLAY_WINDOW_MS: Final[int]
DEFAULT_CHAIN_IDLE_MS: Final[int]
DEFAULT_MAX_HEADS: Final[int]
DEFAULT_MAX_CHANNELS_PER_CONNECTION: Final[int]
DEFAULT_MAX_CONNECTIONS: Final[int]
LINGER_MS: Final[int]
TRANSPORT_HIGH_WATER: Final[int]
TRANSPORT_LOW_WATER: Final[int]
WHEEL_TICK_MS: Final[int]
WHEEL_SLOTS: Final[int]
BURST_EVENTS: Final[int]
RECEIVE_BUFFER_SIZE: Final[int]
HASH_UNKNOWN: Final[int]
NO_ID: Final[int]
UNKNOWN_ID: Final[int]
