"""Frames as bytes: cutting a stream into frames, and writing and reading the fixed layouts of docs/protocol.md.

All of it is C without the GIL. Callers own every buffer; the `write_*` functions need the room that the matching
`*_SIZE` constants and lengths say, and return the place after what they wrote.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from chatcore_ext.constants cimport (
    ACK_SIZE,
    DELIVER_PREFIX_SIZE,
    ERROR_PREFIX_SIZE,
    FRAME_ACK,
    FRAME_DELIVER,
    FRAME_GAP,
    FRAME_GOAWAY,
    FRAME_SIGNAL,
    GAP_SIZE,
    GOAWAY_SIZE,
    HEADER_SIZE,
    SEND_PREFIX_SIZE,
    SIGNAL_PREFIX_SIZE,
)
from chatcore_ext.error_codes cimport ERROR_MALFORMED_FRAME


cdef extern from "<endian.h>" nogil:
    uint16_t htobe16(uint16_t value) noexcept
    uint32_t htobe32(uint32_t value) noexcept
    uint64_t htobe64(uint64_t value) noexcept
    uint16_t be16toh(uint16_t value) noexcept
    uint32_t be32toh(uint32_t value) noexcept
    uint64_t be64toh(uint64_t value) noexcept


# memcpy, not a cast: frames are not aligned.
cdef inline uint16_t load_u16(const uint8_t* at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return be16toh(value)

cdef inline uint32_t load_u32(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return be32toh(value)

cdef inline uint64_t load_u64(const uint8_t* at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return be64toh(value)

cdef inline uint8_t* store_u8(uint8_t* at, uint8_t value) noexcept nogil:
    at[0] = value
    return at + 1

cdef inline uint8_t* store_u16(uint8_t* at, uint16_t value) noexcept nogil:
    value = htobe16(value)
    memcpy(at, &value, 2)
    return at + 2

cdef inline uint8_t* store_u32(uint8_t* at, uint32_t value) noexcept nogil:
    value = htobe32(value)
    memcpy(at, &value, 4)
    return at + 4

cdef inline uint8_t* store_u64(uint8_t* at, uint64_t value) noexcept nogil:
    value = htobe64(value)
    memcpy(at, &value, 8)
    return at + 8

cdef inline uint8_t* store_bytes(uint8_t* at, const uint8_t* data, size_t size) noexcept nogil:
    if size:    # memcpy from NULL is undefined even for nothing
        memcpy(at, data, size)
    return at + size


# ---- Cutting a stream into frames --------------------------------------------------------------------------------

cdef enum:
    FRAME_READY = 0
    FRAME_NEED_MORE = 1     # any other result is an ErrorCode

# The unfinished frame of a connection. All zero = none; holds no memory then.
cdef struct FrameAssembler:
    uint8_t* partial            # header and as much of the body as came, NULL if nothing
    uint32_t partial_len        # bytes in it
    uint32_t partial_capacity   # bytes allocated: the whole frame once its header is known

# A whole frame. `body` points into the caller's buffer or the assembler: valid until the next call of next_frame.
cdef struct Frame:
    int type
    uint32_t body_len
    const uint8_t* body

# Takes the next frame from [cursor[0], end) and moves the cursor past it. FRAME_NEED_MORE: everything up to end was
# taken in. A header that says more than max_body gives ERROR_FRAME_TOO_LARGE before any memory is allocated for it;
# ERROR_OVERLOADED: no memory. After an error the stream cannot go on.
cdef int next_frame(
    FrameAssembler* assembler, const uint8_t** cursor, const uint8_t* end, uint32_t max_body, Frame* frame
) noexcept nogil
cdef void assembler_clear(FrameAssembler* assembler) noexcept nogil


# ---- Writing ---------------------------------------------------------------------------------------------------------

cdef inline uint8_t* write_header(uint8_t* at, int frame_type, uint32_t body_len) noexcept nogil:
    return store_u32(at, (body_len << 8) | <uint32_t>frame_type)

cdef inline uint8_t* write_ack(uint8_t* at, uint64_t seq, uint64_t id, uint64_t time) noexcept nogil:
    at = write_header(at, FRAME_ACK, ACK_SIZE)
    at = store_u64(at, seq)
    at = store_u64(at, id)
    return store_u64(at, time)

cdef inline uint8_t* write_deliver(
    uint8_t* at, uint32_t channel, int flags, uint64_t id, uint64_t prev, uint64_t hash, uint64_t time,
    const uint8_t* sender, uint8_t sender_len, const uint8_t* body, uint32_t body_len,
) noexcept nogil:
    at = write_header(at, FRAME_DELIVER, DELIVER_PREFIX_SIZE + sender_len + body_len)
    at = store_u32(at, channel)
    at = store_u8(at, <uint8_t>flags)
    at = store_u8(at, sender_len)
    at = store_u64(at, id)
    at = store_u64(at, prev)
    at = store_u64(at, hash)
    at = store_u64(at, time)
    at = store_bytes(at, sender, sender_len)
    return store_bytes(at, body, body_len)

cdef inline uint8_t* write_signal(
    uint8_t* at, uint32_t channel, int kind, const uint8_t* sender, uint8_t sender_len, const uint8_t* body,
    uint32_t body_len,
) noexcept nogil:
    at = write_header(at, FRAME_SIGNAL, SIGNAL_PREFIX_SIZE + sender_len + body_len)
    at = store_u32(at, channel)
    at = store_u8(at, <uint8_t>kind)
    at = store_u8(at, sender_len)
    at = store_bytes(at, sender, sender_len)
    return store_bytes(at, body, body_len)

cdef inline uint8_t* write_gap(uint8_t* at, uint32_t channel, uint64_t first, uint64_t last) noexcept nogil:
    at = write_header(at, FRAME_GAP, GAP_SIZE)
    at = store_u32(at, channel)
    at = store_u64(at, first)
    return store_u64(at, last)

cdef inline uint8_t* write_goaway(uint8_t* at, uint32_t deadline_ms, uint32_t reconnect_ms) noexcept nogil:
    at = write_header(at, FRAME_GOAWAY, GOAWAY_SIZE)
    at = store_u32(at, deadline_ms)
    return store_u32(at, reconnect_ms)

# The bytes of an error body: its fixed part, its name, its text.
cdef uint32_t error_body_size(int code, uint32_t message_len) noexcept nogil
cdef uint8_t* write_error_body(
    uint8_t* at, int code, int flags, uint32_t retry_after_ms, const uint8_t* message, uint32_t message_len
) noexcept nogil


# ---- Reading ---------------------------------------------------------------------------------------------------------

cdef struct SendFields:
    uint64_t seq
    uint32_t channel
    int flags
    const uint8_t* body
    uint32_t body_len

cdef struct SignalFields:
    uint32_t channel
    int kind
    const uint8_t* sender
    uint8_t sender_len
    const uint8_t* body
    uint32_t body_len

cdef struct DeliverFields:
    uint32_t channel
    int flags
    uint64_t id
    uint64_t prev
    uint64_t hash
    uint64_t time
    const uint8_t* sender
    uint8_t sender_len
    const uint8_t* body
    uint32_t body_len

# 0, or ERROR_MALFORMED_FRAME if the body is too short for what it says.
cdef inline int read_send(const uint8_t* body, uint32_t body_len, SendFields* fields) noexcept nogil:
    if body_len < SEND_PREFIX_SIZE:
        return ERROR_MALFORMED_FRAME
    fields.seq = load_u64(body)
    fields.channel = load_u32(body + 8)
    fields.flags = body[12]
    fields.body = body + SEND_PREFIX_SIZE
    fields.body_len = body_len - SEND_PREFIX_SIZE
    return 0

cdef inline int read_signal(const uint8_t* body, uint32_t body_len, SignalFields* fields) noexcept nogil:
    if body_len < SIGNAL_PREFIX_SIZE or body_len - SIGNAL_PREFIX_SIZE < body[5]:
        return ERROR_MALFORMED_FRAME
    fields.channel = load_u32(body)
    fields.kind = body[4]
    fields.sender_len = body[5]
    fields.sender = body + SIGNAL_PREFIX_SIZE
    fields.body = fields.sender + fields.sender_len
    fields.body_len = body_len - SIGNAL_PREFIX_SIZE - fields.sender_len
    return 0

cdef inline int read_deliver(const uint8_t* body, uint32_t body_len, DeliverFields* fields) noexcept nogil:
    if body_len < DELIVER_PREFIX_SIZE or body_len - DELIVER_PREFIX_SIZE < body[5]:
        return ERROR_MALFORMED_FRAME
    fields.channel = load_u32(body)
    fields.flags = body[4]
    fields.sender_len = body[5]
    fields.id = load_u64(body + 6)
    fields.prev = load_u64(body + 14)
    fields.hash = load_u64(body + 22)
    fields.time = load_u64(body + 30)
    fields.sender = body + DELIVER_PREFIX_SIZE
    fields.body = fields.sender + fields.sender_len
    fields.body_len = body_len - DELIVER_PREFIX_SIZE - fields.sender_len
    return 0
