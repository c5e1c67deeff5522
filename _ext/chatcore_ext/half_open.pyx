"""Connections that have not said HELLO; see half_open.pxd."""

from libc.stdlib cimport free, malloc
from libc.string cimport memset

from chatcore_ext.connection cimport connection_of
from chatcore_ext.tables cimport STATE_OPEN

cdef enum:
    MIN_CAPACITY = 64


cdef Connection* waiting_at(const HalfOpen* waiting, const ConnectionTable* table, size_t place) noexcept nogil:
    cdef Connection* connection = connection_of(table, waiting.handles[place & (waiting.capacity - 1)])
    return connection if connection != NULL and connection.state == STATE_OPEN else NULL


# Drops those that have gone on, and doubles the room if most are still there. -1: no memory, and no room.
cdef int make_room(HalfOpen* waiting, const ConnectionTable* table) noexcept nogil:
    cdef:
        size_t n_waiting = 0
        size_t capacity, place
        unsigned long long* handles
    for place in range(waiting.first, waiting.end):
        n_waiting += waiting_at(waiting, table, place) != NULL
    capacity = waiting.capacity if n_waiting * 2 <= waiting.capacity else waiting.capacity * 2
    handles = <unsigned long long*>malloc(max(capacity, <size_t>MIN_CAPACITY) * sizeof(unsigned long long))
    if handles == NULL:
        return -1
    n_waiting = 0
    for place in range(waiting.first, waiting.end):
        if waiting_at(waiting, table, place) != NULL:
            handles[n_waiting] = waiting.handles[place & (waiting.capacity - 1)]
            n_waiting += 1
    free(waiting.handles)
    waiting.handles = handles
    waiting.capacity = max(capacity, <size_t>MIN_CAPACITY)
    waiting.first = 0
    waiting.end = n_waiting
    return 0


cdef void half_open_add(HalfOpen* waiting, const ConnectionTable* table, unsigned long long handle) noexcept nogil:
    if waiting.end - waiting.first == waiting.capacity and make_room(waiting, table) < 0:
        return
    waiting.handles[waiting.end & (waiting.capacity - 1)] = handle
    waiting.end += 1


cdef Connection* half_open_take_oldest(HalfOpen* waiting, const ConnectionTable* table) noexcept nogil:
    cdef Connection* connection
    while waiting.first != waiting.end:
        connection = waiting_at(waiting, table, waiting.first)
        waiting.first += 1
        if connection != NULL:
            return connection
    return NULL


cdef void half_open_free(HalfOpen* waiting) noexcept nogil:
    free(waiting.handles)
    memset(waiting, 0, sizeof(HalfOpen))
