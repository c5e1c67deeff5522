"""Frames as bytes, for C (frame.pxd) and for Python: the parser of a stream, and one encode/decode pair for each
fixed layout.

Never looks into MessagePack bodies, keeps no state but an unfinished frame, and decides nothing about what a frame
means.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, strlen

cimport cython

from chatcore_ext.constants cimport (
    ERROR_PREFIX_SIZE,
    FRAME_FAILED,
    FRAME_HELLO,
    FRAME_REFUSED,
    FRAME_REPLY,
    FRAME_REQUEST,
    FRAME_SEND,
    HELLO_PREFIX_SIZE,
    MAX_BODY_LENGTH,
    REPLY_PREFIX_SIZE,
    REQUEST_PREFIX_SIZE,
)
from chatcore_ext.error_codes cimport ERROR_FRAME_TOO_LARGE, ERROR_OVERLOADED, error_name

MAGIC = b"chat"
cdef enum:
    REFUSED_PREFIX_SIZE = 8    # bytes: u64 seq


# ---- Cutting a stream into frames --------------------------------------------------------------------------------

cdef inline uint32_t _take(
    FrameAssembler* assembler, const uint8_t** cursor, const uint8_t* end, uint32_t wanted
) noexcept nogil:
    """Move bytes from the cursor into `partial` until it holds `wanted`. Returns how many are still missing."""
    cdef uint32_t missing = wanted - assembler.partial_len
    cdef size_t there = end - cursor[0]
    cdef uint32_t taken = missing if there >= missing else <uint32_t>there
    store_bytes(assembler.partial + assembler.partial_len, cursor[0], taken)
    assembler.partial_len += taken
    cursor[0] += taken
    return missing - taken


cdef int _reserve(FrameAssembler* assembler, uint32_t size) noexcept nogil:
    cdef uint8_t* grown
    if assembler.partial_capacity >= size:
        return 0
    grown = <uint8_t*>realloc(assembler.partial, size)
    if grown == NULL:
        return ERROR_OVERLOADED
    assembler.partial = grown
    assembler.partial_capacity = size
    return 0


cdef inline void _set_frame(Frame* frame, const uint8_t* at, uint32_t header) noexcept nogil:
    frame.type = header & 0xFF
    frame.body_len = header >> 8
    frame.body = at + HEADER_SIZE


cdef int _continue_partial(
    FrameAssembler* assembler, const uint8_t** cursor, const uint8_t* end, uint32_t max_body, Frame* frame
) noexcept nogil:
    cdef uint32_t header
    if assembler.partial_len < HEADER_SIZE:
        if _take(assembler, cursor, end, HEADER_SIZE):
            return FRAME_NEED_MORE
    header = load_u32(assembler.partial)
    if header >> 8 > max_body:
        return ERROR_FRAME_TOO_LARGE
    if _reserve(assembler, HEADER_SIZE + (header >> 8)):
        return ERROR_OVERLOADED
    if _take(assembler, cursor, end, HEADER_SIZE + (header >> 8)):
        return FRAME_NEED_MORE
    _set_frame(frame, assembler.partial, header)
    # The frame stays readable until the next call, which finds it consumed and frees it.
    assembler.partial_len = 0
    return FRAME_READY


cdef int next_frame(
    FrameAssembler* assembler, const uint8_t** cursor, const uint8_t* end, uint32_t max_body, Frame* frame
) noexcept nogil:
    cdef size_t there = end - cursor[0]
    cdef uint32_t header
    cdef uint32_t size
    if assembler.partial_len:
        return _continue_partial(assembler, cursor, end, max_body, frame)
    if assembler.partial != NULL:
        assembler_clear(assembler)
    if there == 0:
        return FRAME_NEED_MORE
    size = HEADER_SIZE
    if there >= HEADER_SIZE:
        header = load_u32(cursor[0])
        if header >> 8 > max_body:
            return ERROR_FRAME_TOO_LARGE
        size += header >> 8
        if there >= size:
            _set_frame(frame, cursor[0], header)
            cursor[0] += size
            return FRAME_READY
    if _reserve(assembler, size):
        return ERROR_OVERLOADED
    _take(assembler, cursor, end, size)
    return FRAME_NEED_MORE


cdef void assembler_clear(FrameAssembler* assembler) noexcept nogil:
    free(assembler.partial)
    assembler.partial = NULL
    assembler.partial_len = 0
    assembler.partial_capacity = 0


class FrameError(ValueError):
    """The bytes break the protocol: `code` is an ErrorCode, `frames` the whole frames that came before in the same
    call."""

    def __init__(self, code, detail, frames=()):
        super().__init__(detail)
        self.code = code
        self.frames = list(frames)


@cython.final
cdef class FrameParser:
    """Cuts a byte stream into frames, however it was split."""

    cdef FrameAssembler _assembler
    cdef uint32_t _max_body
    cdef int _failed

    def __init__(self, max_body=MAX_BODY_LENGTH):
        if not 0 <= max_body <= MAX_BODY_LENGTH:
            raise ValueError(f"max_body is 0 to {MAX_BODY_LENGTH} bytes")
        self._max_body = max_body

    def __dealloc__(self):
        assembler_clear(&self._assembler)

    def feed(self, data not None):
        cdef const uint8_t[::1] view = data
        cdef const uint8_t* cursor
        cdef const uint8_t* end
        cdef Frame frame
        cdef int result
        frames = []
        if self._failed:
            raise FrameError(self._failed, "the stream broke the protocol before")
        if view.shape[0] == 0:
            return frames
        cursor = &view[0]
        end = cursor + view.shape[0]
        # Stands until all of `data` is taken in: a MemoryError on the way loses frames, so nothing may follow them.
        self._failed = ERROR_OVERLOADED
        result = next_frame(&self._assembler, &cursor, end, self._max_body, &frame)
        while result == FRAME_READY:
            frames.append((frame.type, PyBytes_FromStringAndSize(<const char*>frame.body, frame.body_len)))
            result = next_frame(&self._assembler, &cursor, end, self._max_body, &frame)
        if result == FRAME_NEED_MORE:
            self._failed = 0
            return frames
        self._failed = result
        assembler_clear(&self._assembler)
        if result == ERROR_FRAME_TOO_LARGE:
            raise FrameError(result, f"a frame's body has more than {self._max_body} bytes", frames)
        raise FrameError(result, "there is no memory for an unfinished frame", frames)

    @property
    def pending(self):
        return self._assembler.partial_len


# ---- Error bodies ----------------------------------------------------------------------------------------------------

cdef uint32_t error_body_size(int code, uint32_t message_len) noexcept nogil:
    return ERROR_PREFIX_SIZE + <uint32_t>strlen(error_name(code)) + message_len


cdef uint8_t* write_error_body(
    uint8_t* at, int code, int flags, uint32_t retry_after_ms, const uint8_t* message, uint32_t message_len
) noexcept nogil:
    cdef const char* name = error_name(code)
    cdef size_t name_len = strlen(name)
    at = store_u16(at, <uint16_t>code)
    at = store_u8(at, <uint8_t>flags)
    at = store_u32(at, retry_after_ms)
    at = store_u8(at, <uint8_t>name_len)
    at = store_bytes(at, <const uint8_t*>name, name_len)
    return store_bytes(at, message, message_len)


# ---- Encoding for Python ---------------------------------------------------------------------------------------------

cdef int _check_body_size(Py_ssize_t size) except -1:
    if size > MAX_BODY_LENGTH:
        raise ValueError(f"a frame's body has at most {MAX_BODY_LENGTH} bytes")
    return 0


cdef bytes _new_frame(int frame_type, Py_ssize_t body_len, uint8_t** body):
    """A bytes object with its header written; `body` is set to where the body belongs."""
    cdef bytes frame
    _check_body_size(body_len)
    frame = PyBytes_FromStringAndSize(NULL, HEADER_SIZE + body_len)
    body[0] = write_header(<uint8_t*>PyBytes_AS_STRING(frame), frame_type, <uint32_t>body_len)
    return frame


cdef int _check_sender(bytes sender) except -1:
    if len(sender) > 255:
        raise ValueError("a sender's name has at most 255 bytes")
    return 0


def encode_frame(uint8_t type, bytes body not None):
    cdef uint8_t* at
    cdef bytes frame = _new_frame(type, len(body), &at)
    store_bytes(at, body, len(body))
    return frame


def encode_hello(uint8_t version, bytes options not None):
    return encode_frame(FRAME_HELLO, MAGIC + bytes((version, 0, 0, 0)) + options)


def encode_send(uint64_t seq, uint32_t channel, uint8_t flags, bytes body not None):
    cdef uint8_t* at
    cdef bytes frame = _new_frame(FRAME_SEND, SEND_PREFIX_SIZE + len(body), &at)
    at = store_u64(at, seq)
    at = store_u32(at, channel)
    at = store_u8(at, flags)
    store_bytes(at, body, len(body))
    return frame


def encode_ack(uint64_t seq, uint64_t id, uint64_t time):
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, HEADER_SIZE + ACK_SIZE)
    write_ack(<uint8_t*>PyBytes_AS_STRING(frame), seq, id, time)
    return frame


def encode_refused(uint64_t seq, bytes error not None):
    cdef uint8_t* at
    cdef bytes frame = _new_frame(FRAME_REFUSED, REFUSED_PREFIX_SIZE + len(error), &at)
    at = store_u64(at, seq)
    store_bytes(at, error, len(error))
    return frame


def encode_deliver(
    uint32_t channel, uint8_t flags, uint64_t id, uint64_t prev, uint64_t hash, uint64_t time,
    bytes sender not None, bytes body not None,
):
    cdef uint8_t* at
    cdef bytes frame
    _check_sender(sender)
    frame = _new_frame(FRAME_DELIVER, DELIVER_PREFIX_SIZE + len(sender) + len(body), &at)
    write_deliver(
        at - HEADER_SIZE, channel, flags, id, prev, hash, time, sender, <uint8_t>len(sender), body, <uint32_t>len(body)
    )
    return frame


def encode_signal(uint32_t channel, uint8_t kind, bytes sender not None, bytes body not None):
    cdef uint8_t* at
    cdef bytes frame
    _check_sender(sender)
    frame = _new_frame(FRAME_SIGNAL, SIGNAL_PREFIX_SIZE + len(sender) + len(body), &at)
    write_signal(at - HEADER_SIZE, channel, kind, sender, <uint8_t>len(sender), body, <uint32_t>len(body))
    return frame


def encode_gap(uint32_t channel, uint64_t first, uint64_t last):
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, HEADER_SIZE + GAP_SIZE)
    write_gap(<uint8_t*>PyBytes_AS_STRING(frame), channel, first, last)
    return frame


def encode_request(uint32_t request_id, uint8_t operation, bytes body not None):
    cdef uint8_t* at
    cdef bytes frame = _new_frame(FRAME_REQUEST, REQUEST_PREFIX_SIZE + len(body), &at)
    at = store_u32(at, request_id)
    at = store_u8(at, operation)
    store_bytes(at, body, len(body))
    return frame


cdef bytes _encode_answer(int frame_type, uint32_t request_id, bytes body):
    cdef uint8_t* at
    cdef bytes frame = _new_frame(frame_type, REPLY_PREFIX_SIZE + len(body), &at)
    at = store_u32(at, request_id)
    store_bytes(at, body, len(body))
    return frame


def encode_reply(uint32_t request_id, bytes body not None):
    return _encode_answer(FRAME_REPLY, request_id, body)


def encode_failed(uint32_t request_id, bytes error not None):
    return _encode_answer(FRAME_FAILED, request_id, error)


def encode_goaway(uint32_t deadline_ms, uint32_t reconnect_window_ms):
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, HEADER_SIZE + GOAWAY_SIZE)
    write_goaway(<uint8_t*>PyBytes_AS_STRING(frame), deadline_ms, reconnect_window_ms)
    return frame


def encode_error(uint16_t code, uint8_t flags, uint32_t retry_after_ms, bytes message not None):
    cdef bytes body
    # Before error_body_size, whose sum of 32 bits would overflow where this one cannot.
    _check_body_size(ERROR_PREFIX_SIZE + <Py_ssize_t>strlen(error_name(code)) + len(message))
    body = PyBytes_FromStringAndSize(NULL, error_body_size(code, <uint32_t>len(message)))
    write_error_body(
        <uint8_t*>PyBytes_AS_STRING(body), code, flags, retry_after_ms, message, <uint32_t>len(message)
    )
    return body


# ---- Decoding for Python ---------------------------------------------------------------------------------------------

cdef int _need(bytes body, Py_ssize_t size, str what) except -1:
    if len(body) < size:
        raise FrameError(ERROR_MALFORMED_FRAME, f"{what} needs {size} bytes and has {len(body)}")
    return 0


def decode_hello(bytes body not None):
    _need(body, HELLO_PREFIX_SIZE, "HELLO")
    if memcmp(PyBytes_AS_STRING(body), b"chat", 4) != 0:
        raise FrameError(ERROR_MALFORMED_FRAME, "HELLO does not begin with \"chat\"")
    return body[4], body[HELLO_PREFIX_SIZE:]


def decode_send(bytes body not None):
    cdef SendFields fields
    if read_send(body, <uint32_t>len(body), &fields):
        raise FrameError(ERROR_MALFORMED_FRAME, "SEND is too short")
    return fields.seq, fields.channel, fields.flags, body[SEND_PREFIX_SIZE:]


def decode_ack(bytes body not None):
    cdef const uint8_t* at = body
    _need(body, ACK_SIZE, "ACK")
    return load_u64(at), load_u64(at + 8), load_u64(at + 16)


def decode_refused(bytes body not None):
    _need(body, REFUSED_PREFIX_SIZE, "REFUSED")
    return load_u64(body), body[REFUSED_PREFIX_SIZE:]


def decode_deliver(bytes body not None):
    cdef const uint8_t* at = body
    cdef Py_ssize_t sender_end
    _need(body, DELIVER_PREFIX_SIZE, "DELIVER")
    sender_end = DELIVER_PREFIX_SIZE + at[5]
    _need(body, sender_end, "DELIVER with its sender")
    return (
        load_u32(at), at[4], load_u64(at + 6), load_u64(at + 14), load_u64(at + 22), load_u64(at + 30),
        body[DELIVER_PREFIX_SIZE:sender_end], body[sender_end:],
    )


def decode_signal(bytes body not None):
    cdef SignalFields fields
    cdef Py_ssize_t sender_end
    if read_signal(body, <uint32_t>len(body), &fields):
        raise FrameError(ERROR_MALFORMED_FRAME, "SIGNAL is too short")
    sender_end = SIGNAL_PREFIX_SIZE + fields.sender_len
    return fields.channel, fields.kind, body[SIGNAL_PREFIX_SIZE:sender_end], body[sender_end:]


def decode_gap(bytes body not None):
    cdef const uint8_t* at = body
    _need(body, GAP_SIZE, "GAP")
    return load_u32(at), load_u64(at + 4), load_u64(at + 12)


def decode_request(bytes body not None):
    cdef const uint8_t* at = body
    _need(body, REQUEST_PREFIX_SIZE, "REQUEST")
    return load_u32(at), at[4], body[REQUEST_PREFIX_SIZE:]


def decode_reply(bytes body not None):
    _need(body, REPLY_PREFIX_SIZE, "an answer")
    return load_u32(body), body[REPLY_PREFIX_SIZE:]


def decode_goaway(bytes body not None):
    cdef const uint8_t* at = body
    _need(body, GOAWAY_SIZE, "GOAWAY")
    return load_u32(at), load_u32(at + 4)


def decode_error(bytes body not None):
    cdef const uint8_t* at = body
    cdef Py_ssize_t name_end
    _need(body, ERROR_PREFIX_SIZE, "an error")
    name_end = ERROR_PREFIX_SIZE + at[7]
    _need(body, name_end, "an error with its name")
    return (
        load_u16(at), at[2], load_u32(at + 3),
        body[ERROR_PREFIX_SIZE:name_end].decode("utf-8", "replace"), body[name_end:].decode("utf-8", "replace"),
    )
