"""What is noted where: the places of the data plane that tell a trace something, while there is one."""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint64_t

from chatcore_ext.hub_state cimport HubState
from chatcore_ext.log_view cimport Placement
from chatcore_ext.tables cimport Channel, Connection

# All are to be called while `hub.tap.is_on`.

# A client's frame, before anything is done about it.
cdef void tap_inbound(
    HubState* hub, Connection* connection, int type, const uint8_t* body, size_t size
) noexcept nogil

# The log's next record of a traced channel, which the view has placed. `channel` NULL: nobody here is in it.
cdef void tap_record(
    HubState* hub, PyObject* name, const Channel* channel, uint64_t offset, const Placement* place
) noexcept nogil

# A message (or signal: id 0) was noted for all in the channel, in this turn and with these arguments: tells what became
# of it for whom. The tables still say so, which is why this may walk them a second time: a receiver that is behind now
# was left out, and one that ends now got nothing. `hidden` is what those with the stamp got; NULL: nothing.
cdef void tap_fanned_out(
    HubState* hub, const Channel* channel, const uint8_t* frame, const uint8_t* hidden, uint64_t id,
    const Connection* excepted, unsigned long long stamp
) noexcept nogil

# An event's frame goes to all in the channel but one.
cdef void tap_event_to_all(
    HubState* hub, const Channel* channel, const uint8_t* frame, const Connection* excepted
) noexcept nogil
