"""The hub's Python class, for those who are compiled against it (transport_link)."""

from libc.stdint cimport uint8_t

from chatcore_ext.hub_state cimport HubState
from chatcore_ext.log_view cimport LogView
from chatcore_ext.tables cimport Channel, Connection, Subscription


cdef class Hub:
    cdef:
        HubState state
        LogView view
        object on_direct
        object on_control
        list events                # tuples that nobody has taken yet
        bytearray receive_memory   # owns state.receive_buffer
        object receive_view        # of it, writable: for transports
        bytes direct_channel       # while on_direct runs: the channel,
        object direct_head         # and its head before the message

    cdef Connection* ready(self, unsigned long long handle) noexcept
    cdef Connection* known(self, unsigned long long handle) noexcept
    cdef bint append_frame(self, Connection* connection, int type, object number, bytes body) except -1
    cdef int drop_subscription(self, Subscription* subscription) except -1
    cdef int detach(self, Connection* connection) except -1
    cdef int put_away(self, Connection* connection) except -1
    cdef int reap(self) except -1
    cdef int expire_sessions(self) except -1
    cdef int flush_transport(self, Connection* connection) except -1
    cdef int flush_all(self) except -1
    cdef int let_go(self, Connection* connection) except -1
    cdef int finish_turn(self) except -1
    cdef list taken_events(self)
    cdef int take_bytes(self, unsigned long long handle, const uint8_t* data, size_t size) except -1
    cdef Subscription* subscription(self, unsigned long long handle, bytes name) noexcept
    cdef list strangers_to(self, bytes channel)
    cdef int introduce(self, bytes channel, list strangers, object head) except -1
    cdef int add_strangers(self, Channel* channel, const uint8_t* name, size_t size, list strangers) except -1
    cdef int deliver_record(
        self, unsigned int partition, unsigned long long offset, unsigned long long time, bytes channel, bytes record
    ) except -1
