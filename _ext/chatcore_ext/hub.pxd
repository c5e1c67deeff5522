"""The hub's Python class, for those who are compiled against it (transport_link)."""

from libc.stdint cimport uint8_t

from chatcore_ext.memberships cimport Memberships
from chatcore_ext.tables cimport Channel, Connection


cdef class Hub(Memberships):
    cdef int deliver_record(
        self, unsigned int partition, unsigned long long offset, unsigned long long time, bytes channel, bytes record
    ) except -1
    cdef list strangers_to(self, bytes channel)
    cdef int add_strangers(self, Channel* channel, const uint8_t* name, size_t size, list strangers) except -1
    cdef int introduce(self, bytes channel, list strangers, object head) except -1
    cdef bint append_frame(self, Connection* connection, int type, object number, bytes body) except -1
