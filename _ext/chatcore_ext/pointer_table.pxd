"""A hash table from 64-bit keys to pointers, for the routing tables.

Open addressing with linear probing, at most 7/8 full, removal by shifting back (Knuth, The Art of Computer Programming
3, 6.4, algorithm R), so there are no tombstones and no slow decay. Never owns what it points to, never holds NULL.

Keys are numbers that this process chose, or keyed hashes (SipHash): nobody outside can pick keys that collide.
"""

cdef extern from *:
    """
    /* Spreads keys that differ in few bits (Fibonacci hashing, Knuth 6.4): the top bits of the product are the home. */
    #define POINTER_TABLE_HOME(key, shift) ((size_t)(((uint64_t)(key) * 0x9E3779B97F4A7C15ULL) >> (shift)))
    """
    size_t POINTER_TABLE_HOME(unsigned long long key, int shift) noexcept nogil


cdef struct TableEntry:
    unsigned long long key
    void* value                # NULL: free


# Loop thread only. All zero is a valid, empty table.
cdef struct PointerTable:
    TableEntry* entries
    size_t capacity            # a power of two, or 0
    size_t n_entries
    int shift                  # 64 - log2(capacity)


cdef inline void* table_get(const PointerTable* table, unsigned long long key) noexcept nogil:
    cdef size_t place
    if table.n_entries == 0:
        return NULL
    place = POINTER_TABLE_HOME(key, table.shift)
    while table.entries[place].value != NULL:
        if table.entries[place].key == key:
            return table.entries[place].value
        place = (place + 1) & (table.capacity - 1)
    return NULL


# Adds or replaces. -1: no memory, the table is as it was.
cdef int table_put(PointerTable* table, unsigned long long key, void* value) noexcept nogil
# What was there, or NULL.
cdef void* table_remove(PointerTable* table, unsigned long long key) noexcept nogil
cdef void table_free(PointerTable* table) noexcept nogil
