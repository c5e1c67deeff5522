"""What connections are to be sent this turn, and the one flush that sends it; see output.pxd."""

from libc.stdint cimport uint8_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from chatcore_ext.arena cimport arena_free, arena_reset
from chatcore_ext.backlog cimport (
    backlog_bytes, backlog_free, backlog_size, copy_slices, forget_slices, keep_rest, slices_to_backlog,
)
from chatcore_ext.connection cimport connection_handle
from chatcore_ext.constants cimport FRAME_CLOSE, GAP_SIZE, HEADER_SIZE
from chatcore_ext.error_codes cimport ERROR_OVERLOADED, ERROR_SLOW_RECEIVER, error_flags
from chatcore_ext.flush_window cimport window_end_turn, window_holds, window_take_due
from chatcore_ext.frame cimport error_body_size, write_error_body, write_gap, write_header
from chatcore_ext.kept_signals cimport tell_signals
from chatcore_ext.linux cimport EPOLL_CTL_MOD, epoll_ctl, epoll_event
from chatcore_ext.pointer_table cimport table_free
from chatcore_ext.tables cimport (
    CONGESTION_BEHIND, CONGESTION_BLOCKED, CONGESTION_SIGNALS, STATE_CLOSING, STATE_FREE, STATE_LINGERING, STATE_LOST,
    STATE_READY, Subscription,
)

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    enum:
        SHUT_WR
    int shutdown(int descriptor, int how) noexcept

cdef enum:
    # Pieces per sendmsg. Beyond it joining them by a copy is cheaper than to have the kernel walk them.
    MAX_PIECES = 64


# --- the end of a connection ---

cdef void output_doom(Output* output, Connection* connection) noexcept nogil:
    if not connection.is_doomed:
        connection.is_doomed = True
        connection.next_doomed = output.doomed
        output.doomed = connection


cdef void output_drop(Output* output, Connection* connection, int code) noexcept nogil:
    if connection.state == STATE_FREE or connection.state == STATE_LOST:
        return
    if connection.state != STATE_CLOSING and connection.state != STATE_LINGERING:
        connection.close_code = <unsigned short>code
    connection.state = STATE_LOST
    output_doom(output, connection)


cdef void output_close(
    Output* output, Connection* connection, int code, const uint8_t* message, size_t size, unsigned int retry_after_ms
) noexcept nogil:
    cdef:
        size_t body_size = error_body_size(code, <unsigned int>size)
        uint8_t* frame
    if connection.state == STATE_FREE or connection.state >= STATE_CLOSING:
        return
    connection.state = STATE_CLOSING
    connection.close_code = <unsigned short>code
    output_doom(output, connection)
    frame = output_reserve(output, HEADER_SIZE + body_size)
    if frame == NULL:
        output_drop(output, connection, code)
        return
    output.counters.frames_sent[<int>FRAME_CLOSE] += 1
    write_header(frame, FRAME_CLOSE, <unsigned int>body_size)
    write_error_body(frame + HEADER_SIZE, code, error_flags(code), retry_after_ms, message, <unsigned int>size)
    if output.tap.is_on:
        tap_out(output.tap, connection, frame, NULL)
    output_add_slice(output, connection, frame, HEADER_SIZE + body_size)


cdef bint output_make_room(Output* output, Connection* connection, size_t size) noexcept nogil:
    if connection.transport == NULL and connection.state == STATE_READY:
        flush_socket(output, connection)
    return connection.pending + size <= output.max_pending


cdef void output_overflow(Output* output, Connection* connection) noexcept nogil:
    # What is pending stays: CLOSE must begin where a frame ends, and the kernel may have taken half of one.
    output_close(output, connection, ERROR_SLOW_RECEIVER, NULL, 0, 0)


# --- flush ---

cdef void rearm(Output* output, const Connection* connection) noexcept nogil:
    cdef epoll_event event
    event.events = WATCHED_EVENTS
    event.data.u64 = connection_handle(connection)
    epoll_ctl(output.epoll_descriptor, EPOLL_CTL_MOD, connection.descriptor, &event)


# Many pieces joined into one. NULL: no memory.
cdef const uint8_t* joined(Output* output, const Connection* connection) noexcept nogil:
    cdef:
        size_t held = backlog_size(connection)
        uint8_t* scratch
    if output.scratch_capacity < connection.pending:
        scratch = <uint8_t*>realloc(output.scratch, connection.pending)
        if scratch == NULL:
            return NULL
        output.scratch = scratch
        output.scratch_capacity = connection.pending
    if held:
        memcpy(output.scratch, backlog_bytes(connection.backlog) + connection.backlog.start, held)
    copy_slices(connection, 0, output.scratch + held)
    return output.scratch


# How much the kernel took; -1: errno says why it took nothing.
cdef ssize_t send_pieces(Output* output, Connection* connection) noexcept nogil:
    cdef:
        iovec[MAX_PIECES + 1] pieces
        msghdr message
        size_t n_pieces = 0
        const Slice* slice = &connection.first if connection.last != NULL else NULL
        const uint8_t* data
    if connection.backlog == NULL and connection.n_slices == 1:
        return RAW_SEND(connection.descriptor, slice.data, slice.size)
    if connection.n_slices > MAX_PIECES:
        data = joined(output, connection)
        if data == NULL:
            rearm(output, connection)
            return 0  # no memory for it now: as if the kernel had taken nothing
        return RAW_SEND(connection.descriptor, data, connection.pending)
    if connection.backlog != NULL:
        pieces[0].iov_base = backlog_bytes(connection.backlog) + connection.backlog.start
        pieces[0].iov_len = backlog_size(connection)
        n_pieces = 1
    while slice != NULL:
        pieces[n_pieces].iov_base = <void*>slice.data
        pieces[n_pieces].iov_len = slice.size
        n_pieces += 1
        slice = slice.next
    memset(&message, 0, sizeof(message))
    message.msg_iov = &pieces[0]
    message.msg_iovlen = n_pieces
    return RAW_SENDMSG(connection.descriptor, &message)


