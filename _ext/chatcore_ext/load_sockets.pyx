"""The connections of a load, without the GIL; load_sockets.pxd says how they are driven.

Never opens a socket, never logs in and never decides when a run ends: Python does (load_clients.pyx).
"""

cimport cython
from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, EPROTO, ETIMEDOUT, errno
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, itimerspec, timespec
from posix.unistd cimport close, read

from chatcore_ext.constants cimport (
    ACK_SIZE, ERROR_PREFIX_SIZE, FRAME_ACK, FRAME_DELIVER, FRAME_EVENT, FRAME_GAP, FRAME_PING, FRAME_PONG,
    FRAME_REFUSED, FRAME_SEND, FRAME_SIGNAL, GAP_SIZE, HEADER_SIZE, MAX_BODY_LENGTH, PING_SIZE, SEND_PREFIX_SIZE,
    SEND_RESEND,
)
from chatcore_ext.error_codes cimport ERROR_FLAG_RETRY, ERROR_FLAG_UNCERTAIN, ERROR_RATE_LIMITED
from chatcore_ext.frame cimport (
    FRAME_NEED_MORE, FRAME_READY, assembler_clear, load_u16, load_u32, load_u64, next_frame, store_bytes, store_u8,
    store_u32, store_u64, write_header,
)
from chatcore_ext.linux cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLL_CTL_MOD, TFD_TIMER_ABSTIME, epoll_ctl, epoll_event, epoll_wait,
    timerfd_settime,
)
from chatcore_ext.load_tables cimport (
    CHECK_HEAL, CHECK_NO_MEMORY, MESSAGE_DELAYED, MESSAGE_SENT, NO_INDEX, LoadMessage,
    check_delivery, check_gap, message_acked, message_refused, message_unknown, plan_message, write_load_body,
)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_NOSIGNAL
    ssize_t send(int descriptor, const void* data, size_t size, int flags) noexcept
    ssize_t recv(int descriptor, void* data, size_t size, int flags) noexcept

cdef enum:
    MIN_OUT = 256              # bytes of a connection's output: a few short messages
    BEAT_MS = 100              # how often heartbeats and delayed sends are looked at
    MIN_RESEND_MS = 100        # where a refusal does not say when


cdef uint64_t clock_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef bint is_idle_talk(const Frame* frame) noexcept nogil:
    """An EVENT about others that no client of a load needs: in a room of 60 each join calls forth 59 of them. Any other
    spelling of the same map goes to Python."""
    cdef const uint8_t* at = frame.body
    if frame.body_len < 14 or memcmp(at + 1, b"\xa5event", 6) != 0:
        return False
    return memcmp(at + 7, b"\xa6joined", 7) == 0 or memcmp(at + 7, b"\xa4left", 5) == 0 or memcmp(
        at + 7, b"\xa8presence", 7
    ) == 0


