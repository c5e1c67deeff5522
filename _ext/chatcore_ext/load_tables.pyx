"""The check of a load's deliveries, in C; load_tables.pxd says what is checked and why it is exact.

Never decides what to send, and never asks for a sync itself: it says that one is needed.
"""

from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from chatcore_ext.chain_hash cimport chain_next
from chatcore_ext.constants cimport DELIVER_HIDDEN, HASH_UNKNOWN, no_id, unknown_id
from chatcore_ext.frame cimport load_u32, load_u64, read_deliver, store_bytes, store_u32, store_u64
from chatcore_ext.log_scale_histogram cimport histogram_add

cdef enum:
    MIN_WORDS = 4              # of a membership's bitmap: 256 messages
    MIN_HELD = 4096            # bytes


# ---- Tables ----------------------------------------------------------------------------------------------------------

cdef int make_room(void** table, uint32_t n, uint32_t* capacity, size_t size) noexcept nogil:
    """Room for one more; it is all zero. -1: no memory."""
    cdef uint32_t larger
    cdef void* grown
    if n == capacity[0]:
        larger = capacity[0] * 2 if capacity[0] else 64
        grown = realloc(table[0], larger * size)
        if grown == NULL:
            return -1
        table[0] = grown
        capacity[0] = larger
    memset(<uint8_t*>table[0] + n * size, 0, size)
    return 0


cdef uint32_t plan_message(LoadTables* tables, uint32_t membership, uint64_t due_ns) noexcept nogil:
    cdef:
        LoadMessage* message
        LoadChannel* channel = &tables.channels[tables.memberships[membership].channel]
        uint32_t index = tables.n_messages
    if make_room(<void**>&tables.messages, index, &tables.messages_capacity, sizeof(LoadMessage)) < 0:
        return NO_INDEX
    message = &tables.messages[index]
    message.due_ns = due_ns
    message.membership = membership
    message.ordinal = channel.n_messages
    message.next = NO_INDEX
    channel.n_messages += 1
    tables.n_messages += 1
    tables.counts.planned += 1
    return index


cdef void write_load_body(LoadTables* tables, uint32_t message, uint8_t* body, uint32_t size) noexcept nogil:
    cdef uint8_t* at = store_u64(body, tables.run)
    at = store_u32(at, tables.memberships[tables.messages[message].membership].client)
    store_u32(at, message)
    memset(body + LOAD_BODY_SIZE, c"x", size - LOAD_BODY_SIZE)


cdef inline bint is_open(const LoadMessage* message) noexcept nogil:
    return message.state <= MESSAGE_DELAYED


cdef void expect(LoadTables* tables, LoadMessage* message) noexcept nogil:
    """It is in the log: everybody in its channel must get it."""
    if not message.is_expected:
        message.is_expected = True
        tables.counts.expected += tables.channels[tables.memberships[message.membership].channel].n_members


cdef bint note_id(LoadTables* tables, LoadMessage* message, uint64_t id) noexcept nogil:
    """False: it was told under another id before."""
    if id == no_id() or message.id == id:
        return True
    if message.id == no_id():
        message.id = id
        return True
    return False


cdef void message_acked(LoadTables* tables, uint32_t index, uint64_t id, uint64_t now_ns) noexcept nogil:
    cdef LoadMessage* message = &tables.messages[index]
    if not is_open(message):
        return
    message.state = MESSAGE_ACKED
    tables.counts.acked += 1
    tables.counts.id_mismatches += not note_id(tables, message, id)
    expect(tables, message)
    histogram_add(&tables.counts.ack_ns, now_ns - message.due_ns)


cdef void message_refused(LoadTables* tables, uint32_t index) noexcept nogil:
    if is_open(&tables.messages[index]):
        tables.messages[index].state = MESSAGE_REFUSED
        tables.counts.refused += 1


cdef void message_unknown(LoadTables* tables, uint32_t index) noexcept nogil:
    if is_open(&tables.messages[index]):
        tables.messages[index].state = MESSAGE_UNKNOWN
        tables.counts.unknown += 1


# ---- One entry -------------------------------------------------------------------------------------------------------

