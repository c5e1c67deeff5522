"""What a trace sees; see tap.pxd."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from chatcore_ext.connection cimport connection_handle
from chatcore_ext.constants cimport (
    DELIVER_PREFIX_SIZE, FRAME_ACK, FRAME_DELIVER, FRAME_REFUSED, FRAME_SEND, FRAME_SIGNAL, HEADER_SIZE,
    SEND_PREFIX_SIZE, SIGNAL_PREFIX_SIZE,
)
from chatcore_ext.frame cimport load_u32
from chatcore_ext.routing cimport NAME_BYTES, NAME_SIZE


cdef int tap_open(Tap* tap) noexcept nogil:
    if tap.is_on:
        return 0
    tap.events = <TapEvent*>malloc(TAP_EVENTS * sizeof(TapEvent))
    tap.bytes = <uint8_t*>malloc(TAP_BYTES)
    if tap.events == NULL or tap.bytes == NULL:
        tap_close(tap)
        return -1
    tap.is_on = True
    return 0


cdef void tap_close(Tap* tap) noexcept nogil:
    free(tap.events)
    free(tap.bytes)
    tap.events = NULL
    tap.bytes = NULL
    tap.n_events = 0
    tap.n_bytes = 0
    tap.n_lost = 0
    tap.is_on = False


cdef TapEvent* tap_note(
    Tap* tap, TapKind kind, unsigned long long connection, const uint8_t* player, size_t player_size,
    PyObject* channel
) noexcept nogil:
    cdef:
        size_t channel_size = NAME_SIZE(channel) if channel != NULL else 0
        unsigned int limit = TAP_EVENTS - TAP_RESERVE if kind == TAP_MISSED else TAP_EVENTS
        TapEvent* event
    if tap.n_events >= limit or tap.n_bytes + player_size + channel_size > TAP_BYTES:
        tap.n_lost += 1
        return NULL
    event = &tap.events[tap.n_events]
    tap.n_events += 1
    memset(event, 0, sizeof(TapEvent))
    event.kind = kind
    event.connection = connection
    event.player_size = <unsigned char>player_size
    event.channel_size = <unsigned char>channel_size
    event.start = tap.n_bytes
    if player_size:
        memcpy(tap.bytes + tap.n_bytes, player, player_size)
        tap.n_bytes += <unsigned int>player_size
    if channel_size:
        memcpy(tap.bytes + tap.n_bytes, NAME_BYTES(channel), channel_size)
        tap.n_bytes += <unsigned int>channel_size
    return event


cdef TapEvent* tap_note_of(Tap* tap, TapKind kind, const Connection* connection, const Channel* channel) noexcept nogil:
    cdef:
        PyObject* name = channel.named.name if channel != NULL else NULL
        PyObject* player
    if connection.session == NULL:
        return tap_note(tap, kind, connection_handle(connection), NULL, 0, name)
    player = connection.session.player.named.name
    return tap_note(tap, kind, connection_handle(connection), NAME_BYTES(player), NAME_SIZE(player), name)


# Without what players say to each other: its size is told anyway.
cdef size_t size_without_body(int type, const uint8_t* body, size_t size) noexcept nogil:
    if type == FRAME_SEND:
        return min(size, <size_t>SEND_PREFIX_SIZE)
    if type == FRAME_DELIVER and size >= DELIVER_PREFIX_SIZE:
        return min(size, <size_t>DELIVER_PREFIX_SIZE + body[5])
    if type == FRAME_SIGNAL and size >= SIGNAL_PREFIX_SIZE:
        return min(size, <size_t>SIGNAL_PREFIX_SIZE + body[5])
    return size


cdef void tap_keep(Tap* tap, TapEvent* event, int type, const uint8_t* body, size_t size) noexcept nogil:
    cdef size_t kept = size if tap.with_bodies else size_without_body(type, body, size)
    event.type = <unsigned char>type
    event.size = <unsigned int>size
    if kept == 0 or tap.n_bytes + kept > TAP_BYTES:
        return
    memcpy(tap.bytes + tap.n_bytes, body, kept)
    tap.n_bytes += <unsigned int>kept
    event.kept = <unsigned int>kept


cdef void tap_out(Tap* tap, const Connection* connection, const uint8_t* frame, const Channel* channel) noexcept nogil:
    cdef:
        int type = frame[3]
        TapEvent* event
    if not connection.traced & TRACED_PLAYER:
        if not connection.traced & TRACED_SENDER or (type != FRAME_ACK and type != FRAME_REFUSED):
            return
    event = tap_note_of(tap, TAP_OUT, connection, channel)
    if event != NULL:
        tap_keep(tap, event, type, frame + HEADER_SIZE, load_u32(frame) >> 8)


cdef void tap_taken_back(
    Tap* tap, const Connection* connection, const Subscription* subscription, unsigned long long id
) noexcept nogil:
    cdef TapEvent* event
    if not subscription.channel.is_traced and not connection.traced & TRACED_PLAYER:
        return
    event = tap_note_of(tap, TAP_MISSED, connection, subscription.channel)
    if event != NULL:
        event.numbers[0] = id
        event.numbers[1] = FATE_TAKEN_BACK
        event.numbers[2] = connection.pending
        event.numbers[3] = subscription.first_left_out


cdef tuple as_tuple(const Tap* tap, const TapEvent* event):
    cdef:
        const char* player = <const char*>tap.bytes + event.start
        const char* channel = player + event.player_size
        const char* body = channel + event.channel_size
        tuple numbers = (
            event.numbers[0], event.numbers[1], event.numbers[2], event.numbers[3], event.numbers[4],
            event.numbers[5],
        )
    return (
        event.kind, event.type, event.connection, PyBytes_FromStringAndSize(player, event.player_size),
        PyBytes_FromStringAndSize(channel, event.channel_size), numbers, event.size,
        PyBytes_FromStringAndSize(body, event.kept),
    )


cdef list tap_take(Tap* tap):
    cdef:
        list taken = []
        unsigned int i
    for i in range(tap.n_events):
        taken.append(as_tuple(tap, &tap.events[i]))
    tap.n_events = 0
    tap.n_bytes = 0
    tap.n_lost = 0
    return taken
