"""The whole hub: what the log and Python say to those who are here; see hub.pyi."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from chatcore_ext.connection cimport CHUNK_SIZE, connection_at, connection_handle
from chatcore_ext.constants cimport (
    ACK_SIZE, FRAME_EVENT, FRAME_GOAWAY, FRAME_REPLY, FRAME_WELCOME, GOAWAY_SIZE, HEADER_SIZE, MAX_BODY_LENGTH,
    MAX_NAME_SIZE, MAX_SIGNAL_BODY_SIZE, RECORD_CONTROL, no_id,
)
from chatcore_ext.counters cimport counters_as_dict, send_calls_as_tuple
from chatcore_ext.delivery cimport deliver_message, direct_players
from chatcore_ext.durations cimport durations_as_tuple
from chatcore_ext.error_codes cimport ERROR_FLAG_UNCERTAIN, error_flags
from chatcore_ext.event_queue cimport KIND_DISCONNECTED, KIND_EXPIRED, KIND_HELLO, KIND_REQUEST, KIND_SEND
from chatcore_ext.fanout cimport append_to_all, channel_reserve
from chatcore_ext.frame cimport SignalFields, store_u32, write_ack, write_goaway, write_header
from chatcore_ext.inbound cimport append_failed, append_refused, relay_signal
from chatcore_ext.invariants cimport check_hub
from chatcore_ext.log_view cimport Placement
from chatcore_ext.memberships cimport Memberships
from chatcore_ext.output cimport output_frame, output_reserve
from chatcore_ext.record cimport read_record
from chatcore_ext.routing cimport find_name, find_named, subscription_to
from chatcore_ext.send_times cimport note_ack
from chatcore_ext.tables cimport STATE_READY, Player, Session
from chatcore_ext.tap_points cimport tap_event_to_all, tap_record
from chatcore_ext.turns cimport check_code, data_of

from chatcore_ext import turns

EVENT_HELLO = <int>KIND_HELLO
EVENT_REQUEST = <int>KIND_REQUEST
EVENT_SEND = <int>KIND_SEND
EVENT_DISCONNECTED = <int>KIND_DISCONNECTED
EVENT_EXPIRED = <int>KIND_EXPIRED
Event = turns.Event

cdef enum:
    # Receivers from which on a fan-out of `deliver` lets other threads run: below, taking the GIL back costs more.
    MIN_UNLOCKED_FANOUT = 512


@cython.final
cdef class Hub(Memberships):

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
        if self.state.tap.is_on and channel in self.traced_channels:
            found = <Channel*>find_name(&self.state.routing.channels, channel)
            tap_record(&self.state, <PyObject*>channel, found, offset, &place)
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
            output_frame(&self.state.output, acknowledged, frame, HEADER_SIZE + ACK_SIZE)
            self.state.counters.acks += 1
            if id:  # otherwise it says no more than that the message was taken in
                note_ack(&self.state.send_times, acknowledged.session.id, seq)

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
        self.state.counters.frames_sent[type] += 1
        write_header(frame, type, <unsigned int>size)
        if number_size:
            store_u32(frame + HEADER_SIZE, number)
        memcpy(frame + HEADER_SIZE + number_size, data_of(body), size - number_size)
        output_frame(&self.state.output, connection, frame, HEADER_SIZE + size)
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
            Connection* excepted
            size_t size = HEADER_SIZE + PyBytes_GET_SIZE(body)
            unsigned int n_receivers
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
        excepted = self.ready(except_connection)
        if self.state.tap.is_on:
            tap_event_to_all(&self.state, found, frame, excepted)
        n_receivers = append_to_all(&self.state.output, found, frame, size, excepted)
        self.state.counters.frames_sent[<int>FRAME_EVENT] += n_receivers
        return n_receivers

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
                self.state.counters.frames_sent[<int>FRAME_GOAWAY] += 1
                output_frame(&self.state.output, connection, frame, HEADER_SIZE + GOAWAY_SIZE)

    # --- figures ---

    def counters(self):
        cdef dict result = counters_as_dict(&self.state.counters)
        result["connections"] = self.state.n_open
        result["connections_half_open"] = self.state.n_half_open
        result["connections_ready"] = self.state.n_open - self.state.n_half_open
        result["connections_closing"] = self.state.connections.n_used - self.state.n_open
        result["connection_table_bytes"] = self.state.connections.n_chunks * CHUNK_SIZE * sizeof(Connection)
        result["pending_bytes"] = self.state.output.total_pending
        result["addresses"] = self.state.addresses.places.n_entries
        result["sessions"] = self.state.routing.sessions.n_entries
        result["players"] = self.state.routing.players.n_entries
        result["channels"] = self.state.routing.channels.n_entries
        result["subscriptions"] = self.state.routing.n_joined
        return result

    def histograms(self):
        return {
            "frames_per_send_call": send_calls_as_tuple(&self.state.counters),
            "ack_latency": durations_as_tuple(&self.state.send_times.ack_latency),
            "delivery_latency": durations_as_tuple(&self.state.send_times.delivery_latency),
        }

    def check_invariants(self):
        check_hub(&self.state)
