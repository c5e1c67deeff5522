"""Connections that have not said HELLO, in the order in which they came: the oldest gives way to a new one when there
are too many.

A client says HELLO within a round trip, so of those who have not, the oldest is the least likely to. Keeps handles, not
links: nothing has to be taken out when a connection goes on or ends, and connections keep no memory for it.
"""

from chatcore_ext.connection cimport ConnectionTable
from chatcore_ext.tables cimport Connection


# Loop thread only. All zero is valid and empty.
cdef struct HalfOpen:
    unsigned long long* handles
    size_t capacity            # a power of two, or 0
    size_t first               # counts up for ever, as `end`; modulo capacity
    size_t end


# Without memory it is just not remembered: it will not give way.
cdef void half_open_add(HalfOpen* waiting, const ConnectionTable* table, unsigned long long handle) noexcept nogil
# The oldest, which is no longer among them. NULL: there is none.
cdef Connection* half_open_take_oldest(HalfOpen* waiting, const ConnectionTable* table) noexcept nogil
cdef void half_open_free(HalfOpen* waiting) noexcept nogil
