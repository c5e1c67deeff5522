"""What connections are to be sent this turn, and the one flush that sends it.

Bytes are written once into the turn's arena; each receiver only notes where they lie. At the flush every connection
with output gets at most one system call (flush_window.pxd may hold busy ones for some turns, and the arena with them);
what the kernel does not take is copied into the connection's own backlog, so nothing points into the arena after its
turn. Never waits, never lets one receiver hold up another.
"""

from libc.stdint cimport uint8_t

from chatcore_ext.arena cimport Arena, arena_take, arena_take_aligned
from chatcore_ext.counters cimport Counters, count_frames_of_send
from chatcore_ext.pointer_table cimport PointerTable
from chatcore_ext.tables cimport DIRTY_HELD, DIRTY_HURRIED, DIRTY_LISTED, Connection, Slice
from chatcore_ext.tap cimport Tap, tap_out


cdef extern from *:
    """
    #include <errno.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    /*
     * Edges, for both directions at once: a level-triggered set polls each socket a second time after every event, to
     * find that it has nothing more (6 % of the whole cost of 1:1 traffic), and wants a system call to begin and to end
     * the watch for room. An edge for room only comes after the kernel has taken less than it was given.
     */
    #define WATCHED_EVENTS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)
    /*
     * glibc's send() and recv() are cancellation points: in a process with threads each call switches asynchronous
     * cancellation on and off. Nobody cancels threads here.
     */
    #define RAW_SEND(descriptor, data, size) \
        syscall(SYS_sendto, descriptor, data, size, MSG_NOSIGNAL | MSG_DONTWAIT, (void*)0, 0)
    #define RAW_SENDMSG(descriptor, message) syscall(SYS_sendmsg, descriptor, message, MSG_NOSIGNAL | MSG_DONTWAIT)
    /* Between two turns the kernel's sends have pushed every connection out of the caches. */
    #define PREFETCH(address) __builtin_prefetch(address, 1)
    #define RAW_RECV(descriptor, data, size) \
        syscall(SYS_recvfrom, descriptor, data, size, MSG_DONTWAIT, (void*)0, (void*)0)
    """
    enum:
        WATCHED_EVENTS
    void PREFETCH(const void* address) noexcept nogil
    ssize_t RAW_SEND(int descriptor, const void* data, size_t size) noexcept nogil
    ssize_t RAW_SENDMSG(int descriptor, const void* message) noexcept nogil
    ssize_t RAW_RECV(int descriptor, void* data, size_t size) noexcept nogil


# flush_window.pxd
cdef struct FlushWindow:
    unsigned int length        # in units of 16 us; 0: off
    unsigned int gap_at_rate   # the same, between two outputs of a connection that is just busy enough
    Connection* held           # by next_dirty
    int descriptor             # of the timer
    bint is_armed
    bint is_over               # all who are held are due
    bint is_hurried            # some of them are


# Loop thread only.
cdef struct Output:
    Arena bytes                # encoded frames
    Arena nodes                # Slices; apart from the bytes so that frames of one channel lie side by side
    Connection* dirty          # has output or may write again
    Connection* doomed         # to be put away at the end of the turn
    Connection* transports     # flush_sockets leaves these to flush_transport, which needs the GIL
    unsigned long long turn    # numbers the resets: tells whether something in the arena is of this turn
    unsigned int max_pending   # bytes unsent per connection, then it is closed
    unsigned int pause_pending  # bytes unsent per connection, then it is sent no more messages and signals
    PointerTable signals       # kept_signals.pxd, by connection index
    FlushWindow window
    unsigned long long now_ms  # the hub's
    unsigned long long now_us  # the same clock
    size_t total_pending       # bytes in the backlogs of all connections, and what their kept signals take
    size_t max_total_pending   # from there on no backlog grows; see backlog.pxd
    int epoll_descriptor
    uint8_t* scratch              # where many small slices are joined
    size_t scratch_capacity
    Counters* counters
    Tap* tap


cdef inline void output_mark_dirty(Output* output, Connection* connection) noexcept nogil:
    if not connection.is_dirty:
        connection.is_dirty = DIRTY_LISTED
        connection.next_dirty = output.dirty
        output.dirty = connection


