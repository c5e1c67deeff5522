"""What the kernel or a transport did not take: bytes that wait with their connection, and their bound over all of them.

Where the bytes of all backlogs have reached `max_total_pending`, no backlog grows any more: of what its receiver cannot
take now, only the rest of a frame that has begun is kept; messages are left out until it has caught up, as from anybody
who is behind, and who is owed what nothing brings later (an answer, an event) is closed (overloaded). So it is those
who do not read who pay, the newest first. Who reads has no backlog and notices nothing. Never calls the kernel.
"""

from libc.stdint cimport uint8_t

from chatcore_ext.output cimport Output
from chatcore_ext.tables cimport Backlog, Connection


cdef inline uint8_t* backlog_bytes(Backlog* backlog) noexcept nogil:
    return <uint8_t*>backlog + sizeof(Backlog)


cdef inline size_t backlog_size(const Connection* connection) noexcept nogil:
    return 0 if connection.backlog == NULL else connection.backlog.end - connection.backlog.start


cdef inline void forget_slices(Connection* connection) noexcept nogil:
    connection.last = NULL
    connection.n_slices = 0


# Copies all slices but their first `skip` bytes behind `target`.
cdef void copy_slices(const Connection* connection, size_t skip, uint8_t* target) noexcept nogil
# The first `sent` of the pending bytes are out: the backlog becomes the rest. -1: no room for it.
cdef int keep_rest(Output* output, Connection* connection, size_t sent) noexcept nogil
# Move the turn's slices into the backlog. -1: no room for them.
cdef int slices_to_backlog(Output* output, Connection* connection) noexcept nogil
cdef void backlog_free(Output* output, Connection* connection) noexcept nogil
