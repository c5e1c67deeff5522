"""The face of a load's connections to Python; see load_clients.pyi.

Never opens a socket, never logs in and never decides when a run ends.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC
from posix.unistd cimport close

from chatcore_ext.constants cimport MAX_BODY_LENGTH, SEND_PREFIX_SIZE
from chatcore_ext.frame cimport store_bytes
from chatcore_ext.linux cimport (
    EPOLLIN, EPOLLOUT, EPOLL_CLOEXEC, EPOLL_CTL_ADD, TFD_CLOEXEC, TFD_NONBLOCK, epoll_create1, epoll_ctl, epoll_event,
    timerfd_create,
)
from chatcore_ext.load_checker cimport LoadChecker
from chatcore_ext.load_sockets cimport (
    KIND_FRAME, KIND_HEAL, KIND_LOST, MAX_CODE, NS_PER_MS, RECEIVE_SIZE, SOCKET_CLOSED, SOCKET_GREETING, SOCKET_READY,
    TIMER_MARK, LoadSocket, QueuedEvent, clock_ns,
)
from chatcore_ext.load_tables cimport LOAD_BODY_SIZE, NO_INDEX, message_unknown

EVENT_FRAME = <int>KIND_FRAME
EVENT_LOST = <int>KIND_LOST
EVENT_HEAL = <int>KIND_HEAL
Event = tuple[int, int, int, bytes]


cdef class LoadClients(LoadSockets):

    def __cinit__(self):
        self.epoll_descriptor = self.timer_descriptor = -1

    def __init__(self, uint64_t run, uint32_t body_size):
        cdef epoll_event event
        LoadChecker.__init__(self, run)
        if not LOAD_BODY_SIZE <= body_size <= MAX_BODY_LENGTH - SEND_PREFIX_SIZE:
            raise ValueError(f"a message of a load has at least {LOAD_BODY_SIZE} bytes")
        self.body_size = body_size
        self.received = <uint8_t*>malloc(RECEIVE_SIZE)
        if self.received == NULL:
            raise MemoryError
        self.epoll_descriptor = epoll_create1(EPOLL_CLOEXEC)
        self.timer_descriptor = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        event.events = EPOLLIN
        event.data.u64 = TIMER_MARK
        if (
            self.epoll_descriptor < 0 or self.timer_descriptor < 0
            or epoll_ctl(self.epoll_descriptor, EPOLL_CTL_ADD, self.timer_descriptor, &event) < 0
        ):
            raise OSError(errno, "epoll or timerfd")
        self.time_ns = clock_ns()

    def __dealloc__(self):
        self.close_all()
        free(self.sockets)
        free(self.dirty)
        free(self.paused)
        free(self.received)
        free(self.queue)

    def close_all(self):
        cdef uint32_t client
        if self.sockets != NULL:
            for client in range(self.tables.n_clients):
                self.drop(client)
                free(self.sockets[client].out)
                self.sockets[client].out = NULL
        for descriptor in (self.epoll_descriptor, self.timer_descriptor):
            if descriptor >= 0:
                close(descriptor)
        self.epoll_descriptor = self.timer_descriptor = -1

    def add_client(self, bytes name not None, list channels not None):
        cdef uint32_t needed = self.tables.n_clients + 1
        cdef uint32_t capacity
        cdef LoadSocket* socket
        if needed > self.sockets_capacity:
            capacity = self.sockets_capacity * 2 if self.sockets_capacity else 64
            self.sockets = <LoadSocket*>_grown(self.sockets, capacity * sizeof(LoadSocket))
            self.dirty = <uint32_t*>_grown(self.dirty, capacity * sizeof(uint32_t))
            self.paused = <uint32_t*>_grown(self.paused, capacity * sizeof(uint32_t))
            self.sockets_capacity = capacity
        socket = &self.sockets[self.tables.n_clients]
        memset(socket, 0, sizeof(LoadSocket))
        socket.descriptor = -1
        socket.next_seq = 1
        socket.first_open = socket.next_unsent = socket.newest = NO_INDEX
        return LoadChecker.add_client(self, name, channels)

    def set_limits(self, uint32_t window, uint64_t heartbeat_ms, uint64_t grace_ms):
        self.window = window
        self.heartbeat_ns = heartbeat_ms * NS_PER_MS
        self.grace_ns = grace_ms * NS_PER_MS

    @property
    def n_ready(self) -> int:
        return self.n_ready_sockets

    @property
    def n_scheduled(self) -> int:
        return self.schedule.n_messages - self.schedule.n_planned

    def now_ns(self):
        return clock_ns()

    cdef int check_client(self, uint32_t client) except -1:
        if client >= self.tables.n_clients:
            raise IndexError(f"there is no client {client}")
        return 0

    # ---- Connections -------------------------------------------------------------------------------------------------

    def open(self, uint32_t client, int descriptor, bytes data not None):
        cdef:
            LoadSocket* socket
            epoll_event event
            uint8_t* at
        self.check_client(client)
        socket = &self.sockets[client]
        if socket.state != SOCKET_CLOSED:
            raise ValueError(f"client {client} has a connection")
        event.events = EPOLLIN | EPOLLOUT
        event.data.u64 = client
        if epoll_ctl(self.epoll_descriptor, EPOLL_CTL_ADD, descriptor, &event) < 0:
            raise OSError(errno, "epoll_ctl")
        socket.descriptor = descriptor
        socket.state = SOCKET_GREETING
        socket.is_quiet = False
        socket.is_blocked = True    # until it is connected
        socket.last_sent_ns = socket.last_received_ns = clock_ns()
        at = self.reserve(client, <uint32_t>len(data))
        if at == NULL:
            raise MemoryError
        store_bytes(at, data, len(data))

    def is_open(self, uint32_t client):
        self.check_client(client)
        return self.sockets[client].state != SOCKET_CLOSED

    def write(self, uint32_t client, bytes data not None):
        cdef uint8_t* at
        self.check_client(client)
        if self.sockets[client].state != SOCKET_CLOSED:
            at = self.reserve(client, <uint32_t>len(data))
            if at == NULL:
                raise MemoryError
            store_bytes(at, data, len(data))

    def ready(self, uint32_t client, bint resumed):
        cdef LoadSocket* socket
        cdef uint32_t message
        self.check_client(client)
        socket = &self.sockets[client]
        if socket.state != SOCKET_GREETING:
            return
        socket.state = SOCKET_READY
        self.n_ready_sockets += 1
        if resumed:
            self.resend(client)
        else:
            message = socket.first_open
            while message != socket.next_unsent:
                message_unknown(&self.tables, message)
                message = self.tables.messages[message].next
            self.close_answered(socket)
            socket.next_seq = 1
            socket.resend_ns = 0
        self.push(client)

    def quiet(self, uint32_t client):
        self.check_client(client)
        self.sockets[client].is_quiet = True

    def drop_connection(self, uint32_t client):
        self.check_client(client)
        self.drop(client)

    def turn(self, int timeout_ms):
        with nogil:
            self.run(timeout_ms)
        if self.is_out_of_memory:
            raise MemoryError
        return self.take_events()

    cdef list take_events(self):
        cdef:
            QueuedEvent event
            size_t at = 0
            list events = []
        while at < self.queue_len:
            memcpy(&event, self.queue + at, sizeof(QueuedEvent))
            at += sizeof(QueuedEvent)
            events.append((
                event.kind, event.client, event.number,
                PyBytes_FromStringAndSize(<const char*>self.queue + at, event.size),
            ))
            at += event.size
        self.queue_len = 0
        return events

    def start(self, uint64_t start_ns, double rate, uint64_t n_messages, double private_share, uint64_t seed):
        if not rate > 0 or not 0 <= private_share <= 1 or self.tables.n_clients == 0:
            raise ValueError("a rate is above 0, a share is 0 to 1, and somebody has to send")
        self.schedule.start_ns = start_ns
        self.schedule.gap_ns = 1e9 / rate
        self.schedule.n_messages = n_messages
        self.schedule.n_planned = 0
        self.schedule.private_share = private_share
        # Seeds that lie side by side must not begin alike; 0 would stay 0 for ever.
        self.schedule.random = (seed + 1) * <uint64_t>0x9E3779B97F4A7C15 | 1

    def stop(self):
        self.schedule.n_messages = self.schedule.n_planned

    def refused_codes(self):
        return {code: self.refusals[code] for code in range(MAX_CODE) if self.refusals[code]}


cdef void* _grown(void* memory, size_t size) except NULL:
    cdef void* grown = realloc(memory, size)
    if grown == NULL:
        raise MemoryError
    return grown