# Note a frame for the next flush. The bytes must stay where they are until then. Whoever would get over the bound,
# though the kernel was offered what is pending, is closed instead (slow_receiver). Checks no state.
cdef inline void output_append(Output* output, Connection* connection, const uint8_t* data, size_t size) noexcept nogil:
    cdef Slice* last
    if connection.pending + size > output.max_pending and not output_make_room(output, connection, size):
        output_overflow(output, connection)
        return
    last = connection.last
    if last != NULL and last.data + last.size == data:
        connection.pending += <unsigned int>size
        last.size += <unsigned int>size
        last.n_frames += 1
        return
    output_add_slice(output, connection, data, size)


cdef inline void output_add_slice(
    Output* output, Connection* connection, const uint8_t* data, size_t size
) noexcept nogil:
    cdef Slice* slice = &connection.first
    if connection.last != NULL:
        slice = <Slice*>arena_take_aligned(&output.nodes, sizeof(Slice))
        if slice == NULL:
            output_drop(output, connection, 0)
            return
        connection.last.next = slice
    slice.data = data
    slice.size = <unsigned int>size
    slice.n_frames = 1
    slice.next = NULL
    connection.last = slice
    connection.n_slices += 1
    connection.pending += <unsigned int>size
    output_mark_dirty(output, connection)


# A whole frame to this connection alone, as output_append; a trace sees it.
cdef inline void output_frame(Output* output, Connection* connection, const uint8_t* frame, size_t size) noexcept nogil:
    if output.tap.is_on:
        tap_out(output.tap, connection, frame, NULL)
    output_append(output, connection, frame, size)
    if output.window.length:
        output_hurry(output, connection)


# What is pending for it must not wait for the end of a window.
cdef inline void output_hurry(Output* output, Connection* connection) noexcept nogil:
    if connection.is_dirty == DIRTY_HELD:
        output.window.is_hurried = True
    if connection.is_dirty:
        connection.is_dirty = DIRTY_HURRIED


# A send call for what is pending is about to be made: counts it.
cdef inline void count_send_call(Output* output, const Connection* connection) noexcept nogil:
    cdef:
        const Slice* slice = &connection.first
        unsigned int n_frames = 0
    if connection.last != NULL:
        n_frames = slice.n_frames
        while slice != connection.last:
            slice = slice.next
            n_frames += slice.n_frames
    count_frames_of_send(output.counters, n_frames)


# Room for a frame in the arena. NULL: no memory.
cdef inline uint8_t* output_reserve(Output* output, size_t size) noexcept nogil:
    return arena_take(&output.bytes, size)


# Offer the kernel what is pending, in the middle of a turn. True: `size` more bytes are within the bound now. A turn
# may have more for somebody than the bound, and who reads well must not pay for it.
cdef bint output_make_room(Output* output, Connection* connection, size_t size) noexcept nogil
cdef void output_overflow(Output* output, Connection* connection) noexcept nogil
# Put it away at the end of the turn.
cdef void output_doom(Output* output, Connection* connection) noexcept nogil
# The socket is of no use any more (or never mind its bytes): close it without a word. `code` is for the books.
cdef void output_drop(Output* output, Connection* connection, int code) noexcept nogil
# CLOSE frame after what is pending, then the end. A second call for the same connection does nothing.
cdef void output_close(
    Output* output, Connection* connection, int code, const uint8_t* message, size_t size, unsigned int retry_after_ms
) noexcept nogil
# To be called for one that lags and is no longer blocked: GAP frames and missed signals, behind what is pending.
cdef void catch_up(Output* output, Connection* connection) noexcept nogil
# Send to every dirty socket; transports are moved to `transports`. Doomed ones go to `doomed`.
cdef void flush_sockets(Output* output) noexcept nogil
# All that is pending for a transport as one bytes object, backlog included; empties both.
cdef bytes take_pending(Output* output, Connection* connection)
# Have epoll look at the socket afresh: what is ready now is told in the next turn (see WATCHED_EVENTS).
cdef void rearm(Output* output, const Connection* connection) noexcept nogil
# After the flush: the arena is empty again, unless something in it is held.
cdef void output_end_turn(Output* output) noexcept nogil
cdef void output_free(Output* output) noexcept nogil
