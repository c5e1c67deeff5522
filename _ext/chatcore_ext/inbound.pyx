"""What a client's frame does; see inbound.pxd."""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy

from chatcore_ext.connection cimport connection_handle
from chatcore_ext.constants cimport (
    FRAME_ACK, FRAME_CLOSE, FRAME_DELIVER, FRAME_EVENT, FRAME_FAILED, FRAME_GAP, FRAME_GOAWAY, FRAME_HELLO,
    FRAME_PING, FRAME_PONG, FRAME_REFUSED, FRAME_REPLY, FRAME_REQUEST, FRAME_SEND, FRAME_SIGNAL, FRAME_WELCOME,
    HEADER_SIZE, HELLO_PREFIX_SIZE, MAX_SIGNAL_BODY_SIZE, MAX_UNACKED_SENDS, PING_SIZE, PROTOCOL_VERSION,
    RECORD_MESSAGE, REQUEST_PREFIX_SIZE, RETRY_AFTER_MS, SEND_RESEND, SIGNAL_APPLICATION, SIGNAL_PREFIX_SIZE,
    SIGNAL_TYPING,
)
from chatcore_ext.deadlines cimport set_deadline
from chatcore_ext.error_codes cimport (
    ERROR_BAD_SEQ, ERROR_BODY_TOO_LARGE, ERROR_MALFORMED_FRAME, ERROR_NOT_ALLOWED, ERROR_NOT_JOINED,
    ERROR_OVERLOADED, ERROR_RATE_LIMITED, ERROR_UNEXPECTED_FRAME, ERROR_UNKNOWN_FRAME, ERROR_UNSUPPORTED_VERSION,
    error_flags,
)
from chatcore_ext.event_queue cimport KIND_HELLO, KIND_REQUEST, KIND_SEND, PendingEvent, queue_event
from chatcore_ext.fanout cimport channel_reserve, fan_out
from chatcore_ext.frame cimport (
    SendFields, SignalFields, error_body_size, load_u32, read_send, read_signal, store_u32, store_u64,
    write_error_body, write_header, write_signal,
)
from chatcore_ext.output cimport output_close, output_drop, output_frame, output_reserve
from chatcore_ext.record cimport RecordFields, record_size, write_record
from chatcore_ext.routing cimport NAME_BYTES, NAME_SIZE, stamp_hiders, subscription_of
from chatcore_ext.send_times cimport send_taken
from chatcore_ext.tables cimport STATE_GREETING, STATE_OPEN, STATE_READY, Channel, Player, Subscription
from chatcore_ext.tap_points cimport tap_fanned_out, tap_inbound
from chatcore_ext.token_bucket cimport bucket_take


cdef void protocol_error(HubState* hub, Connection* connection, int code) noexcept nogil:
    output_close(&hub.output, connection, code, NULL, 0, 0)


# --- limits ---

# A frame over the limit. A client that heeds what it is told stops; one that sends a multiple of it is ended.
cdef void count_excess(HubState* hub, Connection* connection) noexcept nogil:
    cdef long long wait = bucket_take(
        &connection.excess, hub.limits.excess_per_second, hub.limits.excess_burst, 1, <long long>hub.now_ms
    )
    if wait:
        output_close(
            &hub.output, connection, ERROR_RATE_LIMITED, NULL, 0, <unsigned int>min(wait, <long long>0xFFFFFFFF)
        )


# Every frame of a connection takes a token of it. Returns the ms to wait, 0: go on.
cdef unsigned int over_limit(HubState* hub, Connection* connection) noexcept nogil:
    cdef long long wait = bucket_take(
        &connection.frames, hub.limits.frames_per_second, hub.limits.frame_burst, 1, <long long>hub.now_ms
    )
    if wait == 0:
        return 0
    count_excess(hub, connection)
    return <unsigned int>min(wait, <long long>0xFFFFFFFF)


