"""The sockets of a worker in one epoll set; see reactor.pxd."""

from libc.stdint cimport uint8_t
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC, errno
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport close

from chatcore_ext.connection cimport connection_handle, connection_new, connection_of, connection_release
from chatcore_ext.constants cimport BURST_EVENTS, RECEIVE_BUFFER_SIZE
from chatcore_ext.deadlines cimport set_deadline
from chatcore_ext.error_codes cimport ERROR_TOO_MANY_CONNECTIONS
from chatcore_ext.frame cimport FRAME_NEED_MORE, FRAME_READY, Frame, assembler_clear, next_frame
from chatcore_ext.hub_state cimport MAX_LISTENERS
from chatcore_ext.inbound cimport handle_frame
from chatcore_ext.output cimport (
    RAW_RECV, WATCHED_EVENTS, flush_sockets, output_close, output_drop, output_mark_dirty, rearm,
)
from chatcore_ext.tables cimport STATE_CLOSING, STATE_LOST
from chatcore_ext.token_bucket cimport bucket_init

cdef extern from "<sys/socket.h>" nogil:
    enum:
        SOCK_NONBLOCK
        SOCK_CLOEXEC
    int accept4(int descriptor, void* address, void* size, int flags) noexcept
    int setsockopt(int descriptor, int level, int option, const void* value, unsigned int size) noexcept

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        unsigned long long u64
    cdef struct epoll_event:
        unsigned int events
        epoll_data_t data
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLLHUP
        EPOLLERR
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
    int epoll_create1(int flags) noexcept
    int epoll_ctl(int epoll, int operation, int descriptor, epoll_event* event) noexcept
    int epoll_wait(int epoll, epoll_event* events, int size, int timeout) noexcept

cdef enum:
    ACCEPTS_PER_TURN = 64      # a storm of new connections must not hold up those that are here
    # Connections over the limit that may be waiting to hear so; beyond it they are closed without a word.
    MAX_REFUSALS_UNDER_WAY = 1024

# Marks a listener among the handles of an epoll set: no connection has generation 0.
cdef inline unsigned long long listener_mark(int i) noexcept nogil:
    return <unsigned long long>i


cdef unsigned long long milliseconds(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <unsigned long long>now.tv_sec * 1000 + <unsigned long long>now.tv_nsec // 1000000


cdef void read_clocks(HubState* hub) noexcept nogil:
    hub.now_ms = milliseconds(CLOCK_MONOTONIC) + hub.clock_shift_ms
    hub.time_ms = milliseconds(CLOCK_REALTIME)


# --- listening ---

cdef int reactor_open(HubState* hub) noexcept nogil:
    hub.epoll_descriptor = epoll_create1(EPOLL_CLOEXEC)
    hub.output.epoll_descriptor = hub.epoll_descriptor
    return hub.epoll_descriptor


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

cdef void admit(HubState* hub, Connection* connection) noexcept nogil:
    connection.last_seen = hub.now_ms
    if hub.n_open >= hub.limits.max_connections:
        hub.counters.connections_refused += 1
        hub.n_open += 1
        output_close(&hub.output, connection, ERROR_TOO_MANY_CONNECTIONS, NULL, 0, 0)
        return
    hub.n_open += 1
    hub.counters.connections_accepted += 1
    bucket_init(&connection.bucket, hub.limits.frame_burst, <long long>hub.now_ms)
    set_deadline(hub, connection)


cdef bint is_overrun(const HubState* hub) noexcept nogil:
    return hub.n_open >= hub.limits.max_connections and (
        hub.connections.n_used >= hub.limits.max_connections + MAX_REFUSALS_UNDER_WAY
    )


cdef Connection* adopt(HubState* hub, int descriptor, int* error) noexcept nogil:
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
    admit(hub, connection)
    return connection


cdef void accept_from(HubState* hub, int i) noexcept nogil:
    cdef:
        int descriptor, error
        int n_left = ACCEPTS_PER_TURN
    while n_left > 0:
        n_left -= 1
        descriptor = accept4(hub.listeners[i].descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if descriptor < 0:
            if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
                # The connection stays in the queue and the listener readable: without a pause we would spin on it.
                hub.listeners[i].is_paused = True
                hub.counters.accept_pauses += 1
                watch_listener(hub, i, EPOLL_CTL_MOD, 0)
            if errno != EINTR and errno != ECONNABORTED:
                return
        elif is_overrun(hub):
            hub.counters.connections_refused += 1
            close(descriptor)
        elif adopt(hub, descriptor, &error) == NULL:
            close(descriptor)


# --- input ---

cdef void take_input(HubState* hub, Connection* connection, const uint8_t* data, size_t size) noexcept nogil:
    cdef:
        const uint8_t* end = data + size
        Frame frame
        int result
    connection.last_seen = hub.now_ms
    hub.counters.bytes_received += size
    while connection.state < STATE_CLOSING:
        result = next_frame(&connection.assembler, &data, end, hub.limits.max_frame_size, &frame)
        if result == FRAME_READY:
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
        if events[i].data.u64 < MAX_LISTENERS:
            accept_from(hub, <int>events[i].data.u64)
            continue
        connection = connection_of(&hub.connections, events[i].data.u64)
        if connection == NULL or connection.state == STATE_LOST:
            continue
        if events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            receive(hub, connection, (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
        if connection.is_blocked and events[i].events & EPOLLOUT:
            connection.is_blocked = False
            output_mark_dirty(&hub.output, connection)
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
