"""From a log record to the DELIVER frames of its channel."""

from libc.stdint cimport uint8_t
from chatcore_ext.hub_state cimport HubState
from chatcore_ext.tables cimport Channel


# A message that has its place in the log; the pointers are the record's.
cdef struct PlacedMessage:
    unsigned long long id
    unsigned long long prev
    unsigned long long hash
    unsigned long long time
    const uint8_t* sender
    size_t sender_size
    const uint8_t* body
    size_t size


# Encode once, and once more without content if somebody here must not see it; note it for every receiver.
cdef void deliver_message(HubState* hub, Channel* channel, const PlacedMessage* message) noexcept nogil

# The two players of "dm:A:B" as pieces of the name. False: it is no private chat.
cdef bint direct_players(
    const uint8_t* name, size_t size, const uint8_t** first, size_t* first_size, const uint8_t** second, size_t* second_size
) noexcept nogil