# The same for a frame that costs others something: it counts for the player, whose connections share these limits.
cdef unsigned int over_limits(HubState* hub, Connection* connection, size_t size) noexcept nogil:
    cdef:
        unsigned int wait_of_connection = over_limit(hub, connection)
        Player* player = connection.session.player
        long long wait
    if wait_of_connection:
        return wait_of_connection
    wait = bucket_take(
        &player.frames, hub.limits.player_frames_per_second, hub.limits.player_frame_burst, 1, <long long>hub.now_ms
    )
    if wait == 0:
        wait = bucket_take(
            &player.bytes, hub.limits.player_bytes_per_second, hub.limits.player_byte_burst,
            <long long>(HEADER_SIZE + size), <long long>hub.now_ms,
        )
    if wait == 0:
        return 0
    count_excess(hub, connection)
    return <unsigned int>min(wait, <long long>0xFFFFFFFF)


cdef void append_error(
    HubState* hub, Connection* connection, int type, unsigned long long number, size_t number_size, int code, int flags,
    unsigned int retry_after_ms, const uint8_t* message, size_t size
) noexcept nogil:
    cdef:
        size_t body_size = number_size + error_body_size(code, <unsigned int>size)
        uint8_t* frame = output_reserve(&hub.output, HEADER_SIZE + body_size)
    hub.counters.refused[code] += 1
    if connection.state != STATE_READY:
        return  # CLOSE has been said
    if frame == NULL:
        output_drop(&hub.output, connection, ERROR_OVERLOADED)
        return
    write_header(frame, type, <unsigned int>body_size)
    if number_size == 8:
        store_u64(frame + HEADER_SIZE, number)
    else:
        store_u32(frame + HEADER_SIZE, <unsigned int>number)
    hub.counters.frames_sent[type] += 1
    write_error_body(
        frame + HEADER_SIZE + number_size, code, flags, retry_after_ms, message, <unsigned int>size
    )
    output_frame(&hub.output, connection, frame, HEADER_SIZE + body_size)


cdef void append_refused(
    HubState* hub, Connection* connection, unsigned long long seq, int code, int flags, unsigned int retry_after_ms
) noexcept nogil:
    append_error(hub, connection, FRAME_REFUSED, seq, 8, code, flags, retry_after_ms, NULL, 0)


cdef void append_failed(
    HubState* hub, Connection* connection, unsigned int request_id, int code, const uint8_t* message, size_t size,
    unsigned int retry_after_ms
) noexcept nogil:
    append_error(
        hub, connection, FRAME_FAILED, request_id, 4, code, error_flags(code), retry_after_ms, message, size
    )


# --- frames ---

cdef void on_hello(HubState* hub, Connection* connection, const uint8_t* body, size_t size) noexcept nogil:
    cdef:
        PendingEvent* event
        int version
    if size < HELLO_PREFIX_SIZE or memcmp(body, b"chat", 4) != 0:
        protocol_error(hub, connection, ERROR_MALFORMED_FRAME)
        return
    version = <unsigned char>body[4]
    if version != PROTOCOL_VERSION:
        protocol_error(hub, connection, ERROR_UNSUPPORTED_VERSION)
        return
    event = queue_event(&hub.events, KIND_HELLO, size - HELLO_PREFIX_SIZE)
    if event == NULL:
        protocol_error(hub, connection, ERROR_OVERLOADED)
        return
    event.connection = connection_handle(connection)
    event.number = <unsigned int>version
    memcpy(event.data, body + HELLO_PREFIX_SIZE, event.size)
    connection.state = STATE_GREETING
    connection.was_greeted = True
    set_deadline(hub, connection)  # it may come before HELLO's would have


cdef void on_request(HubState* hub, Connection* connection, const uint8_t* body, size_t size) noexcept nogil:
    cdef:
        PendingEvent* event
        unsigned int request_id, wait
    if size < REQUEST_PREFIX_SIZE:
        protocol_error(hub, connection, ERROR_MALFORMED_FRAME)
        return
    request_id = load_u32(body)
    wait = over_limits(hub, connection, size)
    if wait:
        append_failed(hub, connection, request_id, ERROR_RATE_LIMITED, NULL, 0, wait)
        return
    event = queue_event(&hub.events, KIND_REQUEST, size - REQUEST_PREFIX_SIZE)
    if event == NULL:
        append_failed(hub, connection, request_id, ERROR_OVERLOADED, NULL, 0, RETRY_AFTER_MS)
        return
    event.connection = connection_handle(connection)
    event.number = request_id
    event.detail = <unsigned char>body[4]
    memcpy(event.data, body + REQUEST_PREFIX_SIZE, event.size)


