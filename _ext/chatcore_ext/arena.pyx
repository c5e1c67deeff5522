"""Memory of one turn; see arena.pxd."""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc


cdef enum:
    # Bytes. A burst of a busy worker writes some 100 kB; glibc takes blocks of this size by mmap, so giving them back
    # is real.
    BLOCK_SIZE = 262144
    # Blocks kept over a reset: a worker that once had a huge turn should not hold that memory for ever.
    MAX_KEPT_BLOCKS = 8


cdef uint8_t* block_start(ArenaBlock* block) noexcept nogil:
    return <uint8_t*>block + ((sizeof(ArenaBlock) + 15) & ~<size_t>15)


cdef void use_block(Arena* arena, ArenaBlock* block) noexcept nogil:
    arena.current = block
    arena.position = block_start(block)
    arena.limit = arena.position + block.capacity


cdef uint8_t* arena_take_from_next(Arena* arena, size_t size) noexcept nogil:
    cdef:
        ArenaBlock* block
        size_t capacity = size if size > BLOCK_SIZE else BLOCK_SIZE
        uint8_t* taken
    if arena.current != NULL and arena.current.next != NULL and arena.current.next.capacity >= size:
        use_block(arena, arena.current.next)
    else:
        block = <ArenaBlock*>malloc(sizeof(ArenaBlock) + 16 + capacity)
        if block == NULL:
            return NULL
        block.capacity = capacity
        if arena.current == NULL:
            block.next = arena.first
            arena.first = block
        else:
            block.next = arena.current.next
            arena.current.next = block
        use_block(arena, block)
    taken = arena.position
    arena.position += size
    return taken


cdef void free_blocks(ArenaBlock* block) noexcept nogil:
    cdef ArenaBlock* following
    while block != NULL:
        following = block.next
        free(block)
        block = following


cdef void arena_reset(Arena* arena) noexcept nogil:
    cdef:
        ArenaBlock* block = arena.first
        int n_blocks = 1
    if block == NULL:
        return
    if block.capacity > BLOCK_SIZE:  # a single huge piece: not worth keeping
        arena_free(arena)
        return
    while block.next != NULL and n_blocks < MAX_KEPT_BLOCKS and block.next.capacity == BLOCK_SIZE:
        block = block.next
        n_blocks += 1
    free_blocks(block.next)
    block.next = NULL
    use_block(arena, arena.first)


cdef void arena_free(Arena* arena) noexcept nogil:
    free_blocks(arena.first)
    arena.first = NULL
    arena.current = NULL
    arena.position = NULL
    arena.limit = NULL


cdef size_t arena_used(const Arena* arena) noexcept nogil:
    cdef:
        const ArenaBlock* block = arena.first
        size_t used = 0
    if arena.current == NULL:
        return 0
    while block != arena.current:
        used += block.capacity
        block = block.next
    return used + <size_t>(arena.position - block_start(arena.current))