cdef int mark_seen(LoadMembership* membership, uint32_t ordinal) noexcept nogil:
    """CLAIM_FIRST, CLAIM_SEEN, or CHECK_NO_MEMORY."""
    cdef:
        uint32_t word = ordinal >> 6
        uint64_t bit = <uint64_t>1 << (ordinal & 63)
        uint32_t larger = membership.n_words if membership.n_words else MIN_WORDS
        uint64_t* grown
    if word >= membership.n_words:
        while larger <= word:
            larger *= 2
        grown = <uint64_t*>realloc(membership.seen, larger * sizeof(uint64_t))
        if grown == NULL:
            return CHECK_NO_MEMORY
        memset(grown + membership.n_words, 0, (larger - membership.n_words) * sizeof(uint64_t))
        membership.seen = grown
        membership.n_words = larger
    if membership.seen[word] & bit:
        return CLAIM_SEEN
    membership.seen[word] |= bit
    return CLAIM_FIRST


cdef LoadMessage* message_in(LoadTables* tables, LoadMembership* membership, const DeliverFields* entry) noexcept nogil:
    """The message that the entry says it is, if its sender and channel are the message's. Otherwise NULL, counted."""
    cdef:
        uint32_t index
        LoadMembership* sender
        LoadClient* client
    if entry.body_len < LOAD_BODY_SIZE or load_u64(entry.body) != tables.run:
        tables.counts.foreign += 1
        return NULL
    index = load_u32(entry.body + 12)
    if index < tables.n_messages:
        sender = &tables.memberships[tables.messages[index].membership]
        client = &tables.clients[sender.client]
        if (
            sender.channel == membership.channel
            and sender.client == load_u32(entry.body + 8)
            and client.name_len == entry.sender_len
            and memcmp(client.name, entry.sender, client.name_len) == 0
        ):
            return &tables.messages[index]
    tables.counts.misdelivered += 1
    return NULL


cdef int claim(
    LoadTables* tables, LoadMembership* membership, const DeliverFields* entry, uint64_t now_ns
) noexcept nogil:
    cdef:
        LoadMessage* message = message_in(tables, membership, entry)
        bint is_same
        int result
    if message == NULL:
        return CLAIM_NONE
    is_same = note_id(tables, message, entry.id)
    result = mark_seen(membership, message.ordinal)
    if result == CLAIM_FIRST:
        tables.counts.id_mismatches += not is_same
        tables.counts.delivered += 1
        message.n_delivered += 1
        expect(tables, message)
        histogram_add(&tables.counts.deliver_ns, now_ns - message.due_ns)
    return result


cdef void cache_chain(LoadChannel* channel, uint64_t prior, const DeliverFields* entry, uint64_t result) noexcept nogil:
    cdef uint32_t size = entry.sender_len + entry.body_len
    cdef uint8_t* grown
    if size > channel.cached_capacity:
        grown = <uint8_t*>realloc(channel.cached, size)
        if grown == NULL:
            return
        channel.cached = grown
        channel.cached_capacity = size
    channel.cached_prior, channel.cached_id, channel.cached_result = prior, entry.id, result
    channel.cached_sender_len, channel.cached_len = entry.sender_len, size
    memcpy(channel.cached, entry.sender, size)


cdef uint64_t chain_after(LoadChannel* channel, uint64_t prior, const DeliverFields* entry) noexcept nogil:
    """The channel's hash after the entry. Only what came in one piece is cached: entries of a sync did not."""
    cdef bint in_one_piece = entry.body == entry.sender + entry.sender_len
    cdef uint64_t result
    if (
        in_one_piece
        and channel.cached_id == entry.id
        and channel.cached_prior == prior
        and channel.cached_sender_len == entry.sender_len
        and channel.cached_len == entry.sender_len + entry.body_len
        and memcmp(channel.cached, entry.sender, channel.cached_len) == 0
    ):
        return channel.cached_result
    result = chain_next(prior, entry.id, entry.sender, entry.sender_len, entry.body, entry.body_len)
    if in_one_piece:
        cache_chain(channel, prior, entry, result)
    return result


