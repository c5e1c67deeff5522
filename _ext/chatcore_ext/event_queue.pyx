"""What a turn has for Python; see event_queue.pxd."""

from libc.stdint cimport uint8_t
from cpython.bytes cimport PyBytes_FromStringAndSize

from chatcore_ext.arena cimport arena_free, arena_reset, arena_take, arena_take_aligned


cdef PendingEvent* queue_event(EventQueue* queue, EventKind kind, size_t size) noexcept nogil:
    cdef:
        PendingEvent* event = <PendingEvent*>arena_take_aligned(&queue.arena, sizeof(PendingEvent))
        uint8_t* data = arena_take(&queue.arena, size)
    if event == NULL or data == NULL:
        return NULL
    event.next = NULL
    event.kind = kind
    event.detail = 0
    event.number = 0
    event.channel = NULL
    event.data = data
    event.size = size
    if queue.last == NULL:
        queue.first = event
    else:
        queue.last.next = event
    queue.last = event
    return event


cdef tuple as_tuple(const PendingEvent* event):
    cdef bytes data = PyBytes_FromStringAndSize(<const char*>event.data, event.size)
    if event.kind == KIND_SEND:
        return <int>KIND_SEND, event.connection, event.number, event.detail, <bytes>event.channel, data
    if event.kind == KIND_REQUEST:
        return <int>KIND_REQUEST, event.connection, event.number, event.detail, data
    return <int>KIND_HELLO, event.connection, event.number, data


cdef int take_queue(EventQueue* queue, list events) except -1:
    cdef PendingEvent* event = queue.first
    while event != NULL:
        events.append(as_tuple(event))
        event = event.next
    queue.first = NULL
    queue.last = NULL
    arena_reset(&queue.arena)
    return 0


cdef void queue_free(EventQueue* queue) noexcept nogil:
    arena_free(&queue.arena)
    queue.first = NULL
    queue.last = NULL
