"""From one frame to all who hear a channel: encode once, note it for each receiver."""

from libc.stdint cimport uint8_t

from chatcore_ext.output cimport Output
from chatcore_ext.tables cimport Channel, Connection

# Room for one frame of the channel, directly behind the channel's frames before it in this turn where possible: then
# each receiver has one piece to send instead of one per frame. NULL: no memory.
cdef uint8_t* channel_reserve(Output* output, Channel* channel, size_t size) noexcept nogil

# Note the frame of a signal (id 0) or message for every ready connection in the channel but `excepted` and those whose
# player has the stamp (0: none). Who lags hears of signals later, and who is behind of messages. Returns to how many it
# goes.
cdef unsigned int fan_out(
    Output* output, Channel* channel, const uint8_t* frame, size_t size, unsigned long long id,
    const Connection* excepted, unsigned long long stamp
) noexcept nogil

# The frame of an event, which is not repeated: nobody is left out.
cdef unsigned int append_to_all(
    Output* output, Channel* channel, const uint8_t* frame, size_t size, const Connection* excepted
) noexcept nogil

# As fan_out, for two versions of a frame: `hidden` goes to those whose player has the stamp. Returns to how many it
# goes in all.
cdef unsigned int fan_out_hidden(
    Output* output, Channel* channel, const uint8_t* frame, size_t size, const uint8_t* hidden, size_t hidden_size,
    unsigned long long id, unsigned long long stamp, unsigned int* n_hidden
) noexcept nogil
