"""The connections of a load in one epoll set: sends by an open-loop schedule, and hands every delivery to the check.

One loop without the GIL does all that comes thousands of times a second: SEND, ACK, REFUSED, DELIVER, heartbeats. Every
other frame goes to Python, and the connection waits until Python has dealt with it, so that a DELIVER behind a WELCOME
finds its channel. It sleeps when there is nothing to do, so the server pays for waking it as for a real client.

Open loop: message n is due at start + n / rate, whatever the server does, and latency counts from then; a stall of the
server cannot hide in a load that waits for it (G. Tene, "How NOT to Measure Latency").
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from chatcore_ext.frame cimport Frame, FrameAssembler
from chatcore_ext.load_checker cimport LoadChecker

cdef enum SocketState:
    SOCKET_CLOSED = 0
    SOCKET_GREETING = 1        # until Python says that it is in its channels
    SOCKET_READY = 2

cdef struct LoadSocket:
    int descriptor
    uint8_t state
    bint is_dirty              # in the list of those to flush
    bint is_blocked            # the kernel took less than there was; EPOLLOUT is awaited
    bint is_quiet              # the server is about to stop: no new sends
    FrameAssembler assembler
    uint8_t* out               # unsent bytes: [out_start, out_end)
    uint32_t out_start
    uint32_t out_end
    uint32_t out_capacity
    uint8_t* rest              # received and not looked at: Python has to deal with a frame before it
    uint32_t rest_len
    uint64_t next_seq
    uint64_t last_sent_ns
    uint64_t last_received_ns
    uint64_t pause_ns          # no new sends before: the server has asked for a pause. 0 = it has not
    uint64_t resend_ns         # when delayed messages go again, 0 = there are none
    uint32_t first_open        # the oldest message without final answer, NO_INDEX = none
    uint32_t next_unsent
    uint32_t newest

cdef struct LoadSchedule:
    uint64_t start_ns
    double gap_ns              # between messages
    uint64_t n_messages
    uint64_t n_planned
    double private_share
    uint64_t random            # state of xorshift64*

cdef enum:
    MAX_CODE = 512             # error codes are below
    MAX_TURN_EVENTS = 512

cdef enum:
    KIND_FRAME = 1
    KIND_LOST = 2
    KIND_HEAL = 3
    NS_PER_MS = 1000000
    RECEIVE_SIZE = 262144      # bytes per connection and turn: one buffer for all, so a busy room comes in one call
    TIMER_MARK = 0xFFFFFFFF    # in the epoll set, where a client's index would be

cdef struct QueuedEvent:
    uint32_t kind
    uint32_t client
    int32_t number
    uint32_t size

cdef uint64_t clock_ns() noexcept nogil

cdef class LoadSockets(LoadChecker):
    cdef:
        int epoll_descriptor
        int timer_descriptor
        LoadSocket* sockets
        uint32_t sockets_capacity
        uint32_t* dirty
        uint32_t n_dirty
        uint32_t* paused
        uint32_t n_paused
        uint8_t* received
        uint8_t* queue             # of events for Python
        size_t queue_len
        size_t queue_capacity
        uint32_t body_size
        uint32_t window
        uint64_t heartbeat_ns
        uint64_t grace_ns
        uint64_t time_ns           # of the turn
        uint64_t beat_ns
        uint64_t due_ns            # what the timer is set to
        uint32_t n_ready_sockets
        uint64_t[MAX_CODE] refusals
        LoadSchedule schedule
        bint is_out_of_memory

    cdef uint8_t* reserve(self, uint32_t client, uint32_t size) noexcept nogil
    cdef void flush(self, uint32_t client) noexcept nogil
    cdef void flush_dirty(self) noexcept nogil
    cdef void watch(self, uint32_t client, int operation, bint writable) noexcept nogil
    # Sends
    cdef void write_send(self, uint32_t client, uint32_t message, int flags) noexcept nogil
    cdef void push(self, uint32_t client) noexcept nogil
    cdef void resend(self, uint32_t client) noexcept nogil
    cdef void resend_delayed(self, uint32_t client) noexcept nogil
    cdef void close_answered(self, LoadSocket* socket) noexcept nogil
    cdef uint32_t sent_as(self, uint32_t client, uint64_t seq) noexcept nogil
    cdef void plan_next(self) noexcept nogil
    cdef void send_due(self) noexcept nogil
    cdef void beat(self) noexcept nogil
    # Input
    cdef void report(self, int kind, uint32_t client, int32_t number, const uint8_t* data, uint32_t size) noexcept nogil
    cdef void lose(self, uint32_t client, int reason) noexcept nogil
    cdef void drop(self, uint32_t client) noexcept nogil
    cdef void on_refused(self, uint32_t client, const Frame* frame) noexcept nogil
    cdef bint on_frame(self, uint32_t client, const Frame* frame) noexcept nogil
    cdef void consume(self, uint32_t client, const uint8_t* cursor, const uint8_t* end) noexcept nogil
    cdef void pause(self, uint32_t client, const uint8_t* rest, size_t size) noexcept nogil
    cdef void go_on(self) noexcept nogil
    cdef void receive(self, uint32_t client) noexcept nogil
    cdef void run(self, int timeout_ms) noexcept nogil
