"""Memory of one turn: taken by moving a pointer, given back all at once.

Everything that is only needed between two flushes lives here: encoded frames, the lists that say which connection gets
which bytes, and what waits to become a Python object. Never frees a single piece, never moves one.
"""


from libc.stdint cimport uint8_t

cdef struct ArenaBlock:
    ArenaBlock* next
    size_t capacity            # bytes that follow this header


# Loop thread only. All zero is a valid, empty arena.
cdef struct Arena:
    ArenaBlock* first
    ArenaBlock* current
    uint8_t* position             # the next free byte of `current`
    uint8_t* limit                # one past its last byte


# `size` more bytes, not aligned; directly behind the piece taken before where the block has room. NULL: no memory.
cdef inline uint8_t* arena_take(Arena* arena, size_t size) noexcept nogil:
    cdef uint8_t* taken = arena.position
    if <size_t>(arena.limit - taken) < size:
        return arena_take_from_next(arena, size)
    arena.position = taken + size
    return taken


# The same, aligned for any struct of ours.
cdef inline void* arena_take_aligned(Arena* arena, size_t size) noexcept nogil:
    cdef size_t excess = <size_t>arena.position & 15
    if excess and <size_t>(arena.limit - arena.position) >= 16:
        arena.position += 16 - excess
    # A fresh block starts aligned, so only a full one can come out unaligned, and then the piece is in the next.
    return arena_take(arena, (size + 15) & ~<size_t>15)


# Lengthen the piece that ends at `end` by `size` bytes where it lies. False: it is not the newest, or the
# block is full.
cdef inline bint arena_extend(Arena* arena, const uint8_t* end, size_t size) noexcept nogil:
    if end != arena.position or <size_t>(arena.limit - arena.position) < size:
        return False
    arena.position += size
    return True


cdef uint8_t* arena_take_from_next(Arena* arena, size_t size) noexcept nogil
cdef void arena_reset(Arena* arena) noexcept nogil
cdef void arena_free(Arena* arena) noexcept nogil
cdef size_t arena_used(const Arena* arena) noexcept nogil
