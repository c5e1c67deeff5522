"""From one frame to all who hear a channel; see fanout.pxd."""

from libc.stdint cimport uint8_t

from chatcore_ext.arena cimport arena_extend
from chatcore_ext.kept_signals cimport keep_signal
from chatcore_ext.output cimport PREFETCH, output_append, output_hurry, output_make_room, output_reserve
from chatcore_ext.tables cimport CONGESTION_BEHIND, STATE_READY, Member


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


# Messages to one who takes no more now go into its backlog up to a bound. It may not have had the chance to read at all
# in a turn with so much for it, so the kernel is asked before it is behind.
cdef bint is_behind(Output* output, Connection* connection, size_t size) noexcept nogil:
    if not connection.congestion & CONGESTION_BEHIND:
        if connection.pending + size > output.pause_pending:
            output_make_room(output, connection, size)
        if connection.pending + size <= output.pause_pending:
            return False
        output_hurry(output, connection)  # a transport could not be asked; it may take all once it is flushed
        connection.congestion |= CONGESTION_BEHIND
        output.counters.receivers_paused += 1
    return True


# True: this receiver, which lags or has much pending, does without for now.
cdef bint is_left_out(
    Output* output, const Member* member, const uint8_t* frame, size_t size, unsigned long long id
) noexcept nogil:
    cdef Connection* connection = member.connection
    if id == 0:
        if connection.congestion == 0 and not is_behind(output, connection, size):
            return False
        keep_signal(output, connection, frame, size)
        return True
    if not is_behind(output, connection, size):
        return False
    output.counters.deliveries_left_out += 1
    if member.subscription.first_left_out == 0:
        member.subscription.first_left_out = id
    return True


cdef inline bint note(
    Output* output, const Member* member, const uint8_t* frame, size_t size, unsigned long long id
) noexcept nogil:
    cdef Connection* connection = member.connection
    if connection.congestion or connection.pending + size > output.pause_pending:
        if is_left_out(output, member, frame, size, id):
            return False
    output_append(output, connection, frame, size)
    return True


cdef unsigned int fan_out(
    Output* output, Channel* channel, const uint8_t* frame, size_t size, unsigned long long id,
    const Connection* excepted, unsigned long long stamp
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
        n_receivers += note(output, &member[-1], frame, size, id)
    return n_receivers


cdef unsigned int fan_out_hidden(
    Output* output, Channel* channel, const uint8_t* frame, size_t size, const uint8_t* hidden, size_t hidden_size,
    unsigned long long id, unsigned long long stamp, unsigned int* n_hidden
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
            n_hidden[0] += note(output, &member[-1], hidden, hidden_size, id)
        else:
            n_receivers += note(output, &member[-1], frame, size, id)
    n_receivers += n_hidden[0]
    return n_receivers


cdef unsigned int append_to_all(
    Output* output, Channel* channel, const uint8_t* frame, size_t size, const Connection* excepted
) noexcept nogil:
    cdef:
        unsigned int i
        unsigned int n_receivers = 0
        Connection* connection
    for i in range(channel.n_members):
        connection = channel.members[i].connection
        if connection.state == STATE_READY and connection != excepted:
            output_append(output, connection, frame, size)
            n_receivers += 1
    return n_receivers
