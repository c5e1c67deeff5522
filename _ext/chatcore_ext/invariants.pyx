"""Walks all tables of a hub and says where two of them disagree; see invariants.pxd."""

from chatcore_ext.addresses cimport Addresses
from chatcore_ext.backlog cimport backlog_size
from chatcore_ext.connection cimport CHUNK_SIZE, connection_at
from chatcore_ext.kept_signals cimport kept_signals_capacity
from chatcore_ext.pointer_table cimport PointerTable, table_get
from chatcore_ext.routing cimport find_named
from chatcore_ext.routing cimport NAME_BYTES, NAME_SIZE, subscription_of
from chatcore_ext.tables cimport (
    CONGESTION_SIGNALS, DIRTY_HELD, STATE_CLOSING, STATE_FREE, STATE_READY, Channel, Connection, Hide, Player, Session,
    Subscription,
)
from chatcore_ext.timing_wheel cimport timer_is_set


cdef int claim(bint holds, str what) except -1:
    if not holds:
        raise AssertionError(what)
    return 0


cdef int check_table(const PointerTable* table, str name) except -1:
    cdef size_t i, n_entries = 0
    for i in range(table.capacity):
        if table.entries[i].value != NULL:
            n_entries += 1
            claim(table_get(table, table.entries[i].key) == table.entries[i].value, f"{name}: an entry cannot be found")
    claim(n_entries == table.n_entries, f"{name}: {n_entries} entries, {table.n_entries} counted")
    return 0


cdef int check_connection(HubState* hub, Connection* connection) except -1:
    cdef:
        Subscription* subscription = connection.subscriptions
        unsigned int n_subscriptions = 0
    claim(connection.is_detached == (connection.state >= STATE_CLOSING) or connection.is_doomed, "detached by half")
    claim((connection.session != NULL) == (connection.state == STATE_READY) or connection.is_doomed, "ready by half")
    if connection.session != NULL:
        claim(connection.session.connection == connection, "a connection's session has another connection")
        claim(
            table_get(&hub.routing.sessions, connection.session.id) == connection.session,
            "a connection's session is not in the table",
        )
    while subscription != NULL:
        n_subscriptions += 1
        claim(subscription.connection == connection, "a subscription in the list of another connection")
        claim(
            subscription_of(&hub.routing, connection, subscription.channel.number) == subscription,
            "a subscription is not in the table",
        )
        subscription = subscription.next
    claim(n_subscriptions == connection.n_subscriptions, "a connection's subscriptions are miscounted")
    claim(n_subscriptions <= hub.most_channels, "too many channels of a connection")
    claim(connection.n_subscriptions == 0 or not connection.is_detached, "subscriptions of a detached connection")
    claim(connection.is_doomed or timer_is_set(&connection.deadline.timer), "a connection without a deadline")
    return 0


cdef int check_addresses(const Addresses* addresses, list n_connections) except -1:
    cdef unsigned int slot = addresses.oldest_idle
    cdef unsigned int n_idle = 0
    for i in range(<int>addresses.capacity):
        claim(n_connections[i] == 0 or addresses.slots[i].n_connections == n_connections[i], "an address's connections")
    while slot:
        n_idle += 1
        claim(addresses.slots[slot].n_connections == 0, "an address with connections is idle")
        claim(addresses.slots[slot].next != 0 or slot == addresses.newest_idle, "the list of idle addresses is torn")
        slot = addresses.slots[slot].next
    claim(n_idle == addresses.n_idle, "idle addresses are miscounted")
    return 0


cdef int check_connections(HubState* hub) except -1:
    cdef:
        Connection* connection
        unsigned int i, n_used = 0, n_open = 0, n_half_open = 0, n_subscriptions = 0
        size_t n_pending = 0, n_keeping = 0
        list by_address = [0] * hub.addresses.capacity
    for i in range(hub.connections.n_chunks * CHUNK_SIZE):
        connection = connection_at(&hub.connections, i)
        claim(connection.index == i, "a connection does not know its place")
        if connection.state == STATE_FREE:
            continue
        n_used += 1
        n_open += not connection.is_detached
        n_half_open += not connection.is_detached and connection.session == NULL
        if connection.address:
            by_address[connection.address] += 1
        n_subscriptions += connection.n_subscriptions
        n_pending += backlog_size(connection) + kept_signals_capacity(&hub.output, connection)
        n_keeping += (connection.congestion & CONGESTION_SIGNALS) != 0
        check_connection(hub, connection)
    claim(n_used == hub.connections.n_used, "used connections are miscounted")
    claim(n_open == hub.n_open, "open connections are miscounted")
    claim(n_half_open == hub.n_half_open, "half-open connections are miscounted")
    claim(n_keeping == hub.output.signals.n_entries, "a connection does not know of its signals")
    claim(n_pending == hub.output.total_pending, "unsent bytes are miscounted")
    check_addresses(&hub.addresses, by_address)
    claim(n_subscriptions == hub.routing.subscriptions.n_entries, "a subscription without a connection")
    return 0


