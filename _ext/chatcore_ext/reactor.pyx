"""The sockets of a worker in one epoll set; see reactor.pxd."""

from libc.stdint cimport uint8_t
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC, errno
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport close

from chatcore_ext.addresses cimport (
    NO_ADDRESS, Address, address_enter, address_find, addresses_forget, key_of_sockaddr,
)
from chatcore_ext.connection cimport connection_handle, connection_new, connection_of, connection_release
from chatcore_ext.constants cimport BURST_EVENTS, RECEIVE_BUFFER_SIZE, RETRY_AFTER_MS
from chatcore_ext.deadlines cimport set_deadline
from chatcore_ext.error_codes cimport ERROR_OVERLOADED, ERROR_TOO_MANY_CONNECTIONS
from chatcore_ext.flush_window cimport window_admit, window_open, window_timer_fired
from chatcore_ext.frame cimport FRAME_NEED_MORE, FRAME_READY, Frame, assembler_clear, next_frame
from chatcore_ext.half_open cimport half_open_add, half_open_take_oldest
from chatcore_ext.hub_state cimport MAX_LISTENERS
from chatcore_ext.inbound cimport handle_frame
from chatcore_ext.linux cimport (
    EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL,
    EPOLL_CTL_MOD, epoll_create1, epoll_ctl, epoll_event, epoll_wait,
)
from chatcore_ext.output cimport (
    RAW_RECV, WATCHED_EVENTS, flush_sockets, output_close, output_drop, output_hurry, output_mark_dirty,
    rearm,
)
from chatcore_ext.tables cimport CONGESTION_BLOCKED, STATE_CLOSING, STATE_LOST
from chatcore_ext.token_bucket cimport bucket_init, bucket_take

cdef extern from "<sys/socket.h>" nogil:
    enum:
        SOCK_NONBLOCK
        SOCK_CLOEXEC
    cdef struct sockaddr_storage:
        pass
    int accept4(int descriptor, void* address, unsigned int* size, int flags) noexcept
    int setsockopt(int descriptor, int level, int option, const void* value, unsigned int size) noexcept

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY

cdef enum:
    ACCEPTS_PER_TURN = 64      # a storm of new connections must not hold up those that are here

# Marks a listener, or the timer of the flush window, among the handles of an epoll set: no connection has generation 0.
cdef enum:
    WINDOW_MARK = MAX_LISTENERS

cdef inline unsigned long long listener_mark(int i) noexcept nogil:
    return <unsigned long long>i


