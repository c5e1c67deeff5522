"""The connections of one worker, and the turn that moves bytes between them; see turns.pyi.

Every table is changed with the GIL held, between turns; what runs without the GIL (reactor, inbound, fanout, output)
only reads tables, appends output and marks connections as doomed, and `reap` puts those away at the end of the turn. So
no loop over receivers ever meets a table that changes under it.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport errno
from libc.stdint cimport uint8_t

from chatcore_ext.addresses cimport (
    NO_ADDRESS, address_find, address_leave, addresses_free, key_of_text, set_networks, text_of_key,
)
from chatcore_ext.backlog cimport backlog_free, slices_to_backlog
from chatcore_ext.connection cimport (
    CHUNK_SIZE, connection_at, connection_handle, connection_new, connection_of, connection_release,
    connection_table_free,
)
from chatcore_ext.constants cimport (
    BYTES_PER_FRAME, DEFAULT_ACCEPTS_PER_SECOND, DEFAULT_ACCEPT_BURST, DEFAULT_FLUSH_WINDOW_RATE,
    DEFAULT_FRAMES_PER_SECOND, DEFAULT_FRAME_BURST, DEFAULT_HEARTBEAT_GRACE_MS, DEFAULT_HEARTBEAT_MS,
    DEFAULT_HELLO_TIMEOUT_MS, DEFAULT_MAX_CHANNELS_PER_CONNECTION, DEFAULT_MAX_CLOSING, DEFAULT_MAX_CONNECTIONS,
    DEFAULT_MAX_CONNECTIONS_PER_ADDRESS, DEFAULT_MAX_FRAME_SIZE, DEFAULT_MAX_HALF_OPEN, DEFAULT_MAX_PENDING_SIZE,
    DEFAULT_MAX_TOTAL_PENDING_SIZE, DEFAULT_RESUME_GRACE_MS, EXCESS_FACTOR, HEADER_SIZE, RECEIVE_BUFFER_SIZE,
    SEND_PREFIX_SIZE, WHEEL_SLOTS, WHEEL_TICK_MS,
)
from chatcore_ext.counters cimport N_CODES
from chatcore_ext.deadlines cimport advance_deadlines, set_deadline, set_grace
from chatcore_ext.error_codes cimport ERROR_OVERLOADED
from chatcore_ext.event_queue cimport KIND_DISCONNECTED, KIND_EXPIRED, queue_free, take_queue
from chatcore_ext.flush_window cimport window_close, window_is_due, window_timer_fired
from chatcore_ext.half_open cimport half_open_free
from chatcore_ext.hub_state cimport Limits
from chatcore_ext.kept_signals cimport forget_signals, forget_signals_in
from chatcore_ext.log_view cimport LogView
from chatcore_ext.output cimport (
    Output, catch_up, count_send_call, flush_sockets, output_close, output_drop, output_end_turn, output_free,
    output_hurry, output_mark_dirty, take_pending,
)
from chatcore_ext.reactor cimport (
    Entry, admit, adopt, burst, close_descriptor, entry_for, forget_addresses, is_out_of_room, is_overrun, listen_on,
    reactor_close, reactor_open, reactor_open_window, read_clocks, resume_listening, stop_listening, take_input,
)
from chatcore_ext.routing cimport routing_free, session_free, subscription_free
from chatcore_ext.send_times cimport measure_noted
from chatcore_ext.tables cimport (
    CONGESTION_BLOCKED, STATE_CLOSING, STATE_FREE, STATE_LINGERING, STATE_LOST, STATE_READY, Player, Session,
    Subscription,
)
from chatcore_ext.tap cimport TAP_DETACHED, TAP_LEFT, TRACED_PLAYER, Tap, TapEvent, tap_close, tap_note_of
from chatcore_ext.timing_wheel cimport wheel_cancel, wheel_free, wheel_init
from chatcore_ext.token_bucket cimport MAX_BURST

Event = tuple[object, ...]


cdef unsigned int limited(object value, str name, unsigned long long smallest) except? 0:
    if not smallest <= value <= 0x7FFFFFFF:
        raise ValueError(f"{name} must be {smallest} to {0x7FFFFFFF}, not {value}")
    return value


cdef unsigned int burst_of(object value, str name) except? 0:
    if not 1 <= value <= MAX_BURST:
        raise ValueError(f"{name} must be 1 to {<int>MAX_BURST}, not {value}")
    return value


cdef int check_code(int code) except -1:
    if not 0 <= code < N_CODES:
        raise ValueError(f"{code} is no error code")
    return 0


cdef void note_detached(Tap* tap, const Connection* connection) noexcept:
    cdef TapEvent* event
    if not connection.traced & TRACED_PLAYER:
        return
    event = tap_note_of(tap, TAP_DETACHED, connection, NULL)
    if event != NULL:
        event.numbers[0] = connection.session.id if connection.session != NULL else 0
        event.numbers[1] = connection.close_code


# What a receiver may have unsent before its channels pause; None: half of all that it may have.
cdef unsigned int pause_of(object value, unsigned int max_pending) except? 0:
    if value is None:
        return max_pending // 2
    return min(limited(value, "pause_pending_size", 1), max_pending)


cdef int limit_frames(Limits* limits, frames_per_second, frame_burst) except -1:
    limits.frames_per_second = limited(frames_per_second, "frames_per_second", 1)
    limits.frame_burst = burst_of(frame_burst, "frame_burst")
    limits.excess_per_second = <unsigned int>min(int(frames_per_second) * EXCESS_FACTOR, 0x7FFFFFFF)
    limits.excess_burst = <unsigned int>min(int(frame_burst) * EXCESS_FACTOR, MAX_BURST)
    return 0


cdef int limit_addresses(Limits* limits, connections, accepts_per_second, accept_burst) except -1:
    limits.max_connections_per_address = limited(connections, "max_connections_per_address", 1)
    limits.accepts_per_second = limited(accepts_per_second, "accepts_per_second", 1)
    limits.accept_burst = burst_of(accept_burst, "accept_burst")
    return 0


# What is None follows from the limits before it.
cdef int limit_players(Limits* limits, frames_per_second, frame_burst, bytes_per_second, byte_burst) except -1:
    if frames_per_second is None:
        frames_per_second = int(limits.frames_per_second)
    if frame_burst is None:
        frame_burst = int(limits.frame_burst)
    if bytes_per_second is None:
        bytes_per_second = min(frames_per_second * BYTES_PER_FRAME, 0x7FFFFFFF)
    if byte_burst is None:
        byte_burst = min(frame_burst * BYTES_PER_FRAME, MAX_BURST)
    limits.player_frames_per_second = limited(frames_per_second, "player_frames_per_second", 1)
    limits.player_frame_burst = burst_of(frame_burst, "player_frame_burst")
    limits.player_bytes_per_second = limited(bytes_per_second, "player_bytes_per_second", 1)
    # The largest frame has to get through some time.
    limits.player_byte_burst = max(
        burst_of(byte_burst, "player_byte_burst"), min(limits.max_frame_size + HEADER_SIZE, <unsigned int>MAX_BURST)
    )
    return 0


cdef class Turns:

    def __cinit__(self, *args, **options):
        self.state.epoll_descriptor = -1
        self.state.output.epoll_descriptor = -1
        self.state.output.window.descriptor = -1

    def __init__(
        self, LogView view not None, *, on_direct, on_control, flush_window_us=0,
        flush_window_rate=DEFAULT_FLUSH_WINDOW_RATE, **limits
    ):
        cdef HubState* state = &self.state
        if state.receive_buffer != NULL:
            raise RuntimeError("a hub is initialised once")
        self.set_limits(**limits)
        state.output.counters = &state.counters
        state.output.tap = &state.tap
        state.output.turn = 1
        self.view = view
        self.on_direct = on_direct
        self.on_control = on_control
        self.events = []
        self.receive_memory = bytearray(RECEIVE_BUFFER_SIZE)
        self.receive_view = memoryview(self.receive_memory)
        read_clocks(state)
        wheel_init(&state.wheel, WHEEL_SLOTS, WHEEL_TICK_MS, state.now_ms)
        flush_window_us = limited(flush_window_us, "flush_window_us", 0)
        flush_window_rate = limited(flush_window_rate, "flush_window_rate", 1)
        if flush_window_us > 1000000:
            raise ValueError(f"flush_window_us must be at most a second, not {flush_window_us}")
        if reactor_open(state) < 0:
            raise OSError(errno, "epoll_create1")
        if reactor_open_window(state, flush_window_us, flush_window_rate) < 0:
            raise OSError(errno, "timerfd_create")
        state.receive_buffer = <uint8_t*>PyByteArray_AS_STRING(self.receive_memory)

    # Everything is checked before anything changes.
    def set_limits(
        self, *,
        max_frame_size=DEFAULT_MAX_FRAME_SIZE, max_pending_size=DEFAULT_MAX_PENDING_SIZE, pause_pending_size=None,
        max_total_pending_size=DEFAULT_MAX_TOTAL_PENDING_SIZE,
        max_connections=DEFAULT_MAX_CONNECTIONS, max_channels_per_connection=DEFAULT_MAX_CHANNELS_PER_CONNECTION,
        max_body_size=None, hello_timeout_ms=DEFAULT_HELLO_TIMEOUT_MS,
        heartbeat_timeout_ms=DEFAULT_HEARTBEAT_MS + DEFAULT_HEARTBEAT_GRACE_MS,
        frames_per_second=DEFAULT_FRAMES_PER_SECOND, frame_burst=DEFAULT_FRAME_BURST,
        resume_grace_ms=DEFAULT_RESUME_GRACE_MS, max_half_open=DEFAULT_MAX_HALF_OPEN, max_closing=DEFAULT_MAX_CLOSING,
        max_connections_per_address=DEFAULT_MAX_CONNECTIONS_PER_ADDRESS,
        accepts_per_second=DEFAULT_ACCEPTS_PER_SECOND, accept_burst=DEFAULT_ACCEPT_BURST, unlimited_addresses=(),
        player_frames_per_second=None, player_frame_burst=None, player_bytes_per_second=None, player_byte_burst=None,
    ):
        cdef:
            HubState* state = &self.state
            Limits limits = self.state.limits
            unsigned int max_pending, pause_pending
        limits.max_frame_size = limited(max_frame_size, "max_frame_size", SEND_PREFIX_SIZE)
        limits.max_body_size = limits.max_frame_size - SEND_PREFIX_SIZE
        if max_body_size is not None:
            limits.max_body_size = min(limited(max_body_size, "max_body_size", 0), limits.max_body_size)
        limits.max_connections = limited(max_connections, "max_connections", 1)
        limits.max_channels_per_connection = limited(max_channels_per_connection, "max_channels_per_connection", 1)
        limits.hello_timeout_ms = limited(hello_timeout_ms, "hello_timeout_ms", 1)
        limits.heartbeat_timeout_ms = limited(heartbeat_timeout_ms, "heartbeat_timeout_ms", 1)
        limits.max_half_open = limited(max_half_open, "max_half_open", 1)
        limits.max_closing = limited(max_closing, "max_closing", 1)
        limit_frames(&limits, frames_per_second, frame_burst)
        limit_addresses(&limits, max_connections_per_address, accepts_per_second, accept_burst)
        limit_players(
            &limits, player_frames_per_second, player_frame_burst, player_bytes_per_second, player_byte_burst
        )
        limits.resume_grace_ms = limited(resume_grace_ms, "resume_grace_ms", 0)
        max_pending = limited(max_pending_size, "max_pending_size", 1)
        pause_pending = pause_of(pause_pending_size, max_pending)
        if max_total_pending_size < 1:
            raise ValueError(f"max_total_pending_size must be at least 1, not {max_total_pending_size}")
        set_networks(&state.addresses, unlimited_addresses)
        state.limits = limits
        state.most_channels = max(state.most_channels, limits.max_channels_per_connection)
        state.output.max_pending = max_pending
        state.output.pause_pending = pause_pending
        state.output.max_total_pending = max_total_pending_size

    def __dealloc__(self):
        cdef unsigned int i
        for i in range(self.state.connections.n_chunks * CHUNK_SIZE):
            if connection_at(&self.state.connections, i).state != STATE_FREE:
                self.let_go(connection_at(&self.state.connections, i))
        routing_free(&self.state.routing)
        connection_table_free(&self.state.connections)
        addresses_free(&self.state.addresses)
        half_open_free(&self.state.half_open)
        queue_free(&self.state.events)
        output_free(&self.state.output)
        wheel_free(&self.state.wheel)
        window_close(&self.state.output)
        tap_close(&self.state.tap)
        reactor_close(&self.state)

    # --- turns ---

    def fileno(self):
        return self.state.epoll_descriptor

    def listen(self, int descriptor):
        cdef int error = listen_on(&self.state, descriptor)
        if error:
            raise OSError(error, f"descriptor {descriptor} cannot be listened on")

    # One more connection tries to come from there; "": nobody knows from where.
    cdef Entry entry_from(self, str address) except *:
        cdef unsigned int slot = NO_ADDRESS
        cdef unsigned long long key
        read_clocks(&self.state)
        if address:
            key = key_of_text(address)
            slot = address_find(&self.state.addresses, key, self.state.limits.accept_burst, self.state.now_ms)
        return entry_for(&self.state, slot)

    def adopt(self, int descriptor, str address not None=""):
        cdef:
            Connection* connection
            Entry entry = self.entry_from(address)
            int error = 0
        connection = adopt(&self.state, descriptor, &entry, &error)
        if connection == NULL:
            raise OSError(error, f"descriptor {descriptor} cannot be taken over")
        return connection_handle(connection)

    def address(self, unsigned long long connection):
        cdef Connection* found = connection_of(&self.state.connections, connection)
        if found == NULL or found.address == NO_ADDRESS:
            return ""
        return text_of_key(self.state.addresses.slots[found.address].key)

    def limited_address(self, unsigned long long connection):
        cdef Connection* found = connection_of(&self.state.connections, connection)
        if found == NULL or found.address == NO_ADDRESS or self.state.addresses.slots[found.address].is_unlimited:
            return None
        return self.state.addresses.slots[found.address].key

    @property
    def accept_pauses(self):
        return self.state.counters.accept_pauses

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
        forget_addresses(&self.state)
        window_timer_fired(&self.state.output)
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
        if self.state.output.window.length:
            read_clocks(&self.state)
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
            self.flush_transport(connection)
        if self.state.output.window.held == NULL:
            measure_noted(&self.state.send_times)
        output_end_turn(&self.state.output)
        self.reap()
        return 0

    @property
    def dirty(self):
        cdef const Output* output = &self.state.output
        return output.dirty != NULL or output.doomed != NULL or window_is_due(output)

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

    def pending(self, unsigned long long connection):
        cdef Connection* found = self.known(connection)
        return found.pending if found != NULL else 0

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

    def shift_wall_clock(self, long long milliseconds):
        self.state.wall_shift_ms += milliseconds

    # --- the end of connections and sessions ---

    cdef Connection* known(self, unsigned long long handle) noexcept:
        cdef Connection* connection = connection_of(&self.state.connections, handle)
        return connection if connection != NULL and connection.state < STATE_CLOSING else NULL

    cdef Connection* ready(self, unsigned long long handle) noexcept:
        cdef Connection* connection = connection_of(&self.state.connections, handle)
        return connection if connection != NULL and connection.state == STATE_READY else NULL

    cdef int drop_subscription(self, Subscription* subscription) except -1:
        cdef bytes name = name_of(&subscription.channel.named)
        if self.state.tap.is_on and subscription.is_joined:
            if subscription.channel.is_traced or subscription.connection.traced & TRACED_PLAYER:
                tap_note_of(&self.state.tap, TAP_LEFT, subscription.connection, subscription.channel)
        forget_signals_in(&self.state.output, subscription.connection, subscription.channel.number)
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
        forget_signals(&self.state.output, connection)
        self.state.n_open -= 1
        if session == NULL:
            self.state.n_half_open -= 1
        self.state.counters.closed[connection.close_code] += 1
        while connection.subscriptions != NULL:
            subscription = connection.subscriptions
            if subscription.is_joined:
                channels.append(name_of(&subscription.channel.named))
            self.drop_subscription(subscription)
        if self.state.tap.is_on:
            note_detached(&self.state.tap, connection)
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
        address_leave(&self.state.addresses, connection.address, self.state.now_ms)
        connection_release(&self.state.connections, connection)
        return 0

    cdef int let_go(self, Connection* connection) except -1:
        cdef object transport
        close_descriptor(connection)
        backlog_free(&self.state.output, connection)
        forget_signals(&self.state.output, connection)
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
            # Those who still read of their end have had their CLOSE sent by now, if there was room for it.
            if connection.state == STATE_LOST or (is_out_of_room(&self.state) and not connection.is_dirty):
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

    def open_transport(self, transport not None, str address not None=""):
        cdef:
            Entry entry = self.entry_from(address)
            Connection* connection
        if entry.refusal and is_overrun(&self.state):
            return 0
        connection = connection_new(&self.state.connections)
        if connection == NULL:
            raise MemoryError
        Py_INCREF(transport)
        connection.transport = <PyObject*>transport
        admit(&self.state, connection, &entry)
        return connection_handle(connection)

    def is_known(self, unsigned long long connection):
        return self.known(connection) != NULL

    def is_ready(self, unsigned long long connection):
        return self.ready(connection) != NULL

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
        if writable:
            paused.congestion &= ~CONGESTION_BLOCKED
        else:
            paused.congestion |= CONGESTION_BLOCKED
        if writable and (paused.pending or paused.congestion):
            output_mark_dirty(&self.state.output, paused)
            output_hurry(&self.state.output, paused)

    cdef int flush_transport(self, Connection* connection) except -1:
        cdef:
            object transport
            bytes pending
        if connection.state == STATE_LOST or connection.transport == NULL:
            connection.is_dirty = False
            return 0
        if connection.congestion & CONGESTION_BLOCKED and connection.state != STATE_CLOSING:
            if slices_to_backlog(&self.state.output, connection) < 0:
                output_drop(&self.state.output, connection, ERROR_OVERLOADED)
            connection.is_dirty = False
            return 0
        transport = <object>connection.transport
        if connection.congestion and connection.state == STATE_READY:
            catch_up(&self.state.output, connection)
        if connection.pending:
            count_send_call(&self.state.output, connection)
        pending = take_pending(&self.state.output, connection)
        connection.is_dirty = False
        try:
            if pending:
                self.state.counters.bytes_sent += len(pending)
                transport.write(pending)
            if connection.state == STATE_CLOSING and connection.transport != NULL:
                # It writes out what it holds by itself. One whose peer takes nothing would do so for ever: it is ours
                # until it is lost or the deadline aborts it.
                connection.state = STATE_LINGERING
                transport.close()
        except Exception:
            output_drop(&self.state.output, connection, 0)
        return 0