# Where None is looked for, Cython 3 refuses `self.count += 1` without the GIL; here all is `self` or a C value.
@cython.nonecheck(False)
cdef class LoadSockets(LoadChecker):

    # ---- Connections -------------------------------------------------------------------------------------------------

    cdef void drop(self, uint32_t client) noexcept nogil:
        cdef:
            LoadSocket* socket = &self.sockets[client]
            uint32_t first = self.tables.clients[client].first_membership
            uint32_t i
        if socket.state == SOCKET_CLOSED:
            return
        close(socket.descriptor)    # which takes it out of the epoll set
        self.n_ready_sockets -= socket.state == SOCKET_READY
        socket.descriptor = -1
        socket.state = SOCKET_CLOSED
        socket.out_start = socket.out_end = 0
        assembler_clear(&socket.assembler)
        free(socket.rest)
        socket.rest = NULL
        socket.rest_len = 0
        for i in range(self.tables.clients[client].n_memberships):
            self.tables.memberships[first + i].number = 0

    cdef void lose(self, uint32_t client, int reason) noexcept nogil:
        if self.sockets[client].state != SOCKET_CLOSED:
            self.drop(client)
            self.report(KIND_LOST, client, reason, NULL, 0)

    # ---- Output ------------------------------------------------------------------------------------------------------

    cdef uint8_t* reserve(self, uint32_t client, uint32_t size) noexcept nogil:
        """Room for so many bytes at the end of the connection's output, which count as written. NULL: no memory."""
        cdef:
            LoadSocket* socket = &self.sockets[client]
            uint32_t capacity = socket.out_capacity if socket.out_capacity else MIN_OUT
            uint8_t* grown
        if socket.out_start == socket.out_end:
            socket.out_start = socket.out_end = 0
        if socket.out_end + size > socket.out_capacity:
            while capacity < socket.out_end + size:
                capacity *= 2
            grown = <uint8_t*>realloc(socket.out, capacity)
            if grown == NULL:
                self.is_out_of_memory = True
                return NULL
            socket.out = grown
            socket.out_capacity = capacity
        socket.out_end += size
        if not socket.is_dirty:
            socket.is_dirty = True
            self.dirty[self.n_dirty] = client
            self.n_dirty += 1
        return socket.out + socket.out_end - size

    cdef void watch(self, uint32_t client, int operation, bint writable) noexcept nogil:
        cdef epoll_event event
        event.events = EPOLLIN | EPOLLOUT if writable else EPOLLIN
        event.data.u64 = client
        epoll_ctl(self.epoll_descriptor, operation, self.sockets[client].descriptor, &event)

    cdef void flush(self, uint32_t client) noexcept nogil:
        cdef:
            LoadSocket* socket = &self.sockets[client]
            ssize_t n
            bint was_blocked = socket.is_blocked
        if socket.state == SOCKET_CLOSED:
            return
        if socket.out_start < socket.out_end:
            n = send(
                socket.descriptor, socket.out + socket.out_start, socket.out_end - socket.out_start, MSG_NOSIGNAL
            )
            if n >= 0:
                socket.out_start += <uint32_t>n
                socket.last_sent_ns = self.time_ns
            elif errno not in (EAGAIN, EINTR, EINPROGRESS):
                self.lose(client, errno)
                return
        socket.is_blocked = socket.out_start < socket.out_end
        if socket.is_blocked != was_blocked:
            self.watch(client, EPOLL_CTL_MOD, socket.is_blocked)

    cdef void flush_dirty(self) noexcept nogil:
        cdef uint32_t i
        for i in range(self.n_dirty):
            self.sockets[self.dirty[i]].is_dirty = False
            if not self.sockets[self.dirty[i]].is_blocked:
                self.flush(self.dirty[i])
        self.n_dirty = 0

    # ---- Sends -------------------------------------------------------------------------------------------------------

    cdef void write_send(self, uint32_t client, uint32_t index, int flags) noexcept nogil:
        cdef:
            LoadMessage* message = &self.tables.messages[index]
            uint8_t* at = self.reserve(client, HEADER_SIZE + SEND_PREFIX_SIZE + self.body_size)
        if at == NULL:
            return
        at = write_header(at, FRAME_SEND, SEND_PREFIX_SIZE + self.body_size)
        at = store_u64(at, message.seq)
        at = store_u32(at, self.tables.memberships[message.membership].number)
        at = store_u8(at, <uint8_t>flags)
        write_load_body(&self.tables, index, at, self.body_size)
        message.state = MESSAGE_SENT
        if flags & SEND_RESEND:
            message.was_resent = True
            self.tables.counts.resent += 1
        else:
            self.tables.counts.sent += 1

    cdef void push(self, uint32_t client) noexcept nogil:
        """Send what is due, as far as the window allows."""
        cdef:
            LoadSocket* socket = &self.sockets[client]
            LoadMessage* message
        if socket.state != SOCKET_READY or socket.is_quiet or socket.pause_ns > self.time_ns:
            return
        while socket.next_unsent != NO_INDEX:
            message = &self.tables.messages[socket.next_unsent]
            if (
                socket.first_open != socket.next_unsent
                and socket.next_seq - self.tables.messages[socket.first_open].seq >= self.window
            ):
                return
            message.seq = socket.next_seq
            socket.next_seq += 1
            self.write_send(client, socket.next_unsent, 0)
            socket.next_unsent = message.next

    cdef void resend(self, uint32_t client) noexcept nogil:
        """All that is unanswered, in its order."""
        cdef:
            LoadSocket* socket = &self.sockets[client]
            uint32_t message = socket.first_open
        socket.resend_ns = 0
        while message != socket.next_unsent:
            if self.tables.messages[message].state in (MESSAGE_SENT, MESSAGE_DELAYED):
                self.write_send(client, message, SEND_RESEND)
            message = self.tables.messages[message].next

    cdef void close_answered(self, LoadSocket* socket) noexcept nogil:
        """Move `first_open` on. Messages after it may be answered, too."""
        cdef LoadMessage* messages = self.tables.messages
        while socket.first_open != socket.next_unsent and messages[socket.first_open].state > MESSAGE_DELAYED:
            socket.first_open = messages[socket.first_open].next

    cdef uint32_t sent_as(self, uint32_t client, uint64_t seq) noexcept nogil:
        """The unanswered message with this seq, or NO_INDEX. At most a window's length of steps."""
        cdef:
            LoadSocket* socket = &self.sockets[client]
            uint32_t message = socket.first_open
        while message != socket.next_unsent:
            if self.tables.messages[message].seq == seq:
                return message if self.tables.messages[message].state == MESSAGE_SENT else NO_INDEX
            message = self.tables.messages[message].next
        return NO_INDEX

    cdef void plan_next(self) noexcept nogil:
        cdef:
            LoadSchedule* plan = &self.schedule
            uint64_t due = plan.start_ns + <uint64_t>(plan.gap_ns * plan.n_planned)
            uint64_t random
            uint32_t client, message, membership
            LoadSocket* socket
        # xorshift64* (S. Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016)
        plan.random ^= plan.random >> 12
        plan.random ^= plan.random << 25
        plan.random ^= plan.random >> 27
        random = plan.random * <uint64_t>0x2545F4914F6CDD1D
        client = <uint32_t>(((random >> 32) * self.tables.n_clients) >> 32)
        membership = self.tables.clients[client].first_membership
        if self.tables.clients[client].n_memberships > 1 and <uint32_t>random < plan.private_share * 4294967296.0:
            membership += 1
        message = plan_message(&self.tables, membership, due)
        plan.n_planned += 1
        if message == NO_INDEX:
            self.is_out_of_memory = True
            return
        socket = &self.sockets[client]
        if socket.newest != NO_INDEX:
            self.tables.messages[socket.newest].next = message
        socket.newest = message
        if socket.next_unsent == NO_INDEX:
            socket.next_unsent = message
            if socket.first_open == NO_INDEX:
                socket.first_open = message
        self.push(client)

    cdef void send_due(self) noexcept nogil:
        cdef:
            LoadSchedule* plan = &self.schedule
            itimerspec wake
            uint64_t due = 0
        while plan.n_planned < plan.n_messages and not self.is_out_of_memory:
            due = plan.start_ns + <uint64_t>(plan.gap_ns * plan.n_planned)
            if due > self.time_ns:
                break
            self.plan_next()
        if plan.n_planned < plan.n_messages and due != self.due_ns:
            self.due_ns = due
            wake.it_interval.tv_sec = wake.it_interval.tv_nsec = 0
            wake.it_value.tv_sec = due // 1000000000
            wake.it_value.tv_nsec = due % 1000000000
            timerfd_settime(self.timer_descriptor, TFD_TIMER_ABSTIME, &wake, NULL)

    cdef void beat(self) noexcept nogil:
        """What time asks for: heartbeats, giving up silent connections, delayed sends."""
        cdef:
            uint32_t client
            LoadSocket* socket
            uint8_t* at
        if self.time_ns < self.beat_ns:
            return
        self.beat_ns = self.time_ns + BEAT_MS * NS_PER_MS
        for client in range(self.tables.n_clients):
            socket = &self.sockets[client]
            if socket.state != SOCKET_READY:
                continue
            if self.time_ns - socket.last_received_ns > 2 * self.heartbeat_ns + self.grace_ns:
                self.lose(client, ETIMEDOUT)    # it has not answered our PING
                continue
            # A tenth of the time is left for a beat that comes late.
            if self.time_ns - socket.last_sent_ns > self.heartbeat_ns - self.heartbeat_ns // 10:
                at = self.reserve(client, HEADER_SIZE + PING_SIZE)
                if at != NULL:
                    store_u64(write_header(at, FRAME_PING, PING_SIZE), self.time_ns)
            if socket.resend_ns and self.time_ns >= socket.resend_ns:
                self.resend_delayed(client)
            if socket.pause_ns and self.time_ns >= socket.pause_ns:
                socket.pause_ns = 0
                self.push(client)

    cdef void resend_delayed(self, uint32_t client) noexcept nogil:
        cdef:
            LoadSocket* socket = &self.sockets[client]
            uint32_t message = socket.first_open
        socket.resend_ns = 0
        while message != socket.next_unsent:
            if self.tables.messages[message].state == MESSAGE_DELAYED:
                self.write_send(client, message, SEND_RESEND)
            message = self.tables.messages[message].next

    # ---- Input -------------------------------------------------------------------------------------------------------

    cdef void report(
        self, int kind, uint32_t client, int32_t number, const uint8_t* data, uint32_t size
    ) noexcept nogil:
        cdef:
            QueuedEvent event
            size_t needed = self.queue_len + sizeof(QueuedEvent) + size
            size_t capacity = self.queue_capacity if self.queue_capacity else 4096
            uint8_t* grown
        if needed > self.queue_capacity:
            while capacity < needed:
                capacity *= 2
            grown = <uint8_t*>realloc(self.queue, capacity)
            if grown == NULL:
                self.is_out_of_memory = True
                return
            self.queue = grown
            self.queue_capacity = capacity
        event.kind, event.client, event.number, event.size = kind, client, number, size
        memcpy(self.queue + self.queue_len, &event, sizeof(QueuedEvent))
        store_bytes(self.queue + self.queue_len + sizeof(QueuedEvent), data, size)
        self.queue_len = needed

    cdef void on_refused(self, uint32_t client, const Frame* frame) noexcept nogil:
        cdef:
            LoadSocket* socket = &self.sockets[client]
            uint32_t index
            LoadMessage* message
            int code, flags
            uint64_t wait_ms
        if frame.body_len < 8 + ERROR_PREFIX_SIZE:
            return
        code = load_u16(frame.body + 8)
        flags = frame.body[10]
        wait_ms = load_u32(frame.body + 11)
        index = self.sent_as(client, load_u64(frame.body))
        if index == NO_INDEX:
            return
        message = &self.tables.messages[index]
        self.refusals[code if code < MAX_CODE else 0] += 1
        if code == ERROR_RATE_LIMITED:
            # Who goes on regardless is cut off in the end; what waits is late, and its latency says so.
            socket.pause_ns = self.time_ns + wait_ms * NS_PER_MS
        if flags & ERROR_FLAG_UNCERTAIN or (message.was_resent and flags & ERROR_FLAG_RETRY):
            message.state = MESSAGE_DELAYED
            message.was_delayed = True
            socket.resend_ns = self.time_ns + max(wait_ms, <uint64_t>MIN_RESEND_MS) * NS_PER_MS
            return
        if message.was_resent:
            message_unknown(&self.tables, index)    # it says nothing of the copies before
        else:
            message_refused(&self.tables, index)
        self.close_answered(socket)
        self.push(client)

    cdef bint on_frame(self, uint32_t client, const Frame* frame) noexcept nogil:
        """True: Python has to deal with it before the next one."""
        cdef:
            uint32_t slot = 0
            uint32_t message
            uint8_t* at
            int result = 0
        if frame.type == FRAME_DELIVER:
            result = check_delivery(&self.tables, client, frame.body, frame.body_len, self.time_ns, &slot)
        elif frame.type == FRAME_GAP:
            if frame.body_len >= GAP_SIZE:
                result = check_gap(
                    &self.tables, client, load_u32(frame.body), load_u64(frame.body + 4), load_u64(frame.body + 12),
                    &slot,
                )
        elif frame.type == FRAME_ACK:
            message = self.sent_as(client, load_u64(frame.body)) if frame.body_len >= ACK_SIZE else NO_INDEX
            if message != NO_INDEX:
                message_acked(&self.tables, message, load_u64(frame.body + 8), self.time_ns)
                self.close_answered(&self.sockets[client])
                self.push(client)
        elif frame.type == FRAME_REFUSED:
            self.on_refused(client, frame)
        elif frame.type == FRAME_PING:
            at = self.reserve(client, HEADER_SIZE + frame.body_len)
            if at != NULL:
                store_bytes(write_header(at, FRAME_PONG, frame.body_len), frame.body, frame.body_len)
        elif frame.type not in (FRAME_PONG, FRAME_SIGNAL) and not (frame.type == FRAME_EVENT and is_idle_talk(frame)):
            self.report(KIND_FRAME, client, frame.type, frame.body, frame.body_len)
            return True
        if result == CHECK_HEAL:
            self.report(KIND_HEAL, client, slot, NULL, 0)
        elif result == CHECK_NO_MEMORY:
            self.is_out_of_memory = True
        return False

    cdef void consume(self, uint32_t client, const uint8_t* cursor, const uint8_t* end) noexcept nogil:
        cdef:
            LoadSocket* socket = &self.sockets[client]
            Frame frame
            int result = next_frame(&socket.assembler, &cursor, end, MAX_BODY_LENGTH, &frame)
        while result == FRAME_READY:
            if self.on_frame(client, &frame):
                self.pause(client, cursor, end - cursor)
                return
            result = next_frame(&socket.assembler, &cursor, end, MAX_BODY_LENGTH, &frame)
        if result != FRAME_NEED_MORE:
            self.lose(client, EPROTO)

    cdef void pause(self, uint32_t client, const uint8_t* rest, size_t size) noexcept nogil:
        cdef LoadSocket* socket = &self.sockets[client]
        if size == 0:
            return
        socket.rest = <uint8_t*>malloc(size)
        if socket.rest == NULL:
            self.is_out_of_memory = True
            return
        memcpy(socket.rest, rest, size)
        socket.rest_len = <uint32_t>size
        self.paused[self.n_paused] = client
        self.n_paused += 1

    cdef void go_on(self) noexcept nogil:
        """With what was received behind a frame that Python has dealt with by now."""
        cdef:
            uint32_t n = self.n_paused
            uint32_t i, client, size
            uint8_t* rest
        self.n_paused = 0
        for i in range(n):
            client = self.paused[i]
            rest, size = self.sockets[client].rest, self.sockets[client].rest_len
            self.sockets[client].rest = NULL
            self.sockets[client].rest_len = 0
            # It may wait a second time: it takes a place in `paused` that has been read already.
            if rest != NULL:
                self.consume(client, rest, rest + size)
                free(rest)

    cdef void receive(self, uint32_t client) noexcept nogil:
        cdef LoadSocket* socket = &self.sockets[client]
        cdef ssize_t n
        if socket.state == SOCKET_CLOSED:
            return
        n = recv(socket.descriptor, self.received, RECEIVE_SIZE, 0)
        if n > 0:
            socket.last_received_ns = self.time_ns
            self.consume(client, self.received, self.received + n)
        elif n == 0:
            self.lose(client, 0)
        elif errno not in (EAGAIN, EINTR):
            self.lose(client, errno)

    # ---- The loop ----------------------------------------------------------------------------------------------------

    cdef void run(self, int timeout_ms) noexcept nogil:
        cdef:
            epoll_event[MAX_TURN_EVENTS] events
            uint64_t end_ns
            uint64_t expirations
            uint32_t client
            int64_t left_ms
            int i, n
        self.time_ns = clock_ns()
        end_ns = self.time_ns + <uint64_t>timeout_ms * NS_PER_MS
        self.go_on()
        while True:
            self.beat()
            self.send_due()
            self.flush_dirty()
            if self.queue_len or self.is_out_of_memory or self.time_ns >= end_ns:
                return
            left_ms = <int64_t>(end_ns - self.time_ns) // NS_PER_MS + 1
            n = epoll_wait(self.epoll_descriptor, events, MAX_TURN_EVENTS, <int>left_ms)
            if n < 0:
                return    # a signal: Python looks at it
            self.time_ns = clock_ns()
            for i in range(n):
                client = <uint32_t>events[i].data.u64
                if client == TIMER_MARK:
                    read(self.timer_descriptor, &expirations, sizeof(expirations))
                    continue
                if events[i].events & EPOLLOUT:
                    self.flush(client)
                if events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR):
                    self.receive(client)
