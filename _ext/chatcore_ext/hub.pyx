"""All connections, sessions and channels of one worker, for Python: ties the compiled parts together; see hub.pyi.

Every table is changed here, with the GIL held, between turns; what runs without the GIL (reactor, inbound, fanout,
output) only reads tables, appends output and marks connections as doomed, and `reap` puts those away at the end of the
turn. So no loop over receivers ever meets a table that changes under it.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport errno
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from chatcore_ext.connection cimport (
    CHUNK_SIZE, connection_at, connection_handle, connection_new, connection_of, connection_release,
    connection_table_free,
)
from chatcore_ext.constants cimport (
    ACK_SIZE, DEFAULT_FRAMES_PER_SECOND, DEFAULT_FRAME_BURST, DEFAULT_HEARTBEAT_GRACE_MS, DEFAULT_HEARTBEAT_MS,
    DEFAULT_HELLO_TIMEOUT_MS, DEFAULT_MAX_CHANNELS_PER_CONNECTION, DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_FRAME_SIZE,
    DEFAULT_MAX_PENDING_SIZE, DEFAULT_RESUME_GRACE_MS, FRAME_EVENT, FRAME_REPLY, FRAME_WELCOME, GOAWAY_SIZE,
    HEADER_SIZE, MAX_BODY_LENGTH, MAX_CHANNEL_NAME_SIZE, MAX_NAME_SIZE, MAX_SIGNAL_BODY_SIZE, RECEIVE_BUFFER_SIZE,
    RECORD_CONTROL, SEND_PREFIX_SIZE, WHEEL_SLOTS, WHEEL_TICK_MS, no_id,
)
from chatcore_ext.counters cimport N_CODES, counters_as_dict
from chatcore_ext.deadlines cimport advance_deadlines, set_deadline, set_grace
from chatcore_ext.delivery cimport deliver_message, direct_players
from chatcore_ext.error_codes cimport ERROR_FLAG_UNCERTAIN, ERROR_OVERLOADED, ERROR_SESSION_REPLACED, error_flags
from chatcore_ext.event_queue cimport (
    KIND_DISCONNECTED, KIND_EXPIRED, KIND_HELLO, KIND_REQUEST, KIND_SEND, queue_free, take_queue,
)
from chatcore_ext.fanout cimport channel_reserve, fan_out
from chatcore_ext.frame cimport SignalFields, store_u32, write_ack, write_goaway, write_header
from chatcore_ext.inbound cimport append_failed, append_refused, relay_signal
from chatcore_ext.invariants cimport check_hub
from chatcore_ext.log_view cimport LogView, Placement
from chatcore_ext.output cimport (
    flush_sockets, output_append, output_close, output_drop, output_end_turn, output_free, output_mark_dirty,
    output_reserve, slices_to_backlog, take_pending,
)
from chatcore_ext.pointer_table cimport table_get
from chatcore_ext.reactor cimport (
    admit, adopt, burst, close_descriptor, listen_on, reactor_close, reactor_open, read_clocks, resume_listening,
    stop_listening, take_input,
)
from chatcore_ext.record cimport read_record
from chatcore_ext.routing cimport (
    channel_get, channel_release, find_name, find_named, hide_add, hide_remove, routing_free, session_free,
    session_new, subscription_free, subscription_join, subscription_new, subscription_to,
)
from chatcore_ext.tables cimport (
    STATE_CLOSING, STATE_FREE, STATE_GREETING, STATE_LOST, STATE_OPEN, STATE_READY, Named, Player, Session,
    Subscription,
)
from chatcore_ext.timing_wheel cimport wheel_cancel, wheel_free, wheel_init

EVENT_HELLO = <int>KIND_HELLO
EVENT_REQUEST = <int>KIND_REQUEST
EVENT_SEND = <int>KIND_SEND
EVENT_DISCONNECTED = <int>KIND_DISCONNECTED
EVENT_EXPIRED = <int>KIND_EXPIRED
Event = tuple[object, ...]

cdef enum:
    # Receivers from which on a fan-out of `deliver` lets other threads run: below, taking the GIL back costs more.
    MIN_UNLOCKED_FANOUT = 512


cdef inline const uint8_t* data_of(bytes data) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(data)


cdef int check_code(int code) except -1:
    if not 0 <= code < N_CODES:
        raise ValueError(f"{code} is no error code")
    return 0


cdef int check_player_name(bytes player) except -1:
    if not 0 < PyBytes_GET_SIZE(player) <= MAX_NAME_SIZE:
        raise ValueError(f"a player's name has 1 to {<int>MAX_NAME_SIZE} bytes, not {len(player)}")
    return 0


cdef bytes name_of(const Named* named):
    return <bytes>named.name


cdef int check_channel_name(bytes channel) except -1:
    if not 0 < PyBytes_GET_SIZE(channel) <= MAX_CHANNEL_NAME_SIZE:
        raise ValueError(f"a channel's name has 1 to {<int>MAX_CHANNEL_NAME_SIZE} bytes, not {len(channel)}")
    return 0


cdef unsigned int limited(object value, str name, unsigned long long smallest) except? 0:
    if not smallest <= value <= 0x7FFFFFFF:
        raise ValueError(f"{name} must be {smallest} to {0x7FFFFFFF}, not {value}")
    return value


@cython.final
cdef class Hub:

    def __cinit__(self, *args, **options):
        self.state.epoll_descriptor = -1
        self.state.output.epoll_descriptor = -1

    def __init__(
        self, LogView view not None, *, on_direct, on_control,
        max_frame_size=DEFAULT_MAX_FRAME_SIZE, max_pending_size=DEFAULT_MAX_PENDING_SIZE,
        max_connections=DEFAULT_MAX_CONNECTIONS, max_channels_per_connection=DEFAULT_MAX_CHANNELS_PER_CONNECTION,
        max_body_size=None, hello_timeout_ms=DEFAULT_HELLO_TIMEOUT_MS,
        heartbeat_timeout_ms=DEFAULT_HEARTBEAT_MS + DEFAULT_HEARTBEAT_GRACE_MS,
        frames_per_second=DEFAULT_FRAMES_PER_SECOND, frame_burst=DEFAULT_FRAME_BURST,
        resume_grace_ms=DEFAULT_RESUME_GRACE_MS,
    ):
        cdef HubState* state = &self.state
        if state.receive_buffer != NULL:
            raise RuntimeError("a hub is initialised once")
        state.limits.max_frame_size = limited(max_frame_size, "max_frame_size", SEND_PREFIX_SIZE)
        state.limits.max_body_size = state.limits.max_frame_size - SEND_PREFIX_SIZE
        if max_body_size is not None:
            state.limits.max_body_size = min(limited(max_body_size, "max_body_size", 0), state.limits.max_body_size)
        state.limits.max_connections = limited(max_connections, "max_connections", 1)
        state.limits.max_channels_per_connection = limited(
            max_channels_per_connection, "max_channels_per_connection", 1
        )
        state.limits.hello_timeout_ms = limited(hello_timeout_ms, "hello_timeout_ms", 1)
        state.limits.heartbeat_timeout_ms = limited(heartbeat_timeout_ms, "heartbeat_timeout_ms", 1)
        state.limits.frames_per_second = limited(frames_per_second, "frames_per_second", 1)
        state.limits.frame_burst = limited(frame_burst, "frame_burst", 1)
        state.limits.resume_grace_ms = limited(resume_grace_ms, "resume_grace_ms", 0)
        state.output.max_pending = limited(max_pending_size, "max_pending_size", 1)
        state.output.counters = &state.counters
        state.output.turn = 1
        self.view = view
        self.on_direct = on_direct
        self.on_control = on_control
        self.events = []
        self.receive_memory = bytearray(RECEIVE_BUFFER_SIZE)
        self.receive_view = memoryview(self.receive_memory)
        read_clocks(state)
        wheel_init(&state.wheel, WHEEL_SLOTS, WHEEL_TICK_MS, state.now_ms)
        if reactor_open(state) < 0:
            raise OSError(errno, "epoll_create1")
        state.receive_buffer = <uint8_t*>PyByteArray_AS_STRING(self.receive_memory)

    def __dealloc__(self):
        cdef unsigned int i
        for i in range(self.state.connections.n_chunks * CHUNK_SIZE):
            if connection_at(&self.state.connections, i).state != STATE_FREE:
                self.let_go(connection_at(&self.state.connections, i))
        routing_free(&self.state.routing)
        connection_table_free(&self.state.connections)
        queue_free(&self.state.events)
        output_free(&self.state.output)
        wheel_free(&self.state.wheel)
        reactor_close(&self.state)

    # --- turns ---

    def fileno(self):
        return self.state.epoll_descriptor

    def listen(self, int descriptor):
        cdef int error = listen_on(&self.state, descriptor)
        if error:
            raise OSError(error, f"descriptor {descriptor} cannot be listened on")

    def adopt(self, int descriptor):
        cdef:
            Connection* connection
            int error = 0
        read_clocks(&self.state)
        connection = adopt(&self.state, descriptor, &error)
        if connection == NULL:
            raise OSError(error, f"descriptor {descriptor} cannot be taken over")
        return connection_handle(connection)

    def stop_accepting(self):
        stop_listening(&self.state)

    def run_burst(self):
        self.state.counters.bursts += 1
        read_clocks(&self.state)
        with nogil:
            burst(&self.state)
        take_queue(&self.state.events, self.events)
        self.finish_turn()
        return self.taken_events()

    def tick(self):
        read_clocks(&self.state)
        resume_listening(&self.state)
        advance_deadlines(&self.state)
        self.expire_sessions()
        self.flush_all()
        return self.taken_events()

    def take_events(self):
        return self.taken_events()

    cdef list taken_events(self):
        cdef list events = self.events
        self.events = []
        return events

    def flush(self):
        self.flush_all()

    cdef int flush_all(self) except -1:
        with nogil:
            flush_sockets(&self.state.output)
        self.finish_turn()
        return 0

    # The sockets are flushed: now what needs the GIL.
    cdef int finish_turn(self) except -1:
        cdef Connection* connection
        while self.state.output.transports != NULL:
            connection = self.state.output.transports
            self.state.output.transports = connection.next_dirty
            connection.is_dirty = False
            self.flush_transport(connection)
        output_end_turn(&self.state.output)
        self.reap()
        return 0

    @property
    def dirty(self):
        return self.state.output.dirty != NULL or self.state.output.doomed != NULL

    @property
    def pending_output(self):
        cdef:
            size_t pending = 0
            Connection* connection
            unsigned int i
        for i in range(self.state.connections.n_chunks * CHUNK_SIZE):
            connection = connection_at(&self.state.connections, i)
            if connection.state != STATE_FREE and connection.state != STATE_LOST:
                pending += connection.pending
        return pending

    def close(self):
        cdef unsigned int i
        stop_listening(&self.state)
        for i in range(self.state.connections.n_chunks * CHUNK_SIZE):
            output_drop(&self.state.output, connection_at(&self.state.connections, i), 0)
        self.flush_all()
        self.events = []
        reactor_close(&self.state)

    def advance_clock(self, unsigned int milliseconds):
        self.state.clock_shift_ms += milliseconds

    # --- the end of connections and sessions ---

    cdef Connection* known(self, unsigned long long handle) noexcept:
        cdef Connection* connection = connection_of(&self.state.connections, handle)
        return connection if connection != NULL and connection.state < STATE_CLOSING else NULL

    cdef Connection* ready(self, unsigned long long handle) noexcept:
        cdef Connection* connection = connection_of(&self.state.connections, handle)
        return connection if connection != NULL and connection.state == STATE_READY else NULL

    cdef int drop_subscription(self, Subscription* subscription) except -1:
        cdef bytes name = name_of(&subscription.channel.named)
        if subscription_free(&self.state.routing, subscription):
            self.view.unpin_channel(name)
        return 0

    # Out of all tables, and told; only its bytes may still be on their way.
    cdef int detach(self, Connection* connection) except -1:
        cdef:
            Session* session = connection.session
            unsigned long long session_id = 0
            bytes player = b""
            list channels = []
            Subscription* subscription
        if connection.is_detached:
            return 0
        connection.is_detached = True
        self.state.n_open -= 1
        self.state.counters.closed[connection.close_code] += 1
        while connection.subscriptions != NULL:
            subscription = connection.subscriptions
            if subscription.is_joined:
                channels.append(name_of(&subscription.channel.named))
            self.drop_subscription(subscription)
        if session != NULL:
            session_id = session.id
            player = name_of(&session.player.named)
            session.connection = NULL
            connection.session = NULL
            set_grace(&self.state, session)
        if connection.was_greeted:
            self.events.append((
                <int>KIND_DISCONNECTED, connection_handle(connection), session_id, player, connection.close_code,
                channels,
            ))
        return 0

    # The descriptor or transport and the slot are free again; in no list any more.
    cdef int put_away(self, Connection* connection) except -1:
        wheel_cancel(&self.state.wheel, &connection.deadline.timer)
        self.let_go(connection)
        connection_release(&self.state.connections, connection)
        return 0

    cdef int let_go(self, Connection* connection) except -1:
        cdef object transport
        close_descriptor(connection)
        if connection.transport != NULL:
            transport = <object>connection.transport
            Py_DECREF(transport)
            connection.transport = NULL
            try:
                transport.abort()
            except Exception:
                pass  # it is somebody else's, and we are through with it
        return 0

    # Puts the doomed away: at the end of a turn, when no list holds them.
    cdef int reap(self) except -1:
        cdef Connection* connection
        while self.state.output.doomed != NULL:
            connection = self.state.output.doomed
            self.state.output.doomed = connection.next_doomed
            connection.is_doomed = False
            self.detach(connection)
            if connection.state == STATE_LOST:
                self.put_away(connection)
            else:
                set_deadline(&self.state, connection)
        return 0

    cdef int expire_sessions(self) except -1:
        cdef:
            Session* session
            Player* player
        while self.state.expired != NULL:
            session = self.state.expired
            self.state.expired = session.next_expired
            player = session.player
            self.state.counters.sessions_expired += 1
            self.events.append((
                <int>KIND_EXPIRED, session.id, name_of(&player.named), player.n_sessions - 1,
            ))
            session_free(&self.state.routing, session)
        return 0

    def close_connection(self, unsigned long long connection, int code, bytes message not None = b"",
                         unsigned int retry_after_ms=0):
        cdef Connection* closing = self.known(connection)
        check_code(code)
        if closing == NULL:
            return False
        output_close(
            &self.state.output, closing, code, data_of(message), PyBytes_GET_SIZE(message), retry_after_ms
        )
        self.detach(closing)
        return True

    def close_connections(self, int code):
        cdef:
            Connection* connection
            int n_closed = 0
            unsigned int i
        check_code(code)
        for i in range(self.state.connections.n_chunks * CHUNK_SIZE):
            connection = connection_at(&self.state.connections, i)
            if connection.state != STATE_FREE and connection.state < STATE_CLOSING:
                output_close(&self.state.output, connection, code, NULL, 0, 0)
                self.detach(connection)
                n_closed += 1
        return n_closed

    # --- connections on a transport ---

    def open_transport(self, transport not None):
        cdef Connection* connection = connection_new(&self.state.connections)
        if connection == NULL:
            raise MemoryError
        read_clocks(&self.state)
        Py_INCREF(transport)
        connection.transport = <PyObject*>transport
        admit(&self.state, connection)
        return connection_handle(connection) if connection.state == STATE_OPEN else 0

    def receive(self, unsigned long long connection, data not None):
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.take_bytes(connection, <const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef int take_bytes(self, unsigned long long handle, const uint8_t* data, size_t size) except -1:
        cdef Connection* connection = self.known(handle)
        if connection == NULL:
            return 0
        read_clocks(&self.state)
        with nogil:
            take_input(&self.state, connection, data, size)
        return take_queue(&self.state.events, self.events)

    def close_transport(self, unsigned long long connection):
        cdef Connection* lost = connection_of(&self.state.connections, connection)
        cdef object transport
        if lost == NULL or lost.transport == NULL:
            return
        transport = <object>lost.transport
        Py_DECREF(transport)
        lost.transport = NULL
        output_drop(&self.state.output, lost, 0)
        self.detach(lost)

    def set_writable(self, unsigned long long connection, bint writable):
        cdef Connection* paused = connection_of(&self.state.connections, connection)
        if paused == NULL:
            return
        paused.is_blocked = not writable
        if writable and paused.pending:
            output_mark_dirty(&self.state.output, paused)

    cdef int flush_transport(self, Connection* connection) except -1:
        cdef:
            object transport
            bytes pending
        if connection.state == STATE_LOST or connection.transport == NULL:
            return 0
        if connection.is_blocked and connection.state != STATE_CLOSING:
            if slices_to_backlog(connection) < 0:
                output_drop(&self.state.output, connection, ERROR_OVERLOADED)
            return 0
        transport = <object>connection.transport
        pending = take_pending(connection)
        try:
            if pending:
                self.state.counters.send_calls += 1
                self.state.counters.bytes_sent += len(pending)
                transport.write(pending)
            if connection.state == STATE_CLOSING and connection.transport != NULL:
                # It writes out what it holds by itself; nothing more is to be done for it here.
                Py_DECREF(transport)
                connection.transport = NULL
                connection.state = STATE_LOST
                transport.close()
        except Exception:
            output_drop(&self.state.output, connection, 0)
        return 0

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
        elif name_of(&session.player.named) != player:
            raise ValueError(f"session {session_id} is not {player.decode(errors='replace')}'s")
        older = session.connection
        if older != NULL:
            output_drop(&self.state.output, older, ERROR_SESSION_REPLACED)
            self.detach(older)
        wheel_cancel(&self.state.wheel, &session.deadline.timer)
        session.connection = attached
        attached.session = session
        attached.state = STATE_READY
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
        cdef Player* found = <Player*>find_name(&self.state.routing.players, player)
        if found != NULL:
            hide_add(&self.state.routing, found, sender)

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

    # --- the log's records ---

    def deliver(self, unsigned int partition, records not None):
        cdef object failure = None
        for offset, time, channel, record in records:
            try:
                self.deliver_record(partition, offset, time, channel, record)
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    cdef int deliver_record(
        self, unsigned int partition, unsigned long long offset, unsigned long long time, bytes channel, bytes record
    ) except -1:
        cdef:
            Placement place
            Channel* found
            list strangers
            object head
        self.state.counters.records += 1
        if offset == no_id() or read_record(data_of(record), PyBytes_GET_SIZE(record), &place.record) < 0:
            self.state.counters.records_malformed += 1
            return 0
        if place.record.kind == RECORD_CONTROL:
            self.on_control(
                channel, offset, time, PyBytes_FromStringAndSize(<char*>place.record.body, place.record.body_len)
            )
            return 0
        strangers = self.strangers_to(channel)
        head = self.view.head(channel) if strangers else None
        self.view.place_fields(partition, offset, time, channel, &place)
        if not place.first:
            self.state.counters.records_repeated += 1
            return 0
        if strangers:
            self.introduce(channel, strangers, head)
        found = <Channel*>find_name(&self.state.routing.channels, channel)
        if found == NULL:
            return 0
        if found.n_members >= MIN_UNLOCKED_FANOUT:
            with nogil:
                deliver_message(&self.state, found, offset, time, &place)
        else:
            deliver_message(&self.state, found, offset, time, &place)
        return 0

    # The connections of a private chat's players that know nothing of it yet. None: it is another kind of channel.
    cdef list strangers_to(self, bytes channel):
        cdef:
            const uint8_t* first
            const uint8_t* second
            size_t first_size, second_size
            Channel* found
            list strangers
        if self.state.routing.players.n_entries == 0 or not direct_players(
            data_of(channel), PyBytes_GET_SIZE(channel), &first, &first_size, &second, &second_size
        ):
            return None
        found = <Channel*>find_name(&self.state.routing.channels, channel)
        strangers = []
        self.add_strangers(found, first, first_size, strangers)
        self.add_strangers(found, second, second_size, strangers)
        return strangers

    cdef int add_strangers(self, Channel* channel, const uint8_t* name, size_t size, list strangers) except -1:
        cdef:
            Player* player = <Player*>find_named(&self.state.routing.players, name, size)
            Session* session = player.sessions if player != NULL else NULL
            Connection* connection
        while session != NULL:
            connection = session.connection
            session = session.next
            # One that is about to join will hear the head in its answer.
            if connection != NULL and connection.state == STATE_READY and (
                channel == NULL or subscription_to(&self.state.routing, connection, channel) == NULL
            ):
                strangers.append(connection_handle(connection))
        return 0

    cdef int introduce(self, bytes channel, list strangers, object head) except -1:
        self.direct_channel = channel
        self.direct_head = head
        try:
            self.on_direct(channel, strangers)
        finally:
            self.direct_channel = None
            self.direct_head = None
        return 0

    # --- output ---

    def ack(self, acks not None):
        cdef:
            Connection* acknowledged
            uint8_t* frame
            unsigned long long handle
        for connection, seq, id, time in acks:
            handle = connection
            acknowledged = self.ready(handle)
            if acknowledged == NULL:
                continue
            frame = output_reserve(&self.state.output, HEADER_SIZE + ACK_SIZE)
            if frame == NULL:
                raise MemoryError
            write_ack(frame, seq, id, time)
            output_append(&self.state.output, acknowledged, frame, HEADER_SIZE + ACK_SIZE)
            self.state.counters.acks += 1

    def refuse(
        self, unsigned long long connection, unsigned long long seq, int code, unsigned int retry_after_ms=0,
        bint uncertain=False
    ):
        cdef:
            Connection* refused = self.ready(connection)
            int flags = error_flags(code)
        check_code(code)
        if refused == NULL:
            return False
        if uncertain:
            flags |= ERROR_FLAG_UNCERTAIN
        append_refused(&self.state, refused, seq, code, flags, retry_after_ms)
        return True

    # The frame's body is `number` as u32, unless None, and `body`.
    cdef bint append_frame(self, Connection* connection, int type, object number, bytes body) except -1:
        cdef:
            size_t number_size = 0 if number is None else 4
            size_t size = number_size + PyBytes_GET_SIZE(body)
            uint8_t* frame
        if size > MAX_BODY_LENGTH:
            raise ValueError(f"a body of {size} bytes does not fit into a frame")
        if connection == NULL:
            return False
        frame = output_reserve(&self.state.output, HEADER_SIZE + size)
        if frame == NULL:
            raise MemoryError
        write_header(frame, type, <unsigned int>size)
        if number_size:
            store_u32(frame + HEADER_SIZE, number)
        memcpy(frame + HEADER_SIZE + number_size, data_of(body), size - number_size)
        output_append(&self.state.output, connection, frame, HEADER_SIZE + size)
        return True

    def welcome(self, unsigned long long connection, bytes body not None):
        return self.append_frame(self.ready(connection), FRAME_WELCOME, None, body)

    def reply(self, unsigned long long connection, unsigned int request_id, bytes body not None):
        return self.append_frame(self.ready(connection), FRAME_REPLY, request_id, body)

    def event(self, unsigned long long connection, bytes body not None):
        return self.append_frame(self.ready(connection), FRAME_EVENT, None, body)

    def fail(
        self, unsigned long long connection, unsigned int request_id, int code, bytes message not None=b"",
        unsigned int retry_after_ms=0
    ):
        cdef Connection* failed = self.ready(connection)
        check_code(code)
        if failed == NULL:
            return False
        append_failed(
            &self.state, failed, request_id, code, data_of(message), PyBytes_GET_SIZE(message), retry_after_ms
        )
        return True

    def event_to_player(self, bytes player not None, bytes body not None):
        cdef:
            Player* found = <Player*>find_name(&self.state.routing.players, player)
            Session* session = found.sessions if found != NULL else NULL
            int n_receivers = 0
        while session != NULL:
            if session.connection != NULL and session.connection.state == STATE_READY:
                n_receivers += self.append_frame(session.connection, FRAME_EVENT, None, body)
            session = session.next
        return n_receivers

    def event_to_channel(self, bytes channel not None, bytes body not None, unsigned long long except_connection=0):
        cdef:
            Channel* found = <Channel*>find_name(&self.state.routing.channels, channel)
            size_t size = HEADER_SIZE + PyBytes_GET_SIZE(body)
            uint8_t* frame
        if size - HEADER_SIZE > MAX_BODY_LENGTH:
            raise ValueError(f"a body of {size - HEADER_SIZE} bytes does not fit into a frame")
        if found == NULL or found.n_members == 0:
            return 0
        frame = channel_reserve(&self.state.output, found, size)
        if frame == NULL:
            raise MemoryError
        write_header(frame, FRAME_EVENT, <unsigned int>(size - HEADER_SIZE))
        memcpy(frame + HEADER_SIZE, data_of(body), size - HEADER_SIZE)
        return fan_out(&self.state.output, found, frame, size, self.ready(except_connection), 0)

    def signal(self, bytes channel not None, unsigned char kind, bytes sender not None, bytes body not None):
        cdef:
            Channel* found = <Channel*>find_name(&self.state.routing.channels, channel)
            SignalFields fields
        if len(sender) > MAX_NAME_SIZE or len(body) > MAX_SIGNAL_BODY_SIZE:
            raise ValueError("a signal's sender or body is too long")
        if found == NULL:
            return 0
        fields.kind = kind
        fields.sender = data_of(sender)
        fields.sender_len = <uint8_t>PyBytes_GET_SIZE(sender)
        fields.body = data_of(body)
        fields.body_len = <unsigned int>PyBytes_GET_SIZE(body)
        return relay_signal(&self.state, found, &fields, NULL)

    def goaway(self, unsigned int deadline_ms, unsigned int reconnect_window_ms):
        cdef:
            Connection* connection
            uint8_t* frame = output_reserve(&self.state.output, HEADER_SIZE + GOAWAY_SIZE)
            unsigned int i
        if frame == NULL:
            raise MemoryError
        write_goaway(frame, deadline_ms, reconnect_window_ms)
        for i in range(self.state.connections.n_chunks * CHUNK_SIZE):
            connection = connection_at(&self.state.connections, i)
            if connection.state == STATE_READY:
                output_append(&self.state.output, connection, frame, HEADER_SIZE + GOAWAY_SIZE)

    # --- figures ---

    def counters(self):
        cdef dict result = counters_as_dict(&self.state.counters)
        result["connections"] = self.state.n_open
        result["sessions"] = self.state.routing.sessions.n_entries
        result["players"] = self.state.routing.players.n_entries
        result["channels"] = self.state.routing.channels.n_entries
        result["subscriptions"] = self.state.routing.n_joined
        return result

    def check_invariants(self):
        check_hub(&self.state)
