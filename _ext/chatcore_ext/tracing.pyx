"""Whom a trace follows, for Python; see tracing.pyi."""

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from chatcore_ext.constants cimport MAX_TRACES
from chatcore_ext.routing cimport find_name
from chatcore_ext.tables cimport CONGESTION_BEHIND, CONGESTION_BLOCKED, Player, Session
from chatcore_ext.tap cimport (
    TAP_ATTACHED, TAP_JOINED, TRACED_PLAYER, TapEvent, tap_close, tap_note_of, tap_open, tap_take,
)
from chatcore_ext.turns cimport Turns, name_of


TraceEvent = tuple[int, int, int, bytes, bytes, tuple[int, int, int, int, int, int], int, bytes]


cdef class Tracing(Turns):

    def trace(self, players not None, channels not None, bint with_bodies=False):
        cdef:
            set new_players = set(players)
            set new_channels = set(channels)
            bytes name
        if len(new_players) > MAX_TRACES or len(new_channels) > MAX_TRACES:
            raise ValueError(f"at most {<int>MAX_TRACES} players and {<int>MAX_TRACES} channels are traced at once")
        if not all(isinstance(each, bytes) for each in new_players | new_channels):
            raise TypeError("a name is bytes")
        if (new_players or new_channels) and tap_open(&self.state.tap) < 0:
            raise MemoryError
        self.forget_names()
        self.state.tap.with_bodies = with_bodies
        if not new_players and not new_channels:
            tap_close(&self.state.tap)
            return
        self.traced_players = new_players
        self.traced_channels = new_channels
        for name in new_players:
            Py_INCREF(name)
            self.state.tap.players[self.state.tap.n_players] = <PyObject*>name
            self.state.tap.n_players += 1
            self.mark_player(name, True)
        for name in new_channels:
            self.mark_channel(name, True)

    def take_trace(self):
        cdef unsigned long long n_lost = self.state.tap.n_lost
        return n_lost, tap_take(&self.state.tap)

    def reception(self, unsigned long long connection, bytes channel not None):
        cdef:
            Connection* receiver = self.ready(connection)
            Subscription* subscription
            unsigned long long first_left_out = 0
        if receiver == NULL:
            return None
        subscription = receiver.subscriptions
        while subscription != NULL and name_of(&subscription.channel.named) != channel:
            subscription = subscription.next
        if subscription != NULL:
            first_left_out = subscription.first_left_out
        return (
            subscription != NULL and bool(subscription.is_joined), first_left_out, receiver.pending,
            bool(receiver.congestion & (CONGESTION_BLOCKED | CONGESTION_BEHIND)),
        )

    cdef int forget_names(self) except -1:
        cdef:
            set players = self.traced_players
            set channels = self.traced_channels
            bytes name
        self.traced_players = None
        self.traced_channels = None
        while self.state.tap.n_players:
            self.state.tap.n_players -= 1
            Py_DECREF(<object>self.state.tap.players[self.state.tap.n_players])
        for name in players or ():
            self.mark_player(name, False)
        for name in channels or ():
            self.mark_channel(name, False)
        return 0

    def __dealloc__(self):
        while self.state.tap.n_players:
            self.state.tap.n_players -= 1
            Py_DECREF(<object>self.state.tap.players[self.state.tap.n_players])

    # --- marks ---

    cdef void mark_player(self, bytes player, bint traced) noexcept:
        cdef:
            Player* found = <Player*>find_name(&self.state.routing.players, player)
            Session* session = found.sessions if found != NULL else NULL
        while session != NULL:
            if session.connection != NULL:
                if traced:
                    session.connection.traced |= TRACED_PLAYER
                else:
                    session.connection.traced &= ~TRACED_PLAYER
            session = session.next

    cdef void mark_channel(self, bytes channel, bint traced) noexcept:
        cdef Channel* found = <Channel*>find_name(&self.state.routing.channels, channel)
        if found != NULL:
            found.is_traced = traced

    # --- what the tables' changes tell ---

    cdef int note_attached(self, Connection* connection) except -1:
        cdef TapEvent* event
        if name_of(&connection.session.player.named) not in self.traced_players:
            return 0
        connection.traced |= TRACED_PLAYER
        event = tap_note_of(&self.state.tap, TAP_ATTACHED, connection, NULL)
        if event != NULL:
            event.numbers[0] = connection.session.id
            event.numbers[1] = connection.session.player.n_sessions
        return 0

    cdef int note_joined(self, Subscription* subscription) except -1:
        cdef TapEvent* event
        if not subscription.channel.is_traced and not subscription.connection.traced & TRACED_PLAYER:
            return 0
        event = tap_note_of(&self.state.tap, TAP_JOINED, subscription.connection, subscription.channel)
        if event != NULL:
            event.numbers[0] = subscription.channel.number
            event.numbers[1] = subscription.channel.n_members
            event.numbers[2] = subscription.may_send
        return 0

    cdef int note_channel(self, Channel* channel) except -1:
        channel.is_traced = name_of(&channel.named) in self.traced_channels
        return 0
