"""The places of a batch of records in the embedded log, as rows of its table. Writes nothing and knows no SQLite.

Compiled because every durable message goes through it (benchmarks/test_log_placing.py).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from chatcore_ext.chain_hash cimport fnv_bytes, fnv_offset_basis
from chatcore_ext.constants cimport RECORD_MESSAGE
from chatcore_ext.log_view cimport LogView, Placement
from chatcore_ext.record cimport read_record

Row = tuple[int, int, bytes, bytes, int | None, int | None, int | None]

cdef enum:
    OFFSET_BITS = 48        # of a position that are the offset: 2^48 offsets last for centuries
    SEND_KEY_AT = 2            # session and seq in a record: record.pyi
    SEND_KEY_SIZE = 16


PARTITION_SHIFT = <int>OFFSET_BITS


cdef bytes key_of_send(const uint8_t* value, bytes channel):
    cdef:
        Py_ssize_t name_size = PyBytes_GET_SIZE(channel)
        bytes key = PyBytes_FromStringAndSize(NULL, SEND_KEY_SIZE + name_size)
    memcpy(PyBytes_AS_STRING(key), value + SEND_KEY_AT, SEND_KEY_SIZE)
    memcpy(PyBytes_AS_STRING(key) + SEND_KEY_SIZE, PyBytes_AS_STRING(channel), name_size)
    return key


cdef tuple row_of(
    LogView view, uint32_t partition, uint64_t offset, uint64_t time, bytes channel, bytes value, object learn,
    list sends
):
    cdef:
        Placement place
        uint64_t position = <uint64_t>partition << OFFSET_BITS | offset
        const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(value)
        uint32_t tag
    if read_record(data, PyBytes_GET_SIZE(value), &place.record) == 0 and place.record.kind == RECORD_MESSAGE:
        if view.find_head(channel) == NULL:
            learn(channel)
        view.place_fields(partition, offset, time, channel, &place)
        if place.first:
            sends.append((key_of_send(data, channel), offset))
            tag = <uint32_t>fnv_bytes(fnv_offset_basis(), place.record.sender, place.record.sender_len)
            return position, time, channel, value, place.prev, <int64_t>place.hash, tag
    return position, time, channel, value, None, None, None


def place_appends(
    LogView view not None, list appends not None, list next_offsets not None, uint64_t time, learn not None
):
    cdef:
        list rows = []
        list sends = []
        uint64_t offset
        uint32_t partition
        bytes channel, value
    for channel, value, _ in appends:
        if channel is None or value is None:
            raise TypeError("channel and value must be bytes")
        partition = fnv_bytes(
            fnv_offset_basis(), <const uint8_t*>PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel)
        ) % <uint64_t>len(next_offsets)
        offset = next_offsets[partition]
        next_offsets[partition] = offset + 1
        rows.append(row_of(view, partition, offset, time, channel, value, learn, sends))
    return rows, sends
