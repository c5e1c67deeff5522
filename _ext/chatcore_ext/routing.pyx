"""Who is here and who hears what; see routing.pxd."""

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memset

from chatcore_ext.pointer_table cimport table_free, table_get, table_put, table_remove
from chatcore_ext.tables cimport HiddenSender, Hide, Member


cdef extern from "Python.h":
    ctypedef struct PyHash_FuncDef:
        Py_ssize_t (*hash)(const void* data, Py_ssize_t size) noexcept nogil
    PyHash_FuncDef* PyHash_GetFuncDef() noexcept nogil


# --- names ---

cdef unsigned long long hash_of(const uint8_t* name, size_t size) noexcept nogil:
    return <unsigned long long>PyHash_GetFuncDef().hash(name, <Py_ssize_t>size)


cdef Named* find_named(const PointerTable* table, const uint8_t* name, size_t size) noexcept nogil:
    cdef Named* named
    if table.n_entries == 0:
        return NULL
    named = <Named*>table_get(table, hash_of(name, size))
    while named != NULL:
        if NAME_SIZE(named.name) == size and memcmp(NAME_BYTES(named.name), name, size) == 0:
            return named
        named = named.same_hash
    return NULL


cdef Named* find_name(const PointerTable* table, bytes name) noexcept:
    return find_named(table, NAME_BYTES(<PyObject*>name), NAME_SIZE(<PyObject*>name))


cdef int add_name(PointerTable* table, Named* named, bytes name) except -1:
    named.hash = hash_of(NAME_BYTES(<PyObject*>name), NAME_SIZE(<PyObject*>name))
    named.same_hash = <Named*>table_get(table, named.hash)
    if table_put(table, named.hash, named) < 0:
        raise MemoryError
    Py_INCREF(name)
    named.name = <PyObject*>name
    return 0


cdef void remove_name(PointerTable* table, Named* named) noexcept:
    cdef Named* other = <Named*>table_get(table, named.hash)
    if other == named:
        if named.same_hash == NULL:
            table_remove(table, named.hash)
        else:
            table_put(table, named.hash, named.same_hash)  # replaces, so needs no memory
    else:
        while other.same_hash != named:
            other = other.same_hash
        other.same_hash = named.same_hash
    Py_DECREF(<object>named.name)


# --- players and sessions ---

cdef Player* get_player(Routing* routing, bytes name) except NULL:
    cdef Player* player = <Player*>find_name(&routing.players, name)
    if player != NULL:
        return player
    player = <Player*>calloc(1, sizeof(Player))
    if player == NULL:
        raise MemoryError
    try:
        add_name(&routing.players, &player.named, name)
    except MemoryError:
        free(player)
        raise
    return player


cdef void release_player(Routing* routing, Player* player) noexcept:
    if player.n_sessions:
        return
    while player.hides != NULL:
        free_hide(routing, player.hides)
    remove_name(&routing.players, &player.named)
    free(player)


cdef Session* session_new(Routing* routing, unsigned long long id, bytes player_name) except NULL:
    cdef:
        Player* player = get_player(routing, player_name)
        Session* session = <Session*>calloc(1, sizeof(Session))
        Session* last
    if session == NULL or table_put(&routing.sessions, id, session) < 0:
        free(session)
        release_player(routing, player)
        raise MemoryError
    session.id = id
    session.deadline.is_session = True
    session.player = player
    player.n_sessions += 1
    last = player.sessions
    if last == NULL:
        player.sessions = session
    else:
        while last.next != NULL:
            last = last.next
        last.next = session
        session.previous = last
    return session


cdef void session_free(Routing* routing, Session* session) noexcept:
    cdef Player* player = session.player
    if session.previous != NULL:
        session.previous.next = session.next
    else:
        player.sessions = session.next
    if session.next != NULL:
        session.next.previous = session.previous
    player.n_sessions -= 1
    table_remove(&routing.sessions, session.id)
    free(session)
    release_player(routing, player)


# --- channels ---