cdef void on_ping(HubState* hub, Connection* connection, const uint8_t* body, size_t size) noexcept nogil:
    cdef uint8_t* frame
    if size != PING_SIZE:
        protocol_error(hub, connection, ERROR_MALFORMED_FRAME)
        return
    if over_limit(hub, connection):
        hub.counters.pings_dropped += 1
        return
    frame = output_reserve(&hub.output, HEADER_SIZE + PING_SIZE)
    if frame == NULL:
        output_drop(&hub.output, connection, ERROR_OVERLOADED)
        return
    hub.counters.frames_sent[<int>FRAME_PONG] += 1
    write_header(frame, FRAME_PONG, PING_SIZE)
    memcpy(frame + HEADER_SIZE, body, PING_SIZE)
    output_frame(&hub.output, connection, frame, HEADER_SIZE + PING_SIZE)


# So far behind that the log's readers may no longer know whether they have seen it: they would drop it, acknowledged.
cdef bint is_stale(unsigned long long seq, unsigned long long highest) noexcept nogil:
    return highest >= MAX_UNACKED_SENDS and seq <= highest - MAX_UNACKED_SENDS


# Why the send can not be taken; 0: it can.
cdef int refusal_of(
    HubState* hub, Connection* connection, const Subscription* subscription, const SendFields* send
) noexcept nogil:
    if send.seq == 0 or is_stale(send.seq, connection.session.highest_seq):
        return ERROR_BAD_SEQ
    if subscription == NULL or not subscription.is_joined:
        return ERROR_NOT_JOINED
    if not subscription.may_send:
        return subscription.refusal if subscription.refusal else ERROR_NOT_ALLOWED
    if send.body_len > hub.limits.max_body_size:
        return ERROR_BODY_TOO_LARGE
    return 0


# A send that may go into the log, as a record, for Python at the turn's end. False: there is no memory for it.
cdef bint queue_send(
    HubState* hub, Connection* connection, const Subscription* subscription, const SendFields* send
) noexcept nogil:
    cdef:
        const Player* player = connection.session.player
        PendingEvent* event
        RecordFields record = RecordFields(
            kind=RECORD_MESSAGE, session=connection.session.id, seq=send.seq, time=hub.time_ms,
            sender=NAME_BYTES(player.named.name), sender_len=<uint8_t>NAME_SIZE(player.named.name),
            body=send.body, body_len=send.body_len,
        )
    event = queue_event(&hub.events, KIND_SEND, record_size(&record))
    if event == NULL:
        return False
    event.connection = connection_handle(connection)
    event.number = send.seq
    event.detail = <unsigned int>send.flags
    if send.seq > connection.session.highest_seq:
        connection.session.highest_seq = send.seq
    else:
        # Whatever the client says of it: the ACK must name the copy that counts, and this may not be it.
        event.detail |= SEND_RESEND
    event.channel = subscription.channel.named.name
    write_record(event.data, &record)
    return True


cdef void on_send(HubState* hub, Connection* connection, const uint8_t* body, size_t size) noexcept nogil:
    cdef:
        SendFields send
        unsigned int wait
        const Subscription* subscription
        int code = read_send(body, <unsigned int>size, &send)
    if code:
        protocol_error(hub, connection, code)
        return
    # Before all else: a refusal costs something, too.
    wait = over_limits(hub, connection, size)
    if wait:
        append_refused(hub, connection, send.seq, ERROR_RATE_LIMITED, error_flags(ERROR_RATE_LIMITED), wait)
        return
    subscription = subscription_of(&hub.routing, connection, send.channel)
    code = refusal_of(hub, connection, subscription, &send)
    if code:
        append_refused(hub, connection, send.seq, code, error_flags(code), 0)
        return
    if not queue_send(hub, connection, subscription, &send):
        append_refused(hub, connection, send.seq, ERROR_OVERLOADED, error_flags(ERROR_OVERLOADED), RETRY_AFTER_MS)
        return
    send_taken(&hub.send_times, connection.session.id, send.seq, hub.now_us)
    hub.counters.sends_accepted += 1