cdef int check_sessions(HubState* hub) except -1:
    cdef:
        Player* player
        Session* session
        Session* previous
        unsigned int n_sessions
        size_t i, n_all = 0
    for i in range(hub.routing.players.capacity):
        player = <Player*>hub.routing.players.entries[i].value
        while player != NULL:
            n_sessions = 0
            previous = NULL
            session = player.sessions
            while session != NULL:
                n_sessions += 1
                claim(session.player == player, "a session in the list of another player")
                claim(session.previous == previous, "a player's list of sessions is torn")
                claim(
                    (session.connection == NULL) == timer_is_set(&session.deadline.timer),
                    "the grace runs if and only if a session is detached",
                )
                claim(session.connection == NULL or session.connection.session == session, "a session's connection")
                previous = session
                session = session.next
            claim(n_sessions == player.n_sessions and n_sessions > 0, "a player's sessions are miscounted")
            n_all += n_sessions
            check_hides(player)
            player = <Player*>player.named.same_hash
    claim(n_all == hub.routing.sessions.n_entries, "a session without a player")
    return 0


cdef int check_hides(Player* player) except -1:
    cdef:
        Hide* hide = player.hides
        Hide* other
    while hide != NULL:
        claim(hide.player == player, "a hide in the list of another player")
        other = hide.sender.hides
        while other != NULL and other != hide:
            other = other.next_of_sender
        claim(other == hide, "a hide that its sender does not know")
        hide = hide.next_of_player
    return 0


cdef int check_channel(HubState* hub, Channel* channel) except -1:
    cdef:
        Subscription* subscription
        unsigned int i
    claim(channel.n_members + channel.n_pending > 0, "an empty channel")
    claim(table_get(&hub.routing.numbers, channel.number) == channel, "a channel's number is another's")
    claim(
        <Channel*>find_named(&hub.routing.channels, NAME_BYTES(channel.named.name), NAME_SIZE(channel.named.name))
        == channel, "a channel cannot be found by its name",
    )
    for i in range(channel.n_members):
        subscription = channel.members[i].subscription
        claim(subscription.channel == channel, "a member of another channel")
        claim(subscription.connection == channel.members[i].connection, "a member's connection")
        claim(subscription.position == i and subscription.is_joined, "a member's position")
    return 0


cdef int check_channels(HubState* hub) except -1:
    cdef:
        Channel* channel
        size_t i, n_channels = 0, n_members = 0, n_pending = 0
    for i in range(hub.routing.channels.capacity):
        channel = <Channel*>hub.routing.channels.entries[i].value
        while channel != NULL:
            n_channels += 1
            n_members += channel.n_members
            n_pending += channel.n_pending
            check_channel(hub, channel)
            channel = <Channel*>channel.named.same_hash
    claim(n_channels == hub.routing.numbers.n_entries, "a number without a channel")
    claim(n_members == hub.routing.n_joined, "joined subscriptions are miscounted")
    claim(n_members + n_pending == hub.routing.subscriptions.n_entries, "a subscription without a channel")
    return 0


cdef int check_output(HubState* hub) except -1:
    cdef Connection* connection = hub.output.dirty
    while connection != NULL:
        claim(connection.state != STATE_FREE and connection.is_dirty != DIRTY_HELD, "a dirty one is gone or held")
        claim(connection.is_dirty != 0, "a dirty connection does not know it")
        connection = connection.next_dirty
    connection = hub.output.window.held
    while connection != NULL:
        claim(connection.state != STATE_FREE and connection.is_dirty >= DIRTY_HELD, "a held connection is gone or free")
        connection = connection.next_dirty
    return 0


cdef int check_hub(HubState* hub) except -1:
    check_output(hub)
    check_table(&hub.routing.players, "players")
    check_table(&hub.routing.channels, "channels")
    check_table(&hub.routing.hidden_senders, "hidden senders")
    check_table(&hub.routing.numbers, "numbers")
    check_table(&hub.output.signals, "kept signals")
    check_table(&hub.routing.sessions, "sessions")
    check_table(&hub.addresses.places, "addresses")
    check_table(&hub.routing.subscriptions, "subscriptions")
    check_connections(hub)
    check_sessions(hub)
    check_channels(hub)
    return 0