cdef int give_number(Routing* routing, Channel* channel) except -1:
    # Counting through all 32 bits, so a number comes again only after 2**32 other channels; a slot number with a few
    # bits of generation would come again much sooner.
    cdef unsigned int number = routing.last_number
    while True:
        number += 1
        if number and table_get(&routing.numbers, number) == NULL:
            break
    if table_put(&routing.numbers, number, channel) < 0:
        raise MemoryError
    routing.last_number = number
    channel.number = number
    return 0


cdef Channel* channel_get(Routing* routing, bytes name) except NULL:
    cdef Channel* channel = <Channel*>find_name(&routing.channels, name)
    if channel != NULL:
        return channel
    channel = <Channel*>calloc(1, sizeof(Channel))
    if channel == NULL:
        raise MemoryError
    try:
        give_number(routing, channel)
        add_name(&routing.channels, &channel.named, name)
    except MemoryError:
        if channel.number:
            table_remove(&routing.numbers, channel.number)
        free(channel)
        raise
    return channel


cdef bint channel_release(Routing* routing, Channel* channel) noexcept:
    if channel.n_members or channel.n_pending:
        return False
    table_remove(&routing.numbers, channel.number)
    remove_name(&routing.channels, &channel.named)
    free(channel.members)
    free(channel)
    return True


cdef Subscription* subscription_new(Routing* routing, Connection* connection, Channel* channel) except NULL:
    cdef:
        Subscription* subscription = <Subscription*>calloc(1, sizeof(Subscription))
        unsigned long long key = (<unsigned long long>connection.index << 32) | channel.number
    if subscription == NULL or table_put(&routing.subscriptions, key, subscription) < 0:
        free(subscription)
        raise MemoryError
    subscription.channel = channel
    subscription.connection = connection
    subscription.next = connection.subscriptions
    if subscription.next != NULL:
        subscription.next.previous = subscription
    connection.subscriptions = subscription
    connection.n_subscriptions += 1
    channel.n_pending += 1
    return subscription


cdef int subscription_join(Routing* routing, Subscription* subscription) except -1:
    cdef:
        Channel* channel = subscription.channel
        Member* members
        unsigned int capacity
    if subscription.is_joined:
        return 0
    if channel.n_members == channel.capacity:
        capacity = channel.capacity * 2 if channel.capacity else 2
        members = <Member*>realloc(channel.members, capacity * sizeof(Member))
        if members == NULL:
            raise MemoryError
        channel.members = members
        channel.capacity = capacity
    subscription.position = channel.n_members
    subscription.is_joined = True
    channel.members[channel.n_members] = Member(connection=subscription.connection, subscription=subscription)
    channel.n_members += 1
    channel.n_pending -= 1
    routing.n_joined += 1
    return 0


cdef void remove_member(Routing* routing, Subscription* subscription) noexcept:
    cdef:
        Channel* channel = subscription.channel
        Member* hole = &channel.members[subscription.position]
        Member* members
        unsigned int capacity = channel.capacity // 2
    channel.n_members -= 1
    routing.n_joined -= 1
    hole[0] = channel.members[channel.n_members]
    hole.subscription.position = subscription.position
    if capacity >= 64 and channel.n_members < capacity // 2:
        members = <Member*>realloc(channel.members, capacity * sizeof(Member))
        if members != NULL:
            channel.members = members
            channel.capacity = capacity


cdef bint subscription_free(Routing* routing, Subscription* subscription) noexcept:
    cdef:
        Channel* channel = subscription.channel
        Connection* connection = subscription.connection
    if subscription.is_joined:
        remove_member(routing, subscription)
    else:
        channel.n_pending -= 1
    if subscription.previous != NULL:
        subscription.previous.next = subscription.next
    else:
        connection.subscriptions = subscription.next
    if subscription.next != NULL:
        subscription.next.previous = subscription.previous
    connection.n_subscriptions -= 1
    table_remove(&routing.subscriptions, (<unsigned long long>connection.index << 32) | channel.number)
    free(subscription)
    return channel_release(routing, channel)


# --- hidden senders ---

