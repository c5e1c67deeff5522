"""The value of a log record as C: u8 version, u8 kind, u64 session, u64 seq, u64 time, u8 sender length, sender,
body."""

from libc.stdint cimport uint8_t, uint64_t

# `sender` and `body` point into the value that was read, or at what is to be written.
cdef struct RecordFields:
    int kind
    uint64_t session
    uint64_t seq
    uint64_t time
    const uint8_t* sender
    uint8_t sender_len
    const uint8_t* body
    size_t body_len

cdef size_t record_size(const RecordFields* fields) noexcept nogil
cdef void write_record(uint8_t* at, const RecordFields* fields) noexcept nogil
# 0, or -1 if it is malformed or of an unknown version.
cdef int read_record(const uint8_t* value, size_t size, RecordFields* fields) noexcept nogil
