"""From one frame to all who hear a channel; see fanout.pxd."""

from libc.stdint cimport uint8_t

from chatcore_ext.arena cimport arena_extend
from chatcore_ext.output cimport PREFETCH, output_append, output_reserve
from chatcore_ext.tables cimport STATE_READY, Member


cdef enum:
    # Bytes reserved when a channel's frames of one turn turn out not to lie together: doubles up to the largest.
    MIN_EXTENT = 1024
    MAX_EXTENT = 32768
    AHEAD = 8                  # members whose connections are on their way from memory while one is worked on


cdef uint8_t* channel_reserve(Output* output, Channel* channel, size_t size) noexcept nogil:
    cdef:
        uint8_t* frame
        size_t extent = size
    if channel.turn == output.turn:
        if <size_t>(channel.extent_limit - channel.extent_end) < size:
            if arena_extend(&output.bytes, channel.extent_limit, size):
                channel.extent_limit += size
            else:
                # Another channel's frame lies behind ours. Most channels have one frame a turn, so only now take more.
                channel.extent_size = max(channel.extent_size * 2, <unsigned int>MIN_EXTENT)
                channel.extent_size = min(channel.extent_size, <unsigned int>MAX_EXTENT)
                extent = max(size, <size_t>channel.extent_size)
                channel.extent_end = output_reserve(output, extent)
                channel.extent_limit = channel.extent_end + extent
    else:
        channel.turn = output.turn
        channel.extent_size = 0
        channel.extent_end = output_reserve(output, size)
        channel.extent_limit = channel.extent_end + size
    frame = channel.extent_end
    if frame == NULL:
        channel.turn = 0
        return NULL
    channel.extent_end += size
    return frame


cdef unsigned int fan_out(
    Output* output, Channel* channel, const uint8_t* frame, size_t size, const Connection* excepted,
    unsigned long long stamp
) noexcept nogil:
    cdef:
        const Member* member = channel.members
        const Member* end = member + channel.n_members
        Connection* connection
        unsigned int n_receivers = 0
    while member != end:
        connection = member.connection
        member += 1
        if end - member > AHEAD:
            PREFETCH(member[AHEAD].connection)
        if connection.state != STATE_READY or connection == excepted:
            continue
        if stamp and connection.session.player.stamp == stamp:
            continue
        output_append(output, connection, frame, size)
        n_receivers += 1
    return n_receivers


cdef unsigned int fan_out_hidden(
    Output* output, Channel* channel, const uint8_t* frame, size_t size, const uint8_t* hidden, size_t hidden_size,
    unsigned long long stamp, unsigned int* n_hidden
) noexcept nogil:
    cdef:
        const Member* member = channel.members
        const Member* end = member + channel.n_members
        Connection* connection
        unsigned int n_receivers = 0
    n_hidden[0] = 0
    while member != end:
        connection = member.connection
        member += 1
        if connection.state != STATE_READY:
            continue
        if connection.session.player.stamp == stamp:
            output_append(output, connection, hidden, hidden_size)
            n_hidden[0] += 1
        else:
            output_append(output, connection, frame, size)
        n_receivers += 1
    return n_receivers
