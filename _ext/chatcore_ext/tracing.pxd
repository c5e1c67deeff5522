"""The part of the hub's class that says whom a trace follows."""

from chatcore_ext.tables cimport Channel, Connection, Subscription
from chatcore_ext.turns cimport Turns


cdef class Tracing(Turns):
    cdef int forget_names(self) except -1
    cdef void mark_player(self, bytes player, bint traced) noexcept
    cdef void mark_channel(self, bytes channel, bint traced) noexcept
    # To be called while the tap is on.
    cdef int note_attached(self, Connection* connection) except -1
    cdef int note_joined(self, Subscription* subscription) except -1
    cdef int note_channel(self, Channel* channel) except -1
