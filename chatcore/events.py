"""What a client session tells its owner: messages, signals, outcomes, and changes of the connection.

The wire's own events (presence, members, read marks ...) are told as the structs of operations.py. Holds no behaviour.
"""

from msgspec import Struct

from chatcore.errors import ChatError
from chatcore.operations import AnyEvent, ConversationState, Limits


class Message(Struct, frozen=True):
    """One message of a channel, shown once and in the channel's order. `time` is the server's, in ms since 1970."""

    channel: str
    id: int
    sender: str
    body: bytes
    time: int
    own: bool

    @property
    def text(self) -> str:
        """The body as UTF-8; what is not UTF-8 is shown as U+FFFD."""
        return self.body.decode("utf-8", "replace")


class Signal(Struct, frozen=True):
    """A hint that is not stored: kind 1 is typing (an empty body; one byte 0 = stopped), 128-255 are the game's."""

    channel: str
    kind: int
    sender: str
    body: bytes


class Connected(Struct, frozen=True):
    """WELCOME has come. `resumed` False after an earlier connection: a new session, with the same channels."""

    player: str
    session: int
    resumed: bool
    conversations: dict[str, ConversationState]
    limits: Limits


class ConnectionClosed(Struct, frozen=True):
    """The connection is gone. `error` says why if the server said so, or if the client gave it up."""

    error: ChatError | None


class Acknowledged(Struct, frozen=True):
    """The send with this handle is durable (id 0: accepted only, or the server no longer knows the id)."""

    handle: int
    id: int
    time: int


class SendFailed(Struct, frozen=True):
    """The send with this handle is not in the log, or OutcomeUnknown."""

    handle: int
    error: ChatError


class Replied(Struct, frozen=True):
    """The reply to a request: its MessagePack body."""

    request_id: int
    body: bytes


class RequestFailed(Struct, frozen=True):
    request_id: int
    error: ChatError


class Draining(Struct, frozen=True):
    """GOAWAY: the server closes in `deadline_ms`; reconnect after a random part of `reconnect_window_ms`."""

    deadline_ms: int
    reconnect_window_ms: int


class TokenExpiring(Struct, frozen=True):
    """The server ends the session in `in_ms` unless it gets a new token. A client with a token source sees to that."""

    in_ms: int


class EpochChanged(Struct, frozen=True):
    """The log was made anew: ids from before mean nothing any more."""

    epoch: str


class HashMismatch(Struct, frozen=True):
    """What was shown up to this message is not what the log holds: something was lost, doubled, reordered or
    changed."""

    channel: str
    id: int


class HistoryTruncated(Struct, frozen=True):
    """Between these ids (both exclusive) history no longer has what this client missed."""

    channel: str
    after: int
    before: int


class ChannelLost(Struct, frozen=True):
    """A channel that the session wanted to be in could not be joined again after a reconnect."""

    channel: str
    error: ChatError


SessionEvent = (
    Message
    | Signal
    | Connected
    | ConnectionClosed
    | Acknowledged
    | SendFailed
    | Replied
    | RequestFailed
    | Draining
    | TokenExpiring
    | EpochChanged
    | HashMismatch
    | HistoryTruncated
    | ChannelLost
    | AnyEvent
)
