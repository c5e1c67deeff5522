"""What is noted where; see tap_points.pxd."""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint64_t

from chatcore_ext.connection cimport connection_handle
from chatcore_ext.constants cimport FRAME_SEND, FRAME_SIGNAL, SEND_PREFIX_SIZE, SIGNAL_PREFIX_SIZE
from chatcore_ext.frame cimport load_u32
from chatcore_ext.routing cimport NAME_BYTES, NAME_SIZE, find_named, subscription_of, subscription_to
from chatcore_ext.tables cimport CONGESTION_BEHIND, STATE_READY, Player, Session, Subscription
from chatcore_ext.tap cimport (
    FATE_CLOSING, FATE_DELIVERED, FATE_HIDDEN, FATE_IS_SENDER, FATE_LEFT_OUT, FATE_NOT_CONNECTED, FATE_NOT_JOINED,
    FATE_WAITS, TAP_FANNED_OUT, TAP_IN, TAP_MISSED, TAP_RECORD, TRACED_PLAYER, TRACED_SENDER, Fate, TapEvent,
    tap_keep, tap_note, tap_note_of, tap_out,
)


# --- in ---

# Which channel a frame names; NULL: none that the client is in.
cdef const Channel* channel_of(
    HubState* hub, const Connection* connection, int type, const uint8_t* body, size_t size
) noexcept nogil:
    cdef const Subscription* subscription = NULL
    if type == FRAME_SEND and size >= SEND_PREFIX_SIZE:
        subscription = subscription_of(&hub.routing, connection, load_u32(body + 8))
    elif type == FRAME_SIGNAL and size >= SIGNAL_PREFIX_SIZE:
        subscription = subscription_of(&hub.routing, connection, load_u32(body))
    return subscription.channel if subscription != NULL else NULL


cdef void tap_inbound(
    HubState* hub, Connection* connection, int type, const uint8_t* body, size_t size
) noexcept nogil:
    cdef:
        const Channel* channel
        TapEvent* event
        bint is_seen = connection.traced & TRACED_PLAYER
    if connection.state != STATE_READY:
        return
    channel = channel_of(hub, connection, type, body, size)
    if channel != NULL and channel.is_traced:
        is_seen = True
        if type == FRAME_SEND:
            connection.traced |= TRACED_SENDER
    if not is_seen:
        return
    event = tap_note_of(&hub.tap, TAP_IN, connection, channel)
    if event != NULL:
        tap_keep(&hub.tap, event, type, body, size)


# --- the log ---

# A traced player who is in no way in a traced channel.
cdef void note_absent(HubState* hub, PyObject* player_name, PyObject* channel, uint64_t id) noexcept nogil:
    cdef:
        const Player* player = <Player*>find_named(
            &hub.routing.players, NAME_BYTES(player_name), NAME_SIZE(player_name)
        )
        const Session* session = player.sessions if player != NULL else NULL
        TapEvent* event
    while session != NULL and session.connection == NULL:
        session = session.next
    event = tap_note(
        &hub.tap, TAP_MISSED, connection_handle(session.connection) if session != NULL else 0,
        NAME_BYTES(player_name), NAME_SIZE(player_name), channel
    )
    if event != NULL:
        event.numbers[0] = id
        event.numbers[1] = FATE_NOT_JOINED if session != NULL else FATE_NOT_CONNECTED


cdef void tap_record(
    HubState* hub, PyObject* name, const Channel* channel, uint64_t offset, const Placement* place
) noexcept nogil:
    cdef:
        TapEvent* event = tap_note(&hub.tap, TAP_RECORD, 0, place.record.sender, place.record.sender_len, name)
        unsigned int n_members = channel.n_members if channel != NULL else 0
        int i
    if place.first and n_members == 0:
        for i in range(hub.tap.n_players):
            note_absent(hub, hub.tap.players[i], name, offset)
    if event == NULL:
        return
    event.numbers[5] = n_members
    event.numbers[0] = offset
    event.numbers[1] = place.prev if place.first else 0
    event.numbers[2] = place.record.session
    event.numbers[3] = place.record.seq
    event.numbers[4] = not place.first
    if hub.tap.with_bodies:
        tap_keep(&hub.tap, event, 0, place.record.body, place.record.body_len)
    else:
        event.size = <unsigned int>place.record.body_len


# --- out ---

cdef Fate fate_of(
    const Connection* connection, uint64_t id, const Connection* excepted, unsigned long long stamp
) noexcept nogil:
    cdef bint is_hidden
    if connection == excepted:
        return FATE_IS_SENDER
    if connection.state != STATE_READY:
        return FATE_CLOSING
    is_hidden = stamp and connection.session.player.stamp == stamp
    if is_hidden and id == 0:
        return FATE_HIDDEN
    if id == 0:
        return FATE_WAITS if connection.congestion else FATE_DELIVERED
    if connection.congestion & CONGESTION_BEHIND:
        return FATE_LEFT_OUT
    return FATE_HIDDEN if is_hidden else FATE_DELIVERED


