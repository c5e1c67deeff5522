"""The kinds and numbers of what `Hub.take_trace` returns (tap.pxd)."""

from enum import IntEnum

class TapKind(IntEnum):
    TAP_IN = 1
    TAP_OUT = 2
    TAP_ATTACHED = 3
    TAP_DETACHED = 4
    TAP_JOINED = 5
    TAP_LEFT = 6
    TAP_RECORD = 7
    TAP_FANNED_OUT = 8
    TAP_MISSED = 9

class Fate(IntEnum):
    FATE_DELIVERED = 0
    FATE_HIDDEN = 1
    FATE_LEFT_OUT = 2
    FATE_CLOSING = 3
    FATE_NOT_JOINED = 4
    FATE_NOT_CONNECTED = 5
    FATE_IS_SENDER = 6
    FATE_TAKEN_BACK = 7
    FATE_WAITS = 8
