"""FNV-1a 64 (RFC 9923): the rolling hash of a channel, and the hash of a name."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef inline uint64_t fnv_offset_basis() noexcept nogil:
    return 0xCBF29CE484222325

cdef inline uint64_t fnv_byte(uint64_t state, uint8_t byte) noexcept nogil:
    return (state ^ byte) * <uint64_t>0x100000001B3

cdef inline uint64_t fnv_bytes(uint64_t state, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t place
    for place in range(size):
        state = fnv_byte(state, data[place])
    return state

cdef inline uint64_t fnv_big_endian(uint64_t state, uint64_t value, int n_bytes) noexcept nogil:
    cdef int shift = 8 * (n_bytes - 1)
    while shift >= 0:
        state = fnv_byte(state, <uint8_t>(value >> shift))
        shift -= 8
    return state

# The chain after a message. previous = 0 starts a new chain; never returns 0, which means "not known".
cdef inline uint64_t chain_next(
    uint64_t previous, uint64_t id, const uint8_t* sender, size_t sender_len, const uint8_t* body, size_t body_len
) noexcept nogil:
    cdef uint64_t state = previous if previous != 0 else fnv_offset_basis()
    state = fnv_big_endian(state, id, 8)
    state = fnv_byte(state, <uint8_t>sender_len)
    state = fnv_bytes(state, sender, sender_len)
    state = fnv_big_endian(state, body_len, 4)
    state = fnv_bytes(state, body, body_len)
    return state if state != 0 else 1