cdef void on_signal(HubState* hub, Connection* connection, const uint8_t* body, size_t size) noexcept nogil:
    cdef:
        SignalFields signal
        const Subscription* subscription
    # A client leaves the sender empty: one that fills it in either misreads the protocol or tries to speak for another.
    if read_signal(body, <unsigned int>size, &signal) or signal.sender_len:
        protocol_error(hub, connection, ERROR_MALFORMED_FRAME)
        return
    if over_limits(hub, connection, size):
        hub.counters.signals_dropped += 1
        return
    subscription = subscription_of(&hub.routing, connection, signal.channel)
    # Kinds between are the server's.
    if (
        subscription == NULL or not subscription.is_joined or not subscription.may_send
        or signal.body_len > MAX_SIGNAL_BODY_SIZE
        or (signal.kind != SIGNAL_TYPING and signal.kind < SIGNAL_APPLICATION)
    ):
        hub.counters.signals_dropped += 1
        return
    signal.sender = NAME_BYTES(connection.session.player.named.name)
    signal.sender_len = <uint8_t>NAME_SIZE(connection.session.player.named.name)
    relay_signal(hub, subscription.channel, &signal, connection)


cdef unsigned int relay_signal(
    HubState* hub, Channel* channel, const SignalFields* signal, const Connection* excepted
) noexcept nogil:
    cdef:
        size_t size = HEADER_SIZE + SIGNAL_PREFIX_SIZE + signal.sender_len + signal.body_len
        unsigned long long stamp = 0
        unsigned int n_receivers
        uint8_t* frame
    if channel.n_members <= <unsigned int>(excepted != NULL):  # nobody else to hear it
        return 0
    if hub.routing.hidden_senders.n_entries:
        stamp = stamp_hiders(&hub.routing, signal.sender, signal.sender_len)
    frame = channel_reserve(&hub.output, channel, size)
    if frame == NULL:
        hub.counters.signals_dropped += 1
        return 0
    write_signal(
        frame, channel.number, signal.kind, signal.sender, signal.sender_len, signal.body, signal.body_len
    )
    n_receivers = fan_out(&hub.output, channel, frame, size, 0, excepted, stamp)
    if hub.tap.is_on:
        tap_fanned_out(hub, channel, frame, NULL, 0, excepted, stamp)
    if n_receivers:
        hub.counters.signals_relayed += 1
        hub.counters.signal_deliveries += n_receivers
    return n_receivers


cdef void handle_ready(
    HubState* hub, Connection* connection, int type, const uint8_t* body, size_t size
) noexcept nogil:
    if type == FRAME_SEND:
        on_send(hub, connection, body, size)
    elif type == FRAME_SIGNAL:
        on_signal(hub, connection, body, size)
    elif type == FRAME_PING:
        on_ping(hub, connection, body, size)
    elif type == FRAME_REQUEST:
        on_request(hub, connection, body, size)
    elif type == FRAME_PONG:
        if size != PING_SIZE:
            protocol_error(hub, connection, ERROR_MALFORMED_FRAME)
        elif over_limit(hub, connection):
            hub.counters.pings_dropped += 1
    elif is_known(type):
        protocol_error(hub, connection, ERROR_UNEXPECTED_FRAME)
    else:
        protocol_error(hub, connection, ERROR_UNKNOWN_FRAME)


# A second HELLO, or a frame that only servers send.
cdef bint is_known(int type) noexcept nogil:
    return (
        type == FRAME_HELLO or type == FRAME_WELCOME or type == FRAME_GOAWAY or type == FRAME_CLOSE
        or type == FRAME_ACK or type == FRAME_REFUSED or type == FRAME_DELIVER or type == FRAME_GAP
        or type == FRAME_REPLY or type == FRAME_FAILED or type == FRAME_EVENT
    )


cdef void handle_frame(
    HubState* hub, Connection* connection, int type, const uint8_t* body, size_t size
) noexcept nogil:
    hub.counters.frames_received[type] += 1
    if hub.tap.is_on:
        tap_inbound(hub, connection, type, body, size)
    if connection.state == STATE_READY:
        handle_ready(hub, connection, type, body, size)
    elif connection.state == STATE_OPEN and type == FRAME_HELLO:
        on_hello(hub, connection, body, size)
    elif connection.state == STATE_OPEN or connection.state == STATE_GREETING:
        protocol_error(hub, connection, ERROR_UNEXPECTED_FRAME)
