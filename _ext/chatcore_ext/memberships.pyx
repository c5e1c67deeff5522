"""Who is here and who is in which channel, for Python; see memberships.pyi."""

from cpython.bytes cimport PyBytes_GET_SIZE

from chatcore_ext.connection cimport connection_handle
from chatcore_ext.constants cimport MAX_CHANNEL_NAME_SIZE, MAX_NAME_SIZE
from chatcore_ext.error_codes cimport ERROR_SESSION_REPLACED
from chatcore_ext.kept_signals cimport forget_signals_from
from chatcore_ext.output cimport output_close
from chatcore_ext.pointer_table cimport table_get
from chatcore_ext.routing cimport (
    channel_get, channel_release, find_name, hide_add, hide_remove, session_free, session_new, subscription_join,
    subscription_new, subscription_to,
)
from chatcore_ext.tables cimport STATE_GREETING, STATE_READY, Channel, Connection, Player, Session, Subscription
from chatcore_ext.timing_wheel cimport wheel_cancel
from chatcore_ext.token_bucket cimport bucket_init
from chatcore_ext.tracing cimport Tracing
from chatcore_ext.turns cimport check_code, data_of, name_of

cdef int check_player_name(bytes player) except -1:
    if not 0 < PyBytes_GET_SIZE(player) <= MAX_NAME_SIZE:
        raise ValueError(f"a player's name has 1 to {<int>MAX_NAME_SIZE} bytes, not {len(player)}")
    return 0


cdef int check_channel_name(bytes channel) except -1:
    if not 0 < PyBytes_GET_SIZE(channel) <= MAX_CHANNEL_NAME_SIZE:
        raise ValueError(f"a channel's name has 1 to {<int>MAX_CHANNEL_NAME_SIZE} bytes, not {len(channel)}")
    return 0


