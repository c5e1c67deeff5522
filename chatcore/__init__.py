"""chatcore: the client side of the in-game chat server of the same name. Holds the public names, no code."""

from importlib.metadata import PackageNotFoundError, version

from chatcore.backoff import Reconnect
from chatcore.client import DEFAULT_PORT, Client, Receipt
from chatcore.errors import ChatError, ConnectionLost, OutcomeUnknown
from chatcore.events import (
    ChannelLost,
    Connected,
    ConnectionClosed,
    Draining,
    EpochChanged,
    HashMismatch,
    HistoryTruncated,
    Message,
    Signal,
)
from chatcore.names import direct_channel, group_channel, room_channel
from chatcore.session import ClientSession

try:
    __version__ = version("chatcore")
except PackageNotFoundError:  # run from a tree that was not installed
    __version__ = "0"

__all__ = [
    "DEFAULT_PORT",
    "ChannelLost",
    "ChatError",
    "Client",
    "ClientSession",
    "Connected",
    "ConnectionClosed",
    "ConnectionLost",
    "Draining",
    "EpochChanged",
    "HashMismatch",
    "HistoryTruncated",
    "Message",
    "OutcomeUnknown",
    "Receipt",
    "Reconnect",
    "Signal",
    "direct_channel",
    "group_channel",
    "room_channel",
]
