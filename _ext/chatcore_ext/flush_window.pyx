"""Output of busy connections that waits for the window's end; see flush_window.pxd."""

from posix.time cimport CLOCK_MONOTONIC, itimerspec
from posix.unistd cimport close

from chatcore_ext.arena cimport arena_used
from chatcore_ext.linux cimport TFD_CLOEXEC, TFD_NONBLOCK, timerfd_create, timerfd_settime
from chatcore_ext.tables cimport DIRTY_HELD, DIRTY_HURRIED, DIRTY_LISTED, STATE_READY

cdef enum:
    # us. The time of a connection's last flush is kept in 16 bits of these: it comes round each second, and one that
    # was silent for just so long may wait for a window. No harm.
    UNIT = 16
    AT_RATE = 64               # a gap as the rate has it, on the scale of `mean_gap`
    # A pause of any length counts as two such gaps: it ends the holding after some five of them, and as many short ones
    # begin it again.
    LONGEST_GAP = 2 * AT_RATE
    # Bytes of frames and notes with which the window ends at the next flush: about what the arenas keep anyway.
    MOST_HELD = 1 << 21


cdef int window_open(Output* output, unsigned int length_us, unsigned int rate) noexcept nogil:
    output.window.descriptor = -1
    if length_us == 0:
        return 0
    output.window.length = length_us // UNIT
    output.window.gap_at_rate = max(<unsigned int>(1000000 // UNIT) // rate, <unsigned int>1)
    output.window.descriptor = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    return output.window.descriptor


cdef void window_close(Output* output) noexcept nogil:
    if output.window.descriptor >= 0:
        close(output.window.descriptor)
        output.window.descriptor = -1


cdef inline unsigned short now_of(const Output* output) noexcept nogil:
    return <unsigned short>(output.now_us // UNIT)


cdef void window_admit(Output* output, Connection* connection) noexcept nogil:
    connection.last_flush = now_of(output)
    connection.mean_gap = LONGEST_GAP


cdef bint window_holds(Output* output, Connection* connection) noexcept nogil:
    cdef:
        unsigned short now = now_of(output)
        unsigned int gap = <unsigned short>(now - connection.last_flush)
        unsigned int relative = min(gap * AT_RATE // output.window.gap_at_rate, <unsigned int>LONGEST_GAP)
    # From the last flush to the next output, an exponentially weighted mean: for messages at random times it is the
    # same whether the flush was held or not.
    connection.mean_gap = <unsigned char>((7 * connection.mean_gap + relative + 4) // 8)
    if (
        gap >= output.window.length or connection.mean_gap >= AT_RATE or connection.congestion
        or connection.state != STATE_READY or connection.is_dirty == DIRTY_HURRIED
    ):
        connection.last_flush = now
        return False
    connection.is_dirty = DIRTY_HELD
    connection.next_dirty = output.window.held
    output.window.held = connection
    output.counters.flushes_held += 1
    return True


cdef bint is_full(const Output* output) noexcept nogil:
    return arena_used(&output.bytes) + arena_used(&output.nodes) > MOST_HELD


cdef bint window_is_due(const Output* output) noexcept nogil:
    return output.window.held != NULL and (output.window.is_over or output.window.is_hurried or is_full(output))


cdef Connection* take_all(Output* output) noexcept nogil:
    cdef Connection* due = output.window.held
    cdef Connection* connection = due
    while connection != NULL:
        connection.last_flush = now_of(output)
        connection.is_dirty = DIRTY_LISTED
        connection = connection.next_dirty
    output.window.held = NULL
    return due


cdef Connection* take_hurried(Output* output) noexcept nogil:
    cdef:
        Connection** place = &output.window.held
        Connection* connection
        Connection* due = NULL
    while place[0] != NULL:
        connection = place[0]
        if connection.is_dirty == DIRTY_HELD and connection.state == STATE_READY:
            place = &connection.next_dirty
            continue
        place[0] = connection.next_dirty
        connection.last_flush = now_of(output)
        connection.is_dirty = DIRTY_LISTED
        connection.next_dirty = due
        due = connection
    return due


cdef Connection* window_take_due(Output* output) noexcept nogil:
    cdef Connection* due = NULL
    if output.window.is_over or is_full(output):
        due = take_all(output)
    elif output.window.is_hurried or output.doomed != NULL:
        due = take_hurried(output)
    output.window.is_over = False
    output.window.is_hurried = False
    return due


cdef void window_end_turn(Output* output) noexcept nogil:
    cdef itimerspec end
    if output.window.held == NULL:
        output.window.is_over = False
        output.window.is_hurried = False
        return
    if not output.window.is_armed:
        end.it_interval.tv_sec = 0
        end.it_interval.tv_nsec = 0
        end.it_value.tv_sec = 0
        end.it_value.tv_nsec = <long>output.window.length * UNIT * 1000
        output.window.is_armed = timerfd_settime(output.window.descriptor, 0, &end, NULL) == 0


cdef void window_timer_fired(Output* output) noexcept nogil:
    output.window.is_armed = False
    output.window.is_over = True
