"""What a turn has for Python: collected without the GIL, turned into tuples afterwards (hub.pyi has the kinds)."""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

from chatcore_ext.arena cimport Arena


cdef enum EventKind:
    KIND_HELLO = 1
    KIND_REQUEST = 2
    KIND_SEND = 3
    KIND_DISCONNECTED = 4
    KIND_EXPIRED = 5


# The first three kinds; the others are made with the GIL held, at once.
cdef struct PendingEvent:
    PendingEvent* next
    EventKind kind
    unsigned int detail        # operation or flags
    unsigned long long connection  # handle
    unsigned long long number  # version, request id or seq
    PyObject* channel          # SEND: borrowed, its subscription outlives the queue; otherwise NULL
    uint8_t* data                 # body or record, in the queue's arena
    size_t size


# Loop thread only. All zero is a valid, empty queue.
cdef struct EventQueue:
    Arena arena
    PendingEvent* first
    PendingEvent* last


# A new event at the end with room for `size` bytes of data. NULL: no memory.
cdef PendingEvent* queue_event(EventQueue* queue, EventKind kind, size_t size) noexcept nogil
# Appends the tuples to `events` and empties the queue.
cdef int take_queue(EventQueue* queue, list events) except -1
cdef void queue_free(EventQueue* queue) noexcept nogil
