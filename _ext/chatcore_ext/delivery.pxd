"""From a log record to the DELIVER frames of its channel."""

from libc.stdint cimport uint8_t, uint64_t

from chatcore_ext.hub_state cimport HubState
from chatcore_ext.log_view cimport Placement
from chatcore_ext.tables cimport Channel


# A message at `offset` that the view has placed: encode it once, and once more without content if somebody here must
# not see it; note it for every receiver.
cdef void deliver_message(
    HubState* hub, Channel* channel, uint64_t offset, uint64_t time, const Placement* place
) noexcept nogil

# The two players of "dm:A:B" as pieces of the name. False: it is no private chat.
cdef bint direct_players(
    const uint8_t* name, size_t size, const uint8_t** first, size_t* first_size,
    const uint8_t** second, size_t* second_size
) noexcept nogil
