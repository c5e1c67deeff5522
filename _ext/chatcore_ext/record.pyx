"""The value of a log record. Knows its bytes, not which log holds it nor whether it counts."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from chatcore_ext.constants cimport RECORD_PREFIX_SIZE, RECORD_VERSION
from chatcore_ext.frame cimport load_u64, store_bytes, store_u8, store_u64


cdef size_t record_size(const RecordFields* fields) noexcept nogil:
    return RECORD_PREFIX_SIZE + fields.sender_len + fields.body_len


cdef void write_record(uint8_t* at, const RecordFields* fields) noexcept nogil:
    at = store_u8(at, RECORD_VERSION)
    at = store_u8(at, <uint8_t>fields.kind)
    at = store_u64(at, fields.session)
    at = store_u64(at, fields.seq)
    at = store_u64(at, fields.time)
    at = store_u8(at, fields.sender_len)
    at = store_bytes(at, fields.sender, fields.sender_len)
    store_bytes(at, fields.body, fields.body_len)


cdef int read_record(const uint8_t* value, size_t size, RecordFields* fields) noexcept nogil:
    if size < RECORD_PREFIX_SIZE or value[0] != RECORD_VERSION:
        return -1
    fields.kind = value[1]
    fields.session = load_u64(value + 2)
    fields.seq = load_u64(value + 10)
    fields.time = load_u64(value + 18)
    fields.sender_len = value[26]
    if size - RECORD_PREFIX_SIZE < fields.sender_len:
        return -1
    fields.sender = value + RECORD_PREFIX_SIZE
    fields.body = fields.sender + fields.sender_len
    fields.body_len = size - RECORD_PREFIX_SIZE - fields.sender_len
    return 0


def encode_record(
    uint8_t kind, uint64_t session, uint64_t seq, uint64_t time, bytes sender not None, bytes body not None
):
    cdef RecordFields fields
    cdef bytes value
    if len(sender) > 255:
        raise ValueError("a sender's name has at most 255 bytes")
    fields.kind = kind
    fields.session = session
    fields.seq = seq
    fields.time = time
    fields.sender = sender
    fields.sender_len = <uint8_t>len(sender)
    fields.body = body
    fields.body_len = len(body)
    value = PyBytes_FromStringAndSize(NULL, record_size(&fields))
    write_record(<uint8_t*>PyBytes_AS_STRING(value), &fields)
    return value


def decode_record(bytes value not None):
    cdef RecordFields fields
    cdef Py_ssize_t sender_end
    if read_record(value, len(value), &fields):
        raise ValueError("not a log record of version 1")
    sender_end = RECORD_PREFIX_SIZE + fields.sender_len
    return (
        fields.kind, fields.session, fields.seq, fields.time, value[RECORD_PREFIX_SIZE:sender_end], value[sender_end:]
    )
