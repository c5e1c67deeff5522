"""Signals for receivers that do not take more now; see kept_signals.pxd."""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memmove

from chatcore_ext.constants cimport (
    HEADER_SIZE, KEPT_SIGNALS_SIZE, KEPT_TYPING_MS, SIGNAL_PREFIX_SIZE, SIGNAL_TYPING,
)
from chatcore_ext.frame cimport load_u32
from chatcore_ext.output cimport output_add_slice, output_reserve
from chatcore_ext.pointer_table cimport table_get, table_put, table_remove
from chatcore_ext.tables cimport CONGESTION_SIGNALS
from chatcore_ext.tap cimport tap_out


cdef enum:
    MIN_CAPACITY = 512         # bytes; doubles


# Of one connection. The entries follow, the oldest first.
cdef struct Signals:
    unsigned int used          # bytes
    unsigned int capacity


# One signal. Its frame follows, padded to whole words.
cdef struct Entry:
    unsigned long long since_ms
    unsigned int frame_size
    unsigned int size          # of all


cdef inline Signals* signals_of(const Output* output, const Connection* connection) noexcept nogil:
    return <Signals*>table_get(&output.signals, connection.index)


cdef inline Entry* entry_at(Signals* signals, unsigned int place) noexcept nogil:
    return <Entry*>(<uint8_t*>signals + sizeof(Signals) + place)


cdef inline uint8_t* frame_of(Entry* entry) noexcept nogil:
    return <uint8_t*>entry + sizeof(Entry)


# Channel, kind, length of the sender and sender, as they lie in a frame.
cdef inline size_t key_size(const uint8_t* frame) noexcept nogil:
    return SIGNAL_PREFIX_SIZE + frame[HEADER_SIZE + 5]


cdef inline bint is_same(const uint8_t* frame, const uint8_t* other) noexcept nogil:
    cdef size_t size = key_size(frame)
    return size == key_size(other) and memcmp(frame + HEADER_SIZE, other + HEADER_SIZE, size) == 0


cdef void remove_entry(Output* output, Signals* signals, unsigned int place) noexcept nogil:
    cdef unsigned int size = entry_at(signals, place).size
    signals.used -= size
    memmove(entry_at(signals, place), <uint8_t*>entry_at(signals, place) + size, signals.used - place)
    output.counters.signals_left_out += 1


cdef void make_room(Output* output, Signals* signals, const uint8_t* frame, unsigned int size) noexcept nogil:
    cdef unsigned int place = 0
    while place < signals.used:
        if is_same(frame, frame_of(entry_at(signals, place))):
            remove_entry(output, signals, place)
            break
        place += entry_at(signals, place).size
    while signals.used + size > KEPT_SIGNALS_SIZE:
        remove_entry(output, signals, 0)


# With room for `size` more bytes. NULL: no memory, or too much is unsent to all connections; nothing has changed.
cdef Signals* grown(Output* output, Connection* connection, Signals* signals, unsigned int size) noexcept nogil:
    cdef:
        unsigned int held = signals.capacity if signals != NULL else 0
        unsigned int needed = (signals.used if signals != NULL else 0) + size
        unsigned int capacity = max(held, <unsigned int>MIN_CAPACITY)
        Signals* larger
    if needed <= held:
        return signals
    while capacity < needed:
        capacity *= 2
    if output.total_pending + (capacity - held) > output.max_total_pending:
        return NULL
    larger = <Signals*>realloc(signals, sizeof(Signals) + capacity)
    if larger == NULL:
        return NULL
    if signals == NULL:
        larger.used = 0
    # Replaces an entry, for which there is always room, or adds the first one.
    if table_put(&output.signals, connection.index, larger) < 0:
        free(larger)
        return NULL
    larger.capacity = capacity
    connection.congestion |= CONGESTION_SIGNALS
    output.total_pending += capacity - held
    return larger


cdef void keep_signal(Output* output, Connection* connection, const uint8_t* frame, size_t size) noexcept nogil:
    cdef:
        Signals* signals = signals_of(output, connection)
        unsigned int entry_size = <unsigned int>((sizeof(Entry) + size + 7) & ~<size_t>7)
        Entry* entry
    if signals != NULL:
        make_room(output, signals, frame, entry_size)
    signals = grown(output, connection, signals, entry_size)
    if signals == NULL:
        output.counters.signals_left_out += 1
        return
    entry = entry_at(signals, signals.used)
    entry.since_ms = output.now_ms
    entry.frame_size = <unsigned int>size
    entry.size = entry_size
    memcpy(frame_of(entry), frame, size)
    signals.used += entry_size
    output.counters.signals_coalesced += 1


cdef bint is_too_old(const Output* output, Entry* entry) noexcept nogil:
    return frame_of(entry)[HEADER_SIZE + 4] == SIGNAL_TYPING and output.now_ms - entry.since_ms > KEPT_TYPING_MS


cdef bint tell(Output* output, Connection* connection, Entry* entry) noexcept nogil:
    cdef uint8_t* frame
    if is_too_old(output, entry):
        return False
    frame = output_reserve(output, entry.frame_size)
    if frame == NULL:
        return False
    memcpy(frame, frame_of(entry), entry.frame_size)
    if output.tap.is_on:
        tap_out(output.tap, connection, frame, NULL)
    output_add_slice(output, connection, frame, entry.frame_size)
    return True


cdef void tell_signals(Output* output, Connection* connection) noexcept nogil:
    cdef:
        Signals* signals = signals_of(output, connection)
        unsigned int place = 0
    while place < signals.used:
        if tell(output, connection, entry_at(signals, place)):
            output.counters.signal_deliveries += 1
            place += entry_at(signals, place).size
        else:
            remove_entry(output, signals, place)
    signals.used = 0
    forget_signals(output, connection)


cdef void forget_where(
    Output* output, Connection* connection, unsigned int channel, const uint8_t* sender, size_t sender_size
) noexcept nogil:
    cdef:
        Signals* signals = signals_of(output, connection)
        unsigned int place = 0
        const uint8_t* body
        bint goes
    while place < signals.used:
        body = frame_of(entry_at(signals, place)) + HEADER_SIZE
        if sender == NULL:
            goes = load_u32(body) == channel
        else:
            goes = body[5] == sender_size and memcmp(body + SIGNAL_PREFIX_SIZE, sender, sender_size) == 0
        if goes:
            remove_entry(output, signals, place)
        else:
            place += entry_at(signals, place).size


cdef void forget_signals_in(Output* output, Connection* connection, unsigned int channel) noexcept nogil:
    if connection.congestion & CONGESTION_SIGNALS:
        forget_where(output, connection, channel, NULL, 0)


cdef void forget_signals_from(
    Output* output, Connection* connection, const uint8_t* sender, size_t sender_size
) noexcept nogil:
    if connection.congestion & CONGESTION_SIGNALS:
        forget_where(output, connection, 0, sender, sender_size)


cdef void forget_signals(Output* output, Connection* connection) noexcept nogil:
    cdef Signals* signals
    if not connection.congestion & CONGESTION_SIGNALS:
        return
    signals = <Signals*>table_remove(&output.signals, connection.index)
    while signals.used:
        remove_entry(output, signals, 0)
    output.total_pending -= signals.capacity
    connection.congestion &= ~CONGESTION_SIGNALS
    free(signals)


cdef size_t kept_signals_capacity(const Output* output, const Connection* connection) noexcept nogil:
    cdef const Signals* signals = signals_of(output, connection)
    return signals.capacity if signals != NULL else 0
