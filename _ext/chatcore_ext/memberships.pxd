"""The third part of the hub's class: sessions and channels."""

from chatcore_ext.tables cimport Subscription
from chatcore_ext.tracing cimport Tracing


cdef class Memberships(Tracing):
    cdef Subscription* subscription(self, unsigned long long handle, bytes name) noexcept