cdef void check_hash(LoadTables* tables, LoadMembership* membership, const DeliverFields* entry) noexcept nogil:
    cdef:
        LoadChannel* channel = &tables.channels[membership.channel]
        uint64_t other = membership.other_hash
        uint64_t computed
        bint starts = entry.prev == no_id()
    membership.other_hash = 0
    if entry.flags & DELIVER_HIDDEN or (membership.hash == HASH_UNKNOWN and not starts):
        tables.counts.unverified += 1
        membership.hash = entry.hash     # nothing to compute it from
        return
    computed = chain_after(channel, 0 if starts else membership.hash, entry)
    if entry.hash == HASH_UNKNOWN:
        tables.counts.unverified += 1
        membership.hash = computed
        return
    membership.hash = entry.hash
    if entry.hash == computed or (other and not starts and chain_after(channel, other, entry) == entry.hash):
        return
    # Either the body or the hash was changed on its way: the next one may go on from either, so that one wrong message
    # counts once.
    tables.counts.hash_mismatches += 1
    membership.other_hash = computed


cdef void follow(LoadTables* tables, LoadMembership* membership, const DeliverFields* entry) noexcept nogil:
    """The next entry of the channel: is it the next, and is its hash right?"""
    if membership.is_anchored and entry.prev not in (membership.last_id, no_id()):
        tables.counts.prev_mismatches += 1
        membership.hash = HASH_UNKNOWN
        membership.other_hash = 0
    check_hash(tables, membership, entry)
    membership.last_id = entry.id
    membership.is_anchored = True


cdef int take_next(
    LoadTables* tables, LoadMembership* membership, const DeliverFields* entry, uint64_t now_ns
) noexcept nogil:
    cdef int claimed
    follow(tables, membership, entry)
    if entry.flags & DELIVER_HIDDEN:
        return CLAIM_NONE
    claimed = claim(tables, membership, entry, now_ns)
    if claimed == CLAIM_SEEN:
        tables.counts.duplicated += 1    # the same message under a second id
    return claimed


cdef int take_back(
    LoadTables* tables, LoadMembership* membership, const DeliverFields* entry, uint64_t now_ns
) noexcept nogil:
    """The connection's ids went backwards: the entry came a second time, or too late."""
    cdef int claimed = claim(tables, membership, entry, now_ns)
    if claimed == CLAIM_SEEN:
        tables.counts.duplicated += 1
    elif claimed == CLAIM_FIRST:
        tables.counts.out_of_order += 1
    return claimed


cdef int take_live(
    LoadTables* tables, LoadMembership* membership, const DeliverFields* entry, uint64_t now_ns
) noexcept nogil:
    if entry.id <= membership.live_id:
        return take_back(tables, membership, entry, now_ns)
    membership.live_id = entry.id
    if membership.is_anchored and entry.id <= membership.last_id:
        return CLAIM_SEEN    # a sync was faster
    return take_next(tables, membership, entry, now_ns)


# ---- Holding back while a sync is under way --------------------------------------------------------------------------

cdef int hold(LoadMembership* membership, const uint8_t* body, uint32_t body_len) noexcept nogil:
    cdef:
        uint32_t needed = membership.held_len + 4 + body_len
        uint32_t larger = membership.held_capacity if membership.held_capacity else MIN_HELD
        uint8_t* at
    if needed > membership.held_capacity:
        while larger < needed:
            larger *= 2
        at = <uint8_t*>realloc(membership.held, larger)
        if at == NULL:
            return CHECK_NO_MEMORY
        membership.held = at
        membership.held_capacity = larger
    at = store_u32(membership.held + membership.held_len, body_len)
    store_bytes(at, body, body_len)
    membership.held_len = needed
    return CHECK_OK


cdef void drop_held(LoadMembership* membership) noexcept nogil:
    free(membership.held)
    membership.held = NULL
    membership.held_len = membership.held_capacity = 0


cdef int begin_healing(LoadMembership* membership, uint64_t goal) noexcept nogil:
    membership.goal = max(membership.goal, goal)
    if membership.is_healing:
        return CHECK_OK
    membership.is_healing = True
    return CHECK_HEAL


