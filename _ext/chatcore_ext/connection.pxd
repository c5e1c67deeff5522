"""One connection: what is known of a socket or transport (tables.pxd), and where the connections of a worker live.

A connection lies at one address from accept to close. Outside C it is named by a handle, generation << 32 | index,
which is never used again, so a late answer for a connection that is gone reaches nobody. 0 is no connection.
"""

from chatcore_ext.tables cimport STATE_FREE, Connection


cdef enum:
    CHUNK_SIZE = 256           # connections that are allocated at once
    CONNECTION_ALIGNMENT = 64  # bytes, a cache line


# Loop thread only. All zero is a valid, empty table.
cdef struct ConnectionTable:
    Connection** chunks
    unsigned int n_chunks
    unsigned int chunks_capacity
    unsigned int n_used        # not free
    Connection* free           # linked by next_dirty


cdef inline unsigned long long connection_handle(const Connection* connection) noexcept nogil:
    return (<unsigned long long>connection.generation << 32) | connection.index


cdef inline Connection* connection_at(const ConnectionTable* table, unsigned int index) noexcept nogil:
    return &table.chunks[index // CHUNK_SIZE][index % CHUNK_SIZE]


# NULL: it is gone (or never was).
cdef inline Connection* connection_of(const ConnectionTable* table, unsigned long long handle) noexcept nogil:
    cdef:
        unsigned int index = <unsigned int>handle
        Connection* connection
    if index >= table.n_chunks * <unsigned int>CHUNK_SIZE:
        return NULL
    connection = connection_at(table, index)
    if connection.generation != handle >> 32 or connection.state == STATE_FREE:
        return NULL
    return connection


# All zero but for its address, in STATE_OPEN. NULL: no memory.
cdef Connection* connection_new(ConnectionTable* table) noexcept nogil
# Frees what it owns except the descriptor, the transport and the backlog, which the caller has given up; it must be in
# no list.
cdef void connection_release(ConnectionTable* table, Connection* connection) noexcept nogil
cdef void connection_table_free(ConnectionTable* table) noexcept nogil
