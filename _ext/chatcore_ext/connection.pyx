"""Where the connections of a worker live; see connection.pxd."""

from libc.stdlib cimport free, realloc
from libc.string cimport memset

from chatcore_ext.frame cimport assembler_clear
from chatcore_ext.tables cimport STATE_OPEN


cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void** memory, size_t alignment, size_t size) noexcept


cdef int add_chunk(ConnectionTable* table) noexcept nogil:
    cdef:
        Connection** chunks
        void* memory
        Connection* connection
        unsigned int capacity = table.chunks_capacity
        int i
    if table.n_chunks == capacity:
        capacity = capacity * 2 if capacity else 16
        chunks = <Connection**>realloc(table.chunks, capacity * sizeof(Connection*))
        if chunks == NULL:
            return -1
        table.chunks = chunks
        table.chunks_capacity = capacity
    if posix_memalign(&memory, CONNECTION_ALIGNMENT, CHUNK_SIZE * sizeof(Connection)) != 0:
        return -1
    memset(memory, 0, CHUNK_SIZE * sizeof(Connection))
    table.chunks[table.n_chunks] = <Connection*>memory
    for i in range(CHUNK_SIZE - 1, -1, -1):
        connection = <Connection*>memory + i
        connection.index = table.n_chunks * CHUNK_SIZE + i
        connection.descriptor = -1  # 0 is somebody's
        connection.next_dirty = table.free
        table.free = connection
    table.n_chunks += 1
    return 0


cdef Connection* connection_new(ConnectionTable* table) noexcept nogil:
    cdef:
        Connection* connection
        unsigned int index, generation
    if table.free == NULL and add_chunk(table) < 0:
        return NULL
    connection = table.free
    table.free = connection.next_dirty
    index = connection.index
    generation = connection.generation + 1
    memset(connection, 0, sizeof(Connection))
    connection.index = index
    connection.generation = generation if generation else 1  # after 2**32 uses of one slot
    connection.state = STATE_OPEN
    connection.descriptor = -1
    table.n_used += 1
    return connection


cdef void connection_release(ConnectionTable* table, Connection* connection) noexcept nogil:
    assembler_clear(&connection.assembler)
    connection.state = STATE_FREE
    connection.next_dirty = table.free
    table.free = connection
    table.n_used -= 1


cdef void connection_table_free(ConnectionTable* table) noexcept nogil:
    cdef unsigned int i
    for i in range(table.n_chunks):
        free(table.chunks[i])
    free(table.chunks)
    memset(table, 0, sizeof(ConnectionTable))
