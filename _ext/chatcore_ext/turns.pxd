"""The first part of the hub's class: connections and turns."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t

from chatcore_ext.hub_state cimport HubState
from chatcore_ext.log_view cimport LogView
from chatcore_ext.reactor cimport Entry
from chatcore_ext.tables cimport Connection, Named, Subscription


cdef inline const uint8_t* data_of(bytes data) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(data)


cdef inline bytes name_of(const Named* named):
    return <bytes>named.name


cdef int check_code(int code) except -1  # ValueError


cdef class Turns:
    cdef:
        HubState state
        LogView view
        set traced_channels        # names; None: no trace
        set traced_players
        object on_direct
        object on_control
        list events                # tuples that nobody has taken yet
        bytearray receive_memory   # owns state.receive_buffer
        object receive_view        # of it, writable: for transports
        bytes direct_channel       # while on_direct runs: the channel,
        object direct_head         # and its head before the message

    # NULL unless it is ready; NULL if it is gone or closing.
    cdef Connection* ready(self, unsigned long long handle) noexcept
    cdef Connection* known(self, unsigned long long handle) noexcept
    cdef Entry entry_from(self, str address) except *
    cdef int drop_subscription(self, Subscription* subscription) except -1
    cdef int detach(self, Connection* connection) except -1
    cdef int put_away(self, Connection* connection) except -1
    cdef int let_go(self, Connection* connection) except -1
    cdef int reap(self) except -1
    cdef int expire_sessions(self) except -1
    cdef int flush_all(self) except -1
    cdef int finish_turn(self) except -1
    cdef list taken_events(self)
    cdef int flush_transport(self, Connection* connection) except -1
    cdef int take_bytes(self, unsigned long long handle, const uint8_t* data, size_t size) except -1
