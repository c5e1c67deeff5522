"""From a log record to the DELIVER frames of its channel; see delivery.pxd."""

from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp

from chatcore_ext.constants cimport DELIVER_HIDDEN, DELIVER_PREFIX_SIZE, HEADER_SIZE
from chatcore_ext.fanout cimport channel_reserve, fan_out, fan_out_hidden
from chatcore_ext.frame cimport write_deliver
from chatcore_ext.output cimport output_reserve
from chatcore_ext.routing cimport stamp_hiders
from chatcore_ext.send_times cimport note_delivery
from chatcore_ext.tap_points cimport tap_fanned_out


cdef enum:
    HIDDEN_SIZE = HEADER_SIZE + DELIVER_PREFIX_SIZE


cdef inline uint8_t* write_message(
    uint8_t* at, const Channel* channel, uint64_t offset, uint64_t time, const Placement* place
) noexcept nogil:
    return write_deliver(
        at, channel.number, 0, offset, place.prev, place.hash, time, place.record.sender, place.record.sender_len,
        place.record.body, <unsigned int>place.record.body_len,
    )


cdef void deliver_message(
    HubState* hub, Channel* channel, uint64_t offset, uint64_t time, const Placement* place
) noexcept nogil:
    cdef:
        size_t size = HEADER_SIZE + DELIVER_PREFIX_SIZE + place.record.sender_len + place.record.body_len
        unsigned long long stamp = 0
        unsigned int n_receivers
        unsigned int n_hidden = 0
        uint8_t* frame
        uint8_t* hidden = NULL
    channel.last_id = offset
    if channel.n_members == 0:
        return
    if hub.routing.hidden_senders.n_entries:
        stamp = stamp_hiders(&hub.routing, place.record.sender, place.record.sender_len)
    frame = channel_reserve(&hub.output, channel, size)
    if frame == NULL:
        return  # without memory the clients see a hole, by the next message's prev
    write_message(frame, channel, offset, time, place)
    if stamp == 0:
        n_receivers = fan_out(&hub.output, channel, frame, size, offset, NULL, 0)
    else:
        hidden = output_reserve(&hub.output, HIDDEN_SIZE)
        if hidden == NULL:
            return
        write_deliver(
            hidden, channel.number, DELIVER_HIDDEN, offset, place.prev, place.hash, time, NULL, 0, NULL, 0
        )
        n_receivers = fan_out_hidden(
            &hub.output, channel, frame, size, hidden, HIDDEN_SIZE, offset, stamp, &n_hidden
        )
    if hub.tap.is_on:
        tap_fanned_out(hub, channel, frame, hidden, offset, NULL, stamp)
    if n_receivers:
        note_delivery(&hub.send_times, place.record.session, place.record.seq)
        hub.counters.messages_delivered += 1
        hub.counters.deliveries += n_receivers
        hub.counters.deliveries_hidden += n_hidden


cdef bint direct_players(
    const uint8_t* name, size_t size, const uint8_t** first, size_t* first_size,
    const uint8_t** second, size_t* second_size
) noexcept nogil:
    cdef const uint8_t* colon
    if size < 6 or memcmp(name, b"dm:", 3) != 0:
        return False
    colon = <const uint8_t*>memchr(name + 3, c':', size - 3)
    if colon == NULL:
        return False
    first[0] = name + 3
    first_size[0] = colon - first[0]
    second[0] = colon + 1
    second_size[0] = (name + size) - second[0]
    return first_size[0] > 0 and second_size[0] > 0
