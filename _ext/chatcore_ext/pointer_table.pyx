"""A hash table from 64-bit keys to pointers; see pointer_table.pxd."""

from libc.stdlib cimport calloc, free


cdef enum:
    MIN_CAPACITY = 8


cdef void insert_new(PointerTable* table, unsigned long long key, void* value) noexcept nogil:
    cdef size_t place = POINTER_TABLE_HOME(key, table.shift)
    while table.entries[place].value != NULL:
        place = (place + 1) & (table.capacity - 1)
    table.entries[place].key = key
    table.entries[place].value = value
    table.n_entries += 1


cdef int resize(PointerTable* table, size_t capacity) noexcept nogil:
    cdef:
        PointerTable larger
        size_t i
    larger.entries = <TableEntry*>calloc(capacity, sizeof(TableEntry))
    if larger.entries == NULL:
        return -1
    larger.capacity = capacity
    larger.n_entries = 0
    larger.shift = 64
    while capacity > 1:
        capacity >>= 1
        larger.shift -= 1
    for i in range(table.capacity):
        if table.entries[i].value != NULL:
            insert_new(&larger, table.entries[i].key, table.entries[i].value)
    free(table.entries)
    table[0] = larger
    return 0


cdef int table_put(PointerTable* table, unsigned long long key, void* value) noexcept nogil:
    cdef size_t place
    if table.capacity:
        place = POINTER_TABLE_HOME(key, table.shift)
        while table.entries[place].value != NULL:
            if table.entries[place].key == key:
                table.entries[place].value = value
                return 0
            place = (place + 1) & (table.capacity - 1)
    if (table.n_entries + 1) * 8 > table.capacity * 7:
        if resize(table, table.capacity * 2 if table.capacity else MIN_CAPACITY) < 0:
            return -1
    insert_new(table, key, value)
    return 0


cdef void* table_remove(PointerTable* table, unsigned long long key) noexcept nogil:
    cdef:
        size_t mask = table.capacity - 1
        size_t hole, place, home
        void* value
    if table.n_entries == 0:
        return NULL
    hole = POINTER_TABLE_HOME(key, table.shift)
    while table.entries[hole].key != key or table.entries[hole].value == NULL:
        if table.entries[hole].value == NULL:
            return NULL
        hole = (hole + 1) & mask
    value = table.entries[hole].value
    place = (hole + 1) & mask
    while table.entries[place].value != NULL:
        home = POINTER_TABLE_HOME(table.entries[place].key, table.shift)
        # The entry may move into the hole if its home is not behind the hole (in probing order).
        if ((place - home) & mask) >= ((place - hole) & mask):
            table.entries[hole] = table.entries[place]
            hole = place
        place = (place + 1) & mask
    table.entries[hole].value = NULL
    table.n_entries -= 1
    if table.capacity > 1024 and table.n_entries * 8 < table.capacity:
        resize(table, table.capacity // 2)  # without memory it stays as large as it is
    return value


cdef void table_free(PointerTable* table) noexcept nogil:
    free(table.entries)
    table.entries = NULL
    table.capacity = 0
    table.n_entries = 0