cdef unsigned long long microseconds(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <unsigned long long>now.tv_sec * 1000000 + <unsigned long long>now.tv_nsec // 1000


cdef void read_clocks(HubState* hub) noexcept nogil:
    hub.now_us = microseconds(CLOCK_MONOTONIC)
    hub.now_ms = hub.now_us // 1000 + hub.clock_shift_ms
    hub.output.now_ms = hub.now_ms
    hub.output.now_us = hub.now_us + hub.clock_shift_ms * 1000
    # A clock that was set back stands still until it has caught up: records' times grow.
    hub.time_ms = max(hub.time_ms, microseconds(CLOCK_REALTIME) // 1000 + <unsigned long long>hub.wall_shift_ms)


# --- listening ---

cdef int reactor_open(HubState* hub) noexcept nogil:
    hub.epoll_descriptor = epoll_create1(EPOLL_CLOEXEC)
    hub.output.epoll_descriptor = hub.epoll_descriptor
    return hub.epoll_descriptor


cdef int reactor_open_window(HubState* hub, unsigned int length_us, unsigned int rate) noexcept nogil:
    cdef epoll_event event
    if window_open(&hub.output, length_us, rate) < 0:
        return -1
    if length_us == 0:
        return 0
    event.events = EPOLLIN | EPOLLET
    event.data.u64 = WINDOW_MARK
    return epoll_ctl(hub.epoll_descriptor, EPOLL_CTL_ADD, hub.output.window.descriptor, &event)


cdef int watch_listener(HubState* hub, int i, int operation, unsigned int events) noexcept nogil:
    cdef epoll_event event
    event.events = events
    event.data.u64 = listener_mark(i)
    return epoll_ctl(hub.epoll_descriptor, operation, hub.listeners[i].descriptor, &event)


cdef int listen_on(HubState* hub, int descriptor) noexcept nogil:
    cdef int i = hub.n_listeners
    if i == MAX_LISTENERS:
        return ENOSPC
    hub.listeners[i].descriptor = descriptor
    hub.listeners[i].is_paused = False
    if watch_listener(hub, i, EPOLL_CTL_ADD, EPOLLIN) < 0:
        return errno
    hub.n_listeners += 1
    return 0


cdef void stop_listening(HubState* hub) noexcept nogil:
    cdef int i
    for i in range(hub.n_listeners):
        watch_listener(hub, i, EPOLL_CTL_DEL, 0)
    hub.n_listeners = 0


cdef void resume_listening(HubState* hub) noexcept nogil:
    cdef int i
    for i in range(hub.n_listeners):
        if hub.listeners[i].is_paused:
            hub.listeners[i].is_paused = False
            watch_listener(hub, i, EPOLL_CTL_MOD, EPOLLIN)


# --- new connections ---

# The oldest that has not said HELLO goes, if there is one: of all who are here it is the least likely to be a player.
cdef bint make_way(HubState* hub) noexcept nogil:
    cdef Connection* oldest = half_open_take_oldest(&hub.half_open, &hub.connections)
    if oldest == NULL:
        return False
    hub.counters.half_open_gave_way += 1
    output_close(&hub.output, oldest, ERROR_TOO_MANY_CONNECTIONS, NULL, 0, 0)
    return True


# The ms after which one more connection may come from there; 0: now.
cdef unsigned int wait_of(HubState* hub, unsigned int slot) noexcept nogil:
    cdef:
        Address* address = &hub.addresses.slots[slot]
        long long wait
    if slot == NO_ADDRESS or address.is_unlimited:
        return 0
    if address.n_connections >= hub.limits.max_connections_per_address:
        return RETRY_AFTER_MS
    wait = bucket_take(
        &address.accepts, hub.limits.accepts_per_second, hub.limits.accept_burst, 1, <long long>hub.now_ms
    )
    return <unsigned int>min(wait, <long long>0xFFFFFFFF)


cdef Entry entry_for(HubState* hub, unsigned int address) noexcept nogil:
    cdef Entry entry
    entry.address = address
    entry.refusal = 0
    entry.retry_after_ms = wait_of(hub, address)
    if entry.retry_after_ms:
        hub.counters.connections_refused_by_address += 1
        entry.refusal = ERROR_TOO_MANY_CONNECTIONS
    elif hub.output.total_pending >= hub.output.max_total_pending:
        hub.counters.connections_refused_by_pending += 1
        entry.refusal = ERROR_OVERLOADED
        entry.retry_after_ms = RETRY_AFTER_MS
    elif hub.n_open >= hub.limits.max_connections or hub.n_half_open >= hub.limits.max_half_open:
        if not make_way(hub):
            entry.refusal = ERROR_TOO_MANY_CONNECTIONS
    if entry.refusal:
        hub.counters.connections_refused += 1
    return entry


cdef bint is_overrun(const HubState* hub) noexcept nogil:
    return hub.connections.n_used - hub.n_open >= hub.limits.max_closing


cdef bint is_out_of_room(const HubState* hub) noexcept nogil:
    return hub.connections.n_used > <unsigned long long>hub.limits.max_connections + hub.limits.max_closing


cdef void admit(HubState* hub, Connection* connection, const Entry* entry) noexcept nogil:
    connection.last_seen = hub.now_ms
    connection.address = entry.address
    address_enter(&hub.addresses, entry.address)
    if entry.refusal:
        # It was never in, so there is nobody to be told and nothing to be undone.
        connection.is_detached = True
        hub.counters.closed[entry.refusal] += 1
        output_close(&hub.output, connection, entry.refusal, NULL, 0, entry.retry_after_ms)
        return
    hub.n_open += 1
    hub.n_half_open += 1
    hub.counters.connections_accepted += 1
    bucket_init(&connection.frames, hub.limits.frame_burst, <long long>hub.now_ms)
    bucket_init(&connection.excess, hub.limits.excess_burst, <long long>hub.now_ms)
    half_open_add(&hub.half_open, &hub.connections, connection_handle(connection))
    set_deadline(hub, connection)
    window_admit(&hub.output, connection)


cdef Connection* adopt(HubState* hub, int descriptor, const Entry* entry, int* error) noexcept nogil:
    cdef:
        Connection* connection = connection_new(&hub.connections)
        epoll_event event
        int on = 1
    if connection == NULL:
        error[0] = ENOMEM
        return NULL
    event.events = WATCHED_EVENTS
    event.data.u64 = connection_handle(connection)
    if epoll_ctl(hub.epoll_descriptor, EPOLL_CTL_ADD, descriptor, &event) < 0:
        error[0] = errno
        connection_release(&hub.connections, connection)
        return NULL
    connection.descriptor = descriptor
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))  # no harm where it is no TCP socket
    admit(hub, connection, entry)
    return connection