cdef class Memberships(Tracing):

    # --- sessions ---

    def attach(self, unsigned long long connection, unsigned long long session_id, bytes player not None):
        cdef:
            Connection* attached = self.known(connection)
            Connection* older
            Session* session
        check_player_name(player)
        if session_id == 0:
            raise ValueError("0 is no session's id")
        if attached == NULL or attached.state != STATE_GREETING:
            return 0
        session = <Session*>table_get(&self.state.routing.sessions, session_id)
        if session == NULL:
            session = session_new(&self.state.routing, session_id, player)
            # After a restart, or from another server: its readers drop what is far below, so it must be refused here.
            session.highest_seq = self.view.replay.highest_of(session_id)
            if session.player.n_sessions == 1:
                bucket_init(
                    &session.player.frames, self.state.limits.player_frame_burst, <long long>self.state.now_ms
                )
                bucket_init(&session.player.bytes, self.state.limits.player_byte_burst, <long long>self.state.now_ms)
        elif name_of(&session.player.named) != player:
            raise ValueError(f"session {session_id} is not {player.decode(errors='replace')}'s")
        older = session.connection
        if older != NULL:
            output_close(&self.state.output, older, ERROR_SESSION_REPLACED, NULL, 0, 0)
            self.detach(older)
        wheel_cancel(&self.state.wheel, &session.deadline.timer)
        session.connection = attached
        attached.session = session
        attached.state = STATE_READY
        self.state.n_half_open -= 1
        if self.state.tap.is_on:
            self.note_attached(attached)
        return session.player.n_sessions

    def end_session(self, unsigned long long session_id, int code):
        cdef:
            Session* session = <Session*>table_get(&self.state.routing.sessions, session_id)
            Connection* connection
        check_code(code)
        if session == NULL:
            return False
        connection = session.connection
        if connection != NULL:
            output_close(&self.state.output, connection, code, NULL, 0, 0)
            self.detach(connection)
        wheel_cancel(&self.state.wheel, &session.deadline.timer)
        session_free(&self.state.routing, session)
        return True

    def sessions_of(self, bytes player not None):
        cdef:
            Player* found = <Player*>find_name(&self.state.routing.players, player)
            Session* session = found.sessions if found != NULL else NULL
            list sessions = []
        while session != NULL:
            sessions.append((session.id, connection_handle(session.connection) if session.connection != NULL else 0))
            session = session.next
        return sessions

    def session(self, unsigned long long connection):
        cdef Connection* found = self.ready(connection)
        if found == NULL:
            return None
        return found.session.id, name_of(&found.session.player.named)

    def is_online(self, bytes player not None):
        return find_name(&self.state.routing.players, player) != NULL

    def hide(self, bytes player not None, bytes sender not None):
        cdef:
            Player* found = <Player*>find_name(&self.state.routing.players, player)
            Session* session
        if found == NULL:
            return
        hide_add(&self.state.routing, found, sender)
        session = found.sessions
        while session != NULL:
            if session.connection != NULL:
                forget_signals_from(
                    &self.state.output, session.connection, data_of(sender), PyBytes_GET_SIZE(sender)
                )
            session = session.next

    def show(self, bytes player not None, bytes sender not None):
        cdef Player* found = <Player*>find_name(&self.state.routing.players, player)
        if found != NULL:
            hide_remove(&self.state.routing, found, sender)

    # --- channels ---

    cdef Subscription* subscription(self, unsigned long long handle, bytes name) noexcept:
        cdef:
            Connection* connection = self.ready(handle)
            Channel* channel = <Channel*>find_name(&self.state.routing.channels, name)
        if connection == NULL or channel == NULL:
            return NULL
        return subscription_to(&self.state.routing, connection, channel)

    def begin_join(self, unsigned long long connection, bytes channel not None):
        cdef:
            Connection* joining = self.ready(connection)
            Subscription* subscription = self.subscription(connection, channel)
            Channel* joined
        check_channel_name(channel)
        if joining == NULL:
            return 0
        if subscription == NULL:
            if joining.n_subscriptions >= self.state.limits.max_channels_per_connection:
                return 0
            joined = channel_get(&self.state.routing, channel)
            try:
                if self.state.tap.is_on:
                    self.note_channel(joined)
                if joined.n_members + joined.n_pending == 0:
                    self.view.pin_channel(channel)
                subscription = subscription_new(&self.state.routing, joining, joined)
            except BaseException:
                if channel_release(&self.state.routing, joined):
                    self.view.unpin_channel(channel)
                raise
        self.state.routing.generation += 1
        subscription.generation = self.state.routing.generation
        return subscription.generation

    def complete_join(
        self, unsigned long long connection, bytes channel not None, unsigned long long generation, bint may_send
    ):
        cdef Subscription* subscription = self.subscription(connection, channel)
        if subscription == NULL or subscription.generation != generation:
            return 0
        subscription_join(&self.state.routing, subscription)
        subscription.may_send = may_send
        subscription.refusal = 0
        if self.state.tap.is_on:
            self.note_joined(subscription)
        return subscription.channel.number

    def cancel_join(self, unsigned long long connection, bytes channel not None, unsigned long long generation):
        cdef Subscription* subscription = self.subscription(connection, channel)
        if subscription == NULL or subscription.generation != generation or subscription.is_joined:
            return False
        self.drop_subscription(subscription)
        return True

    def leave(self, unsigned long long connection, bytes channel not None):
        cdef:
            Subscription* subscription = self.subscription(connection, channel)
            bint was_joined
        if subscription == NULL:
            return False
        was_joined = subscription.is_joined
        self.drop_subscription(subscription)
        return was_joined

    def remove_player(self, bytes player not None, bytes channel not None):
        cdef:
            list removed = []
            unsigned long long handle
        for _, connection in self.sessions_of(player):
            handle = connection
            if self.leave(handle, channel):
                removed.append(connection)
        return removed

    def set_may_send(self, bytes player not None, bytes channel not None, bint may_send, int code):
        cdef:
            int n_changed = 0
            Subscription* subscription
        check_code(code)
        for _, connection in self.sessions_of(player):
            subscription = self.subscription(connection, channel)
            if subscription != NULL and subscription.is_joined:
                subscription.may_send = may_send
                subscription.refusal = <unsigned short>code
                n_changed += 1
        return n_changed

    def is_joined(self, unsigned long long connection, bytes channel not None):
        cdef Subscription* subscription = self.subscription(connection, channel)
        return subscription != NULL and subscription.is_joined

    def channels_of(self, unsigned long long connection):
        cdef:
            Connection* found = self.ready(connection)
            Subscription* subscription = found.subscriptions if found != NULL else NULL
            list channels = []
        while subscription != NULL:
            if subscription.is_joined:
                channels.append(name_of(&subscription.channel.named))
            subscription = subscription.next
        return channels

    def players_in(self, bytes channel not None, unsigned int limit):
        cdef:
            Channel* found = <Channel*>find_name(&self.state.routing.channels, channel)
            Player* player
            list players = []
            unsigned int i
        if found == NULL:
            return players
        self.state.routing.stamp += 1
        for i in range(found.n_members):
            if <unsigned int>len(players) >= limit:
                break
            if found.members[i].connection.session == NULL:
                continue
            player = found.members[i].connection.session.player
            if player.stamp != self.state.routing.stamp:
                player.stamp = self.state.routing.stamp
                players.append(name_of(&player.named))
        return players

    def subscribers(self, bytes channel not None):
        cdef Channel* found = <Channel*>find_name(&self.state.routing.channels, channel)
        return found.n_members if found != NULL else 0

    def head(self, bytes channel not None):
        if self.direct_channel is not None and channel == self.direct_channel:
            return self.direct_head
        return self.view.head(channel)

    def learn_head(self, bytes channel not None, id, hash, time):
        self.view.learn_head(channel, id, hash, time)