cdef Hide* find_hide(Routing* routing, Player* player, bytes sender) noexcept:
    cdef:
        HiddenSender* hidden = <HiddenSender*>find_name(&routing.hidden_senders, sender)
        Hide* hide = player.hides
    if hidden == NULL:
        return NULL
    # Who is hidden by many is rare; who hides many is bounded by what a player will do by hand.
    while hide != NULL and hide.sender != hidden:
        hide = hide.next_of_player
    return hide


cdef HiddenSender* get_hidden_sender(Routing* routing, bytes name) except NULL:
    cdef HiddenSender* hidden = <HiddenSender*>find_name(&routing.hidden_senders, name)
    if hidden != NULL:
        return hidden
    hidden = <HiddenSender*>calloc(1, sizeof(HiddenSender))
    if hidden == NULL:
        raise MemoryError
    try:
        add_name(&routing.hidden_senders, &hidden.named, name)
    except MemoryError:
        free(hidden)
        raise
    return hidden


cdef void release_hidden_sender(Routing* routing, HiddenSender* hidden) noexcept:
    if hidden.hides == NULL:
        remove_name(&routing.hidden_senders, &hidden.named)
        free(hidden)


cdef int hide_add(Routing* routing, Player* player, bytes sender) except -1:
    cdef:
        Hide* hide
        HiddenSender* hidden
    if find_hide(routing, player, sender) != NULL:
        return 0
    hidden = get_hidden_sender(routing, sender)
    hide = <Hide*>calloc(1, sizeof(Hide))
    if hide == NULL:
        release_hidden_sender(routing, hidden)
        raise MemoryError
    hide.player = player
    hide.sender = hidden
    hide.next_of_player = player.hides
    if player.hides != NULL:
        player.hides.previous_of_player = hide
    player.hides = hide
    hide.next_of_sender = hidden.hides
    if hidden.hides != NULL:
        hidden.hides.previous_of_sender = hide
    hidden.hides = hide
    return 0


cdef void free_hide(Routing* routing, Hide* hide) noexcept:
    if hide.previous_of_player != NULL:
        hide.previous_of_player.next_of_player = hide.next_of_player
    else:
        hide.player.hides = hide.next_of_player
    if hide.next_of_player != NULL:
        hide.next_of_player.previous_of_player = hide.previous_of_player
    if hide.previous_of_sender != NULL:
        hide.previous_of_sender.next_of_sender = hide.next_of_sender
    else:
        hide.sender.hides = hide.next_of_sender
    if hide.next_of_sender != NULL:
        hide.next_of_sender.previous_of_sender = hide.previous_of_sender
    release_hidden_sender(routing, hide.sender)
    free(hide)


cdef void hide_remove(Routing* routing, Player* player, bytes sender) noexcept:
    cdef Hide* hide = find_hide(routing, player, sender)
    if hide != NULL:
        free_hide(routing, hide)


cdef unsigned long long stamp_hiders(Routing* routing, const uint8_t* name, size_t size) noexcept nogil:
    cdef:
        HiddenSender* hidden = <HiddenSender*>find_named(&routing.hidden_senders, name, size)
        Hide* hide
    if hidden == NULL:
        return 0
    routing.stamp += 1
    hide = hidden.hides
    while hide != NULL:
        hide.player.stamp = routing.stamp
        hide = hide.next_of_sender
    return routing.stamp


# --- the end ---

cdef void routing_free(Routing* routing) noexcept:
    cdef:
        PointerTable sessions = routing.sessions
        PointerTable subscriptions = routing.subscriptions
        size_t i
    # Frees by the same functions as ever, on a copy of the tables' contents: they shrink while we go.
    memset(&routing.sessions, 0, sizeof(PointerTable))
    memset(&routing.subscriptions, 0, sizeof(PointerTable))
    for i in range(subscriptions.capacity):
        if subscriptions.entries[i].value != NULL:
            subscription_free(routing, <Subscription*>subscriptions.entries[i].value)
    for i in range(sessions.capacity):
        if sessions.entries[i].value != NULL:
            session_free(routing, <Session*>sessions.entries[i].value)
    table_free(&sessions)
    table_free(&subscriptions)
    table_free(&routing.players)
    table_free(&routing.channels)
    table_free(&routing.hidden_senders)
    table_free(&routing.numbers)