cdef void note_missed(
    HubState* hub, const Channel* channel, const Connection* connection, const Subscription* subscription,
    uint64_t id, Fate fate
) noexcept nogil:
    cdef TapEvent* event = tap_note_of(&hub.tap, TAP_MISSED, connection, channel)
    if event == NULL:
        return
    event.numbers[0] = id
    event.numbers[1] = fate
    event.numbers[2] = connection.pending
    event.numbers[3] = subscription.first_left_out if subscription != NULL else 0


# Who in the channel does not see it, and how many do.
cdef void note_members(
    HubState* hub, const Channel* channel, uint64_t id, const Connection* excepted, unsigned long long stamp
) noexcept nogil:
    cdef:
        unsigned long long[<int>FATE_WAITS + 1] n_by_fate
        unsigned int i
        const Connection* connection
        Fate fate
        TapEvent* event
    for i in range(<unsigned int>FATE_WAITS + 1):
        n_by_fate[i] = 0
    for i in range(channel.n_members):
        connection = channel.members[i].connection
        fate = fate_of(connection, id, excepted, stamp)
        n_by_fate[<int>fate] += 1
        if id and fate != FATE_DELIVERED:
            note_missed(hub, channel, connection, channel.members[i].subscription, id, fate)
    event = tap_note(&hub.tap, TAP_FANNED_OUT, 0, NULL, 0, channel.named.name)
    if event == NULL:
        return
    event.numbers[0] = id
    event.numbers[1] = n_by_fate[<int>FATE_DELIVERED]
    event.numbers[2] = n_by_fate[<int>FATE_HIDDEN]
    event.numbers[3] = n_by_fate[<int>FATE_LEFT_OUT] if id else n_by_fate[<int>FATE_WAITS]
    event.numbers[4] = n_by_fate[<int>FATE_CLOSING]


cdef void note_out(
    HubState* hub, const Channel* channel, const Connection* connection, const uint8_t* frame
) noexcept nogil:
    if frame != NULL:
        tap_out(&hub.tap, connection, frame, channel)


# One connection of a traced player.
cdef void note_traced(
    HubState* hub, const Channel* channel, const Connection* connection, const uint8_t* frame, const uint8_t* hidden,
    uint64_t id, const Connection* excepted, unsigned long long stamp
) noexcept nogil:
    cdef:
        const Subscription* subscription = subscription_to(&hub.routing, connection, channel)
        Fate fate
    if subscription == NULL or not subscription.is_joined:
        if channel.is_traced and id:
            note_missed(hub, channel, connection, NULL, id, FATE_NOT_JOINED)
        return
    fate = fate_of(connection, id, excepted, stamp)
    if fate == FATE_DELIVERED:
        note_out(hub, channel, connection, frame)
    elif fate == FATE_HIDDEN:
        note_out(hub, channel, connection, hidden)
    if fate != FATE_DELIVERED and fate != FATE_IS_SENDER and not (channel.is_traced and id):
        note_missed(hub, channel, connection, subscription, id, fate)


cdef void note_traced_player(
    HubState* hub, const Channel* channel, PyObject* name, const uint8_t* frame, const uint8_t* hidden, uint64_t id,
    const Connection* excepted, unsigned long long stamp
) noexcept nogil:
    cdef:
        Player* player = <Player*>find_named(&hub.routing.players, NAME_BYTES(name), NAME_SIZE(name))
        Session* session = player.sessions if player != NULL else NULL
        bint is_connected = False
    while session != NULL:
        if session.connection != NULL:
            is_connected = True
            note_traced(hub, channel, session.connection, frame, hidden, id, excepted, stamp)
        session = session.next
    if not is_connected and channel.is_traced and id:
        note_absent(hub, name, channel.named.name, id)


cdef void tap_fanned_out(
    HubState* hub, const Channel* channel, const uint8_t* frame, const uint8_t* hidden, uint64_t id,
    const Connection* excepted, unsigned long long stamp
) noexcept nogil:
    cdef int i
    for i in range(hub.tap.n_players):
        note_traced_player(hub, channel, hub.tap.players[i], frame, hidden, id, excepted, stamp)
    if channel.is_traced:
        note_members(hub, channel, id, excepted, stamp)


cdef void tap_event_to_all(
    HubState* hub, const Channel* channel, const uint8_t* frame, const Connection* excepted
) noexcept nogil:
    cdef:
        int i
        const Player* player
        const Session* session
        const Subscription* subscription
        PyObject* name
    for i in range(hub.tap.n_players):
        name = hub.tap.players[i]
        player = <Player*>find_named(&hub.routing.players, NAME_BYTES(name), NAME_SIZE(name))
        session = player.sessions if player != NULL else NULL
        while session != NULL:
            if session.connection != NULL and session.connection != excepted:
                subscription = subscription_to(&hub.routing, session.connection, channel)
                if subscription != NULL and subscription.is_joined and session.connection.state == STATE_READY:
                    tap_out(&hub.tap, session.connection, frame, channel)
            session = session.next
