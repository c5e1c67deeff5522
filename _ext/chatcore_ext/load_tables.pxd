"""Was every message of a load delivered to everybody in its channel, exactly once and in order? The tables behind it.

One process's share of a load: channels, clients, who is in what (*memberships*), and every message that was planned.
Messages are numbered as they come due; a message's body says which it is:

    u64 run, u32 client, u32 message, filling

so a delivery is looked up in O(1), and one bit per (membership, message of its channel) tells the first from the
second. That is exact, and costs as many bits as there are deliveries.

A membership follows its channel as docs/protocol.md ("Receiving") tells a client to, with one difference: a hole that
no GAP and no reconnect explains is the server's mistake and stays one. Nothing here knows a socket or a clock.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from chatcore_ext.constants cimport MAX_NAME_SIZE
from chatcore_ext.frame cimport DeliverFields
from chatcore_ext.log_scale_histogram cimport LogScaleHistogram

cdef enum:
    LOAD_BODY_SIZE = 16        # bytes: u64 run, u32 client, u32 message
    NO_INDEX = 0xFFFFFFFF

cdef enum MessageState:
    MESSAGE_WAITING = 0        # due, and not sent so far
    MESSAGE_SENT = 1           # and not answered
    MESSAGE_DELAYED = 2        # refused; to be sent again under the same seq
    MESSAGE_ACKED = 3
    MESSAGE_REFUSED = 4        # is not in the log
    MESSAGE_UNKNOWN = 5        # may be in the log; nobody will tell

cdef struct LoadMessage:
    uint64_t due_ns
    uint64_t id                # as first told, 0 = not so far
    uint64_t seq               # 0 = not sent so far
    uint32_t membership        # its sender's in the channel
    uint32_t ordinal           # in its channel
    uint32_t next              # of the same sender
    uint32_t n_delivered       # receivers that have it
    uint8_t state
    bint was_resent            # a refusal says nothing of its first copy
    bint was_delayed           # its copies need not keep the sender's order
    bint is_expected           # everybody in the channel must get it

cdef struct LoadChannel:
    uint32_t n_members
    uint32_t n_messages
    # The last hash that was computed, and from what: all members but the first find it here.
    uint64_t cached_prior
    uint64_t cached_id
    uint64_t cached_result
    uint8_t* cached            # sender and body
    uint32_t cached_len
    uint32_t cached_capacity
    uint8_t cached_sender_len

cdef struct LoadMembership:
    uint32_t channel
    uint32_t client
    uint32_t number            # of the channel on the client's connection, 0 = none
    bint is_anchored           # last_id means something
    bint is_healing            # a sync is under way: deliveries are held
    uint64_t last_id           # everything up to here is dealt with
    uint64_t live_id           # highest that came as DELIVER on this connection, or its head on entering
    uint64_t hash              # of last_id, 0 = not known
    uint64_t other_hash        # where the told hash was wrong: the computed one. 0 = it was right
    uint64_t goal              # the sync goes on until last_id is there
    uint64_t* seen             # bit per ordinal
    uint32_t n_words
    uint32_t held_len
    uint32_t held_capacity
    uint8_t* held              # DELIVER bodies, each after its length (u32)

cdef struct LoadClient:
    uint32_t first_membership
    uint32_t n_memberships
    uint8_t name_len
    uint8_t[MAX_NAME_SIZE] name

cdef struct LoadCounts:
    uint64_t planned
    uint64_t sent              # messages
    uint64_t resent            # copies
    uint64_t acked
    uint64_t refused
    uint64_t unknown
    uint64_t expected          # deliveries
    uint64_t delivered         # each once
    uint64_t healed            # of them, by a sync
    uint64_t duplicated
    uint64_t out_of_order
    uint64_t hash_mismatches
    uint64_t prev_mismatches
    uint64_t id_mismatches
    uint64_t misdelivered
    uint64_t foreign
    uint64_t unverified        # came without a hash
    uint64_t gaps
    LogScaleHistogram ack_ns
    LogScaleHistogram deliver_ns

cdef struct LoadTables:
    uint64_t run
    LoadMessage* messages
    uint32_t n_messages
    uint32_t messages_capacity
    LoadChannel* channels
    uint32_t n_channels
    uint32_t channels_capacity
    LoadMembership* memberships
    uint32_t n_memberships
    uint32_t memberships_capacity
    LoadClient* clients
    uint32_t n_clients
    uint32_t clients_capacity
    LoadCounts counts

cdef enum:
    CHECK_OK = 0
    CHECK_HEAL = 1             # the membership needs a sync
    CHECK_STRANGE = 2          # of no channel that the connection is in
    CHECK_NO_MEMORY = -1

cdef enum:
    CLAIM_FIRST = 1            # this receiver gets it for the first time
    CLAIM_SEEN = 2
    CLAIM_NONE = 3             # not a message of this run

# A new message of the membership's client; NO_INDEX without memory.
cdef uint32_t plan_message(LoadTables* tables, uint32_t membership, uint64_t due_ns) noexcept nogil
# `body` has room for `size` bytes, at least LOAD_BODY_SIZE.
cdef void write_load_body(LoadTables* tables, uint32_t message, uint8_t* body, uint32_t size) noexcept nogil
cdef void message_acked(LoadTables* tables, uint32_t message, uint64_t id, uint64_t now_ns) noexcept nogil
cdef void message_refused(LoadTables* tables, uint32_t message) noexcept nogil
cdef void message_unknown(LoadTables* tables, uint32_t message) noexcept nogil
# The client's membership with this number on its connection, or NULL.
cdef LoadMembership* membership_of(LoadTables* tables, uint32_t client, uint32_t number) noexcept nogil
# A DELIVER frame's body has come for a client. Sets `slot` to the place of its membership among the client's.
cdef int check_delivery(
    LoadTables* tables, uint32_t client, const uint8_t* body, uint32_t body_len, uint64_t now_ns, uint32_t* slot
) noexcept nogil
# GAP: the server left out what lies in (first, last]. As check_delivery.
cdef int check_gap(
    LoadTables* tables, uint32_t client, uint32_t number, uint64_t first, uint64_t last, uint32_t* slot
) noexcept nogil
# The client is in the channel on a new connection; `head` is its newest entry. CHECK_HEAL: sync after last_id.
cdef int enter_channel(LoadTables* tables, LoadMembership* membership, uint64_t head, uint64_t hash) noexcept nogil
# The next entry of the channel, live or from history. What it is to this receiver: CLAIM_*, or CHECK_NO_MEMORY.
cdef int take_next(
    LoadTables* tables, LoadMembership* membership, const DeliverFields* entry, uint64_t now_ns
) noexcept nogil
# A sync has brought all that there is: go on with what was held. CHECK_HEAL: it does not follow, and stays held for
# another sync; never if not `patient`.
cdef int release(LoadTables* tables, LoadMembership* membership, bint patient, uint64_t now_ns) noexcept nogil
# Room for one more in a table; it is all zero. -1: no memory.
cdef int make_room(void** table, uint32_t n, uint32_t* capacity, size_t size) noexcept nogil
