"""The second part of the hub's class: sessions and channels."""

from chatcore_ext.tables cimport Subscription
from chatcore_ext.turns cimport Turns


cdef class Memberships(Turns):
    cdef Subscription* subscription(self, unsigned long long handle, bytes name) noexcept
