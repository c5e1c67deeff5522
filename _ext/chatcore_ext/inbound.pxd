"""What a client's frame does: the answer, refusal or relay that needs no Python, or the event that does."""

from libc.stdint cimport uint8_t

from chatcore_ext.frame cimport SignalFields
from chatcore_ext.hub_state cimport HubState
from chatcore_ext.tables cimport Channel, Connection

# A whole frame of a connection that has not ended; `body` is only valid during the call.
cdef void handle_frame(
    HubState* hub, Connection* connection, int type, const uint8_t* body, size_t size
) noexcept nogil

# REFUSED and FAILED frames with an error body; also for Python's refusals.
cdef void append_refused(
    HubState* hub, Connection* connection, unsigned long long seq, int code, int flags, unsigned int retry_after_ms
) noexcept nogil
cdef void append_failed(
    HubState* hub, Connection* connection, unsigned int request_id, int code, const uint8_t* message, size_t size,
    unsigned int retry_after_ms
) noexcept nogil

# SIGNAL to all in the channel but `excepted` (NULL: nobody) and those who hide its sender. Returns to how many.
cdef unsigned int relay_signal(
    HubState* hub, Channel* channel, const SignalFields* signal, const Connection* excepted
) noexcept nogil