cdef void all_sent(Output* output, Connection* connection) noexcept nogil:
    if connection.backlog != NULL:
        backlog_free(output, connection)
    forget_slices(connection)
    connection.pending = 0
    if connection.state == STATE_CLOSING:
        # Closing now would reset the connection if input is unread, and the reset may overtake CLOSE: end our side,
        # read on until the peer ends its own (or the deadline).
        connection.state = STATE_LINGERING
        shutdown(connection.descriptor, SHUT_WR)


# It has taken in all there was. What comes after these frames is delivered again.
cdef void catch_up(Output* output, Connection* connection) noexcept nogil:
    if connection.congestion & CONGESTION_BEHIND:
        tell_gaps(output, connection)
    if connection.congestion & CONGESTION_SIGNALS:
        tell_signals(output, connection)


cdef void tell_gaps(Output* output, Connection* connection) noexcept nogil:
    cdef:
        Subscription* subscription = connection.subscriptions
        uint8_t* frame
    connection.congestion &= ~CONGESTION_BEHIND
    while subscription != NULL:
        if subscription.first_left_out:
            frame = output_reserve(output, HEADER_SIZE + GAP_SIZE)
            if frame == NULL:
                return  # without memory the client sees the hole by the next message's prev
            write_gap(
                frame, subscription.channel.number, subscription.first_left_out - 1, subscription.channel.last_id
            )
            if output.tap.is_on:
                tap_out(output.tap, connection, frame, subscription.channel)
            subscription.first_left_out = 0
            output.counters.gaps += 1
            output_add_slice(output, connection, frame, HEADER_SIZE + GAP_SIZE)
        subscription = subscription.next


cdef void flush_socket(Output* output, Connection* connection) noexcept nogil:
    send_pending(output, connection)
    if connection.congestion == 0 or connection.congestion & CONGESTION_BLOCKED:
        return
    if connection.pending == 0 and connection.state == STATE_READY:
        catch_up(output, connection)
        send_pending(output, connection)


cdef void send_pending(Output* output, Connection* connection) noexcept nogil:
    cdef ssize_t sent
    if connection.state == STATE_LOST:
        forget_slices(connection)
        return
    if connection.pending == 0:
        all_sent(output, connection)
        return
    if connection.congestion & CONGESTION_BLOCKED:
        if slices_to_backlog(output, connection) < 0:
            output_drop(output, connection, ERROR_OVERLOADED)
        return
    count_send_call(output, connection)
    sent = send_pieces(output, connection)
    if sent < 0:
        if errno == ENOBUFS or errno == ENOMEM or errno == EINTR:
            rearm(output, connection)  # the socket itself may have room: no edge would come
        elif errno != EAGAIN:
            output_drop(output, connection, 0)
            forget_slices(connection)
            return
        sent = 0
    output.counters.bytes_sent += <size_t>sent
    if <size_t>sent == connection.pending:
        all_sent(output, connection)
        return
    output.counters.sends_incomplete += 1
    if keep_rest(output, connection, <size_t>sent) < 0:
        output_drop(output, connection, ERROR_OVERLOADED)
        forget_slices(connection)
        return
    connection.congestion |= CONGESTION_BLOCKED


cdef void flush_listed(Output* output, Connection* connection, bint may_hold) noexcept nogil:
    cdef Connection* following
    while connection != NULL:
        following = connection.next_dirty
        PREFETCH(following)
        if may_hold and window_holds(output, connection):
            pass
        elif connection.transport != NULL:
            connection.next_dirty = output.transports
            output.transports = connection
        else:
            flush_socket(output, connection)
            connection.is_dirty = False  # only now: what the flush itself appends, it sends
        connection = following


cdef void flush_sockets(Output* output) noexcept nogil:
    cdef Connection* dirty = output.dirty
    if output.window.held != NULL:
        flush_listed(output, window_take_due(output), False)
    output.dirty = NULL
    flush_listed(output, dirty, output.window.length != 0)
    if output.window.length:
        window_end_turn(output)


cdef bytes take_pending(Output* output, Connection* connection):
    cdef:
        bytes pending = PyBytes_FromStringAndSize(NULL, connection.pending)
        uint8_t* target = <uint8_t*>PyBytes_AS_STRING(pending)
        size_t held = backlog_size(connection)
    if held:
        memcpy(target, backlog_bytes(connection.backlog) + connection.backlog.start, held)
    copy_slices(connection, 0, target + held)
    backlog_free(output, connection)
    forget_slices(connection)
    connection.pending = 0
    return pending


cdef void output_end_turn(Output* output) noexcept nogil:
    if output.window.held != NULL:
        return
    output.turn += 1
    arena_reset(&output.bytes)
    arena_reset(&output.nodes)


cdef void output_free(Output* output) noexcept nogil:
    arena_free(&output.bytes)
    arena_free(&output.nodes)
    table_free(&output.signals)  # empty: they are their connections'
    free(output.scratch)
    output.scratch = NULL
    output.scratch_capacity = 0
