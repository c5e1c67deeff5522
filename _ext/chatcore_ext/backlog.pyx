"""What the kernel or a transport did not take; see backlog.pxd."""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

from chatcore_ext.constants cimport (
    FRAME_CLOSE, FRAME_DELIVER, FRAME_GAP, FRAME_PONG, FRAME_SIGNAL, HEADER_SIZE, RETRY_AFTER_MS,
)
from chatcore_ext.error_codes cimport ERROR_OVERLOADED
from chatcore_ext.frame cimport load_u32, load_u64
from chatcore_ext.output cimport output_add_slice, output_close
from chatcore_ext.tap cimport tap_taken_back
from chatcore_ext.tables cimport CONGESTION_BEHIND, Slice, Subscription


cdef enum:
    MIN_BACKLOG = 1024  # bytes
    # Of the total, beyond it: for the rests of frames that have begun and for CLOSE.
    RESERVE_FRACTION = 8


# Room for `size` more bytes behind the backlog's end. -1: no memory.
cdef int grow_backlog(Connection* connection, size_t size) noexcept nogil:
    cdef:
        Backlog* backlog = connection.backlog
        size_t held = 0
        size_t capacity
    if backlog != NULL:
        held = backlog.end - backlog.start
        if backlog.end + size <= backlog.capacity:
            return 0
        if held + size <= backlog.capacity:
            memmove(backlog_bytes(backlog), backlog_bytes(backlog) + backlog.start, held)
            backlog.start = 0
            backlog.end = held
            return 0
    capacity = MIN_BACKLOG
    while capacity < held + size:
        capacity *= 2
    backlog = <Backlog*>malloc(sizeof(Backlog) + capacity)
    if backlog == NULL:
        return -1
    backlog.start = 0
    backlog.end = held
    backlog.capacity = capacity
    if held:
        memcpy(backlog_bytes(backlog), backlog_bytes(connection.backlog) + connection.backlog.start, held)
    free(connection.backlog)
    connection.backlog = backlog
    return 0


cdef void backlog_free(Output* output, Connection* connection) noexcept nogil:
    output.total_pending -= backlog_size(connection)
    free(connection.backlog)
    connection.backlog = NULL


cdef void copy_slices(const Connection* connection, size_t skip, uint8_t* target) noexcept nogil:
    cdef const Slice* slice = &connection.first
    if connection.last == NULL:
        return
    while slice != NULL:
        if skip >= slice.size:
            skip -= slice.size
        else:
            memcpy(target, slice.data + skip, slice.size - skip)
            target += slice.size - skip
            skip = 0
        slice = slice.next


cdef int slices_to_backlog(Output* output, Connection* connection) noexcept nogil:
    return keep_rest(output, connection, 0)


cdef int keep_rest(Output* output, Connection* connection, size_t sent) noexcept nogil:
    cdef:
        size_t held = backlog_size(connection)
        size_t size = connection.pending - held  # of the slices
        size_t skip = 0
    connection.pending -= <unsigned int>sent
    if sent < held:
        connection.backlog.start += sent
        output.total_pending -= sent
    else:
        skip = sent - held
        backlog_free(output, connection)
    if size == skip:
        forget_slices(connection)
        return 0
    if output.total_pending + (size - skip) > output.max_total_pending:
        leave_out_slices(output, connection, skip)
        skip = 0
        size = connection.pending - backlog_size(connection)
        if output.total_pending + size > output.max_total_pending + output.max_total_pending // RESERVE_FRACTION:
            return -1
    return store_slices(output, connection, skip, size - skip)


cdef int store_slices(Output* output, Connection* connection, size_t skip, size_t size) noexcept nogil:
    if grow_backlog(connection, size) < 0:
        return -1
    copy_slices(connection, skip, backlog_bytes(connection.backlog) + connection.backlog.end)
    connection.backlog.end += size
    output.total_pending += size
    forget_slices(connection)
    return 0


# --- above the total ---

cdef Subscription* subscription_by_number(const Connection* connection, unsigned int number) noexcept nogil:
    cdef Subscription* subscription = connection.subscriptions
    while subscription != NULL and subscription.channel.number != number:
        subscription = subscription.next
    return subscription


cdef const Subscription* note_left_out(
    const Connection* connection, unsigned int number, unsigned long long first
) noexcept nogil:
    cdef Subscription* subscription = subscription_by_number(connection, number)
    if subscription != NULL and (subscription.first_left_out == 0 or first < subscription.first_left_out):
        subscription.first_left_out = first
    return subscription


# False: nothing would bring it later.
cdef bint leave_out_frame(Output* output, Connection* connection, const uint8_t* frame) noexcept nogil:
    cdef:
        int type = frame[3]
        const uint8_t* body = frame + HEADER_SIZE
        const Subscription* subscription
    if type == FRAME_DELIVER:
        subscription = note_left_out(connection, load_u32(body), load_u64(body + 6))
        if output.tap.is_on and subscription != NULL:
            tap_taken_back(output.tap, connection, subscription, load_u64(body + 6))
        output.counters.deliveries_left_out += 1
    elif type == FRAME_GAP:
        note_left_out(connection, load_u32(body), load_u64(body + 4) + 1)
    elif type == FRAME_SIGNAL:
        output.counters.signals_left_out += 1
    elif type == FRAME_PONG:
        output.counters.pings_dropped += 1
    else:
        return False
    return True


# Of the slices, whose first `skip` bytes are out, only the rest of a frame that has begun stays, and CLOSE. If more is
# owed that nothing brings later, the connection ends.
cdef void leave_out_slices(Output* output, Connection* connection, size_t skip) noexcept nogil:
    cdef:
        const Slice* slice = &connection.first
        const uint8_t* begun = NULL
        const uint8_t* ending = NULL
        const uint8_t* frame
        size_t begun_size = 0, ending_size = 0, size
        bint may_go_on = True
    while slice != NULL:
        frame = slice.data
        while frame != slice.data + slice.size:
            size = HEADER_SIZE + (load_u32(frame) >> 8)
            if skip >= size:
                skip -= size
            elif skip:
                begun = frame + skip
                begun_size = size - skip
                skip = 0
            elif frame[3] == FRAME_CLOSE:
                ending = frame
                ending_size = size
            elif not leave_out_frame(output, connection, frame):
                may_go_on = False
            frame += size
        slice = slice.next
    output.counters.backlogs_refused += 1
    if not connection.congestion & CONGESTION_BEHIND:
        connection.congestion |= CONGESTION_BEHIND
        output.counters.receivers_paused += 1
    forget_slices(connection)
    connection.pending = <unsigned int>backlog_size(connection)
    if begun_size:
        output_add_slice(output, connection, begun, begun_size)
    if ending_size:
        output_add_slice(output, connection, ending, ending_size)
    elif not may_go_on:
        output_close(output, connection, ERROR_OVERLOADED, NULL, 0, RETRY_AFTER_MS)