cdef int release(LoadTables* tables, LoadMembership* membership, bint patient, uint64_t now_ns) noexcept nogil:
    """Go on with what was held. CHECK_HEAL: it does not follow; it stays held, for another sync."""
    cdef:
        uint8_t* at = membership.held
        uint8_t* end = at + membership.held_len
        DeliverFields entry
        uint32_t size
    while at < end:
        size = load_u32(at)
        read_deliver(at + 4, size, &entry)
        if patient and entry.id > membership.last_id and entry.prev not in (membership.last_id, no_id()):
            membership.held_len = <uint32_t>(end - at)
            for size in range(membership.held_len):
                membership.held[size] = at[size]
            membership.goal = entry.id
            return CHECK_HEAL
        if take_live(tables, membership, &entry, now_ns) == CHECK_NO_MEMORY:
            return CHECK_NO_MEMORY
        at += 4 + size
    drop_held(membership)
    membership.is_healing = False
    if not patient:
        membership.goal = no_id()    # nobody has it
    return CHECK_OK


# ---- What a connection brings ----------------------------------------------------------------------------------------

cdef LoadMembership* membership_of(LoadTables* tables, uint32_t client, uint32_t number) noexcept nogil:
    cdef:
        LoadMembership* membership = &tables.memberships[tables.clients[client].first_membership]
        LoadMembership* end = membership + tables.clients[client].n_memberships
    while membership < end:
        if membership.number == number and number:
            return membership
        membership += 1
    return NULL


cdef inline void set_slot(LoadTables* tables, LoadMembership* membership, uint32_t* slot) noexcept nogil:
    cdef uint32_t index = <uint32_t>(membership - tables.memberships)
    slot[0] = index - tables.clients[membership.client].first_membership


cdef int check_delivery(
    LoadTables* tables, uint32_t client, const uint8_t* body, uint32_t body_len, uint64_t now_ns, uint32_t* slot
) noexcept nogil:
    cdef:
        DeliverFields entry
        LoadMembership* membership
    if read_deliver(body, body_len, &entry):
        return CHECK_STRANGE
    membership = membership_of(tables, client, entry.channel)
    if membership == NULL:
        tables.counts.misdelivered += 1
        return CHECK_STRANGE
    set_slot(tables, membership, slot)
    if membership.is_healing or (membership.is_anchored and entry.prev == unknown_id()):
        if hold(membership, body, body_len) < 0:
            return CHECK_NO_MEMORY
        return begin_healing(membership, entry.id)
    return CHECK_NO_MEMORY if take_live(tables, membership, &entry, now_ns) == CHECK_NO_MEMORY else CHECK_OK


cdef int check_gap(
    LoadTables* tables, uint32_t client, uint32_t number, uint64_t first, uint64_t last, uint32_t* slot
) noexcept nogil:
    cdef LoadMembership* membership = membership_of(tables, client, number)
    if membership == NULL:
        return CHECK_STRANGE
    tables.counts.gaps += 1
    set_slot(tables, membership, slot)
    if not membership.is_anchored:
        membership.is_anchored = True
        membership.last_id = first
    return begin_healing(membership, last) if last > membership.last_id else CHECK_OK


cdef void anchor(LoadMembership* membership, uint64_t head, uint64_t hash) noexcept nogil:
    membership.is_anchored = head != unknown_id()
    membership.last_id = head if membership.is_anchored else no_id()
    membership.hash = hash if membership.is_anchored else HASH_UNKNOWN
    membership.other_hash = 0


cdef int enter_channel(LoadTables* tables, LoadMembership* membership, uint64_t head, uint64_t hash) noexcept nogil:
    """In the channel, whose newest entry is `head`."""
    membership.live_id = 0 if head == unknown_id() else head
    membership.goal = 0
    membership.is_healing = False
    drop_held(membership)
    if not membership.is_anchored:
        anchor(membership, head, hash)
        return CHECK_OK
    if head == unknown_id() or head > membership.last_id:
        return begin_healing(membership, 0 if head == unknown_id() else head)
    if head == membership.last_id:
        if hash and membership.hash and hash not in (membership.hash, membership.other_hash):
            tables.counts.hash_mismatches += 1
    elif head != no_id():
        # The log has lost what was delivered: its ids will be given again.
        tables.counts.prev_mismatches += 1
        anchor(membership, head, hash)
    return CHECK_OK
