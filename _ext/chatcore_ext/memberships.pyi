"""The hub's sessions and channels: who is here, as whom, and in which channels."""

from chatcore_ext.tracing import Tracing

class Memberships(Tracing):
    """The third part of `Hub`; not used by itself."""
    # Sessions
    def attach(self, connection: int, session_id: int, player: bytes) -> int:
        """The greeted connection is ready and belongs to this session (new, or here within its grace), whose older
        connection is dropped. Returns how many sessions the player has here now; 0: the connection is gone or was not
        waiting for this. Raises ValueError: session_id 0, a bad length of the name, or the session is another
        player's."""
    def end_session(self, session_id: int, code: int) -> bool:
        """Forget it at once, its connection is closed with `code`. No EVENT_EXPIRED. False: it is not here."""
    def sessions_of(self, player: bytes) -> list[tuple[int, int]]:
        """(session_id, connection) of each, oldest first; connection 0: detached, within its grace."""
    def session(self, connection: int) -> tuple[int, bytes] | None:
        """(session_id, player) of a ready connection."""
    def is_online(self, player: bytes) -> bool:
        """The player has a session here, attached or within its grace."""
    def hide(self, player: bytes, sender: bytes) -> None:
        """`player` must not see what `sender` says: messages come hidden, signals not at all. Holds as long as the
        player has a session here; without one it does nothing."""
    def show(self, player: bytes, sender: bytes) -> None: ...

    # Channels
    def begin_join(self, connection: int, channel: bytes) -> int:
        """Announce a join before looking anything up; its generation. The channel's head is pinned from here on, so end
        it by `complete_join` or `cancel_join`. 0: the connection is not ready (`session` gives None) or is already in
        max_channels_per_connection channels. A joined channel may be joined again: it stays joined and keeps its
        number. Raises ValueError: the name is empty, or longer than any channel's."""
    def complete_join(self, connection: int, channel: bytes, generation: int, may_send: bool) -> int:
        """Subscribe; the channel's number. 0: a leave, a kick, a newer begin_join or a disconnect came in between."""
    def cancel_join(self, connection: int, channel: bytes, generation: int) -> bool:
        """A join that came to nothing. False: it is joined (by an earlier join), or another begin_join is under way."""
    def leave(self, connection: int, channel: bytes) -> bool:
        """Also takes back a begin_join. True if it was joined."""
    def remove_player(self, player: bytes, channel: bytes) -> list[int]:
        """Take all connections of the player out, pending joins too. Returns those that were joined."""
    def set_may_send(self, player: bytes, channel: bytes, may_send: bool, code: int) -> int:
        """For the connections that are in the channel; `code` is what SEND is refused with. How many they were."""
    def is_joined(self, connection: int, channel: bytes) -> bool: ...
    def channels_of(self, connection: int) -> list[bytes]:
        """The joined ones, in no order."""
    def players_in(self, channel: bytes, limit: int) -> list[bytes]:
        """Each player once, at most `limit`, in no order."""
    def subscribers(self, channel: bytes) -> int:
        """Connections (not players) in the channel."""
    def head(self, channel: bytes) -> tuple[int, int] | None:
        """(id, hash) as `LogView.head`; within `on_direct` the head before the message that is being delivered."""
    def learn_head(self, channel: bytes, id: int, hash: int, time: int) -> None:
        """As `LogView.learn_head`."""