cdef void pause_listening(HubState* hub, int i) noexcept nogil:
    # The connection stays in the queue and the listener readable: without a pause we would spin on it.
    hub.listeners[i].is_paused = True
    hub.counters.accept_pauses += 1
    watch_listener(hub, i, EPOLL_CTL_MOD, 0)


cdef void take_in(HubState* hub, int descriptor, const void* peer) noexcept nogil:
    cdef:
        unsigned long long key
        unsigned int address = NO_ADDRESS
        Entry entry
        int error
    if key_of_sockaddr(peer, &key):
        address = address_find(&hub.addresses, key, hub.limits.accept_burst, hub.now_ms)
    entry = entry_for(hub, address)
    if (entry.refusal and is_overrun(hub)) or adopt(hub, descriptor, &entry, &error) == NULL:
        close(descriptor)


cdef void accept_from(HubState* hub, int i) noexcept nogil:
    cdef:
        sockaddr_storage peer
        unsigned int size
        int descriptor
        int n_left = ACCEPTS_PER_TURN
    while n_left > 0:
        n_left -= 1
        size = sizeof(peer)
        descriptor = accept4(hub.listeners[i].descriptor, <void*>&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if descriptor >= 0:
            take_in(hub, descriptor, &peer)
            continue
        if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
            pause_listening(hub, i)
        if errno != EINTR and errno != ECONNABORTED:
            return


cdef void forget_addresses(HubState* hub) noexcept nogil:
    # As long as an empty bucket takes to be full again.
    cdef unsigned long long memory_ms = (
        <unsigned long long>hub.limits.accept_burst * 1000 // hub.limits.accepts_per_second + 1
    )
    addresses_forget(&hub.addresses, hub.now_ms, memory_ms)


# --- input ---

cdef void take_input(HubState* hub, Connection* connection, const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        const uint8_t* end = data + size
        Frame frame
        int result
    hub.counters.bytes_received += size
    while connection.state < STATE_CLOSING:
        result = next_frame(&connection.assembler, &data, end, hub.limits.max_frame_size, &frame)
        if result == FRAME_READY:
            # Bytes alone are no sign of life: who sends one a second would hold its place for ever.
            connection.last_seen = hub.now_ms
            handle_frame(hub, connection, frame.type, frame.body, frame.body_len)
        elif result == FRAME_NEED_MORE:
            return
        else:
            output_close(&hub.output, connection, result, NULL, 0, 0)
    assembler_clear(&connection.assembler)


cdef void receive(HubState* hub, Connection* connection, bint has_ended) noexcept nogil:
    cdef ssize_t size = RAW_RECV(connection.descriptor, hub.receive_buffer, RECEIVE_BUFFER_SIZE)
    hub.counters.receive_calls += 1
    if size > 0:
        if connection.state < STATE_CLOSING:
            take_input(hub, connection, hub.receive_buffer, size)
        # Otherwise it has ended for us: what still comes is only read so that our CLOSE is not lost to a reset.
        # A read that leaves room has drained the socket, so the next bytes make a new edge (epoll(7)); the end of the
        # stream has made its edge already.
        if size == RECEIVE_BUFFER_SIZE or has_ended:
            rearm(&hub.output, connection)
    elif size == 0 or (errno != EAGAIN and errno != EINTR):
        output_drop(&hub.output, connection, 0)
    elif errno == EINTR:
        rearm(&hub.output, connection)


cdef void burst(HubState* hub) noexcept nogil:
    cdef:
        epoll_event[BURST_EVENTS] events
        Connection* connection
        int n_events, i
    n_events = epoll_wait(hub.epoll_descriptor, &events[0], BURST_EVENTS, 0)
    for i in range(n_events):
        if events[i].data.u64 <= WINDOW_MARK:
            if events[i].data.u64 == WINDOW_MARK:
                window_timer_fired(&hub.output)
            else:
                accept_from(hub, <int>events[i].data.u64)
            continue
        connection = connection_of(&hub.connections, events[i].data.u64)
        if connection == NULL or connection.state == STATE_LOST:
            continue
        if events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            receive(hub, connection, (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
        if connection.congestion & CONGESTION_BLOCKED and events[i].events & EPOLLOUT:
            connection.congestion &= ~CONGESTION_BLOCKED
            output_mark_dirty(&hub.output, connection)
            output_hurry(&hub.output, connection)
    flush_sockets(&hub.output)


# --- the end ---

cdef void close_descriptor(Connection* connection) noexcept nogil:
    if connection.descriptor >= 0:
        close(connection.descriptor)  # also takes it out of the epoll set
        connection.descriptor = -1


cdef void reactor_close(HubState* hub) noexcept nogil:
    if hub.epoll_descriptor >= 0:
        close(hub.epoll_descriptor)
        hub.epoll_descriptor = -1
