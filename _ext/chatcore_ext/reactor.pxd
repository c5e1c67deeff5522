"""The sockets of a worker in one epoll set: accept, receive, and the turn that does everything without the GIL."""

from libc.stdint cimport uint8_t

from chatcore_ext.hub_state cimport HubState
from chatcore_ext.tables cimport Connection

# What became of a try to connect.
cdef struct Entry:
    unsigned int address       # slot, whose place the connection will take
    int refusal                # code, 0: come in
    unsigned int retry_after_ms


# Reads the clocks: once per turn, all of a turn happens at one time.
cdef void read_clocks(HubState* hub) noexcept nogil

cdef int reactor_open(HubState* hub) noexcept nogil  # -1: errno says why
# The flush window, and its timer in the epoll set; as window_open.
cdef int reactor_open_window(HubState* hub, unsigned int length_us, unsigned int rate) noexcept nogil
# Take a descriptor in: watch it for connections, or make it one. An errno, or 0; NULL and an errno.
cdef int listen_on(HubState* hub, int descriptor) noexcept nogil
cdef void stop_listening(HubState* hub) noexcept nogil
cdef void resume_listening(HubState* hub) noexcept nogil
cdef Connection* adopt(HubState* hub, int descriptor, const Entry* entry, int* error) noexcept nogil
# May one more connection come from this address (a slot of hub.addresses)? Counts the try.
cdef Entry entry_for(HubState* hub, unsigned int address) noexcept nogil
# So many refused ones are still waiting to hear it that one more is closed without a word.
cdef bint is_overrun(const HubState* hub) noexcept nogil
# With those who are ending there are more than there are descriptors for.
cdef bint is_out_of_room(const HubState* hub) noexcept nogil
# What every new connection starts with, socket or transport; a refused one is told so and ends.
cdef void admit(HubState* hub, Connection* connection, const Entry* entry) noexcept nogil

# Parse bytes that came for the connection and handle the frames that are whole.
cdef void take_input(HubState* hub, Connection* connection, const uint8_t* data, size_t size) noexcept nogil
# Everything that is ready now, up to BURST_EVENTS sockets; flushes sockets.
cdef void burst(HubState* hub) noexcept nogil
# Addresses that nothing is known of any more but that they were here.
cdef void forget_addresses(HubState* hub) noexcept nogil
cdef void close_descriptor(Connection* connection) noexcept nogil
cdef void reactor_close(HubState* hub) noexcept nogil
