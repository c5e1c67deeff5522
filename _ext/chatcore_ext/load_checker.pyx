"""Python's door to the check of a load's deliveries; load_tables.pxd says what is checked.

Knows no sockets: load_clients.pyx adds them.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from chatcore_ext.constants cimport MAX_NAME_SIZE, no_id
from chatcore_ext.frame cimport DeliverFields, read_deliver
from chatcore_ext.load_tables cimport (
    CHECK_HEAL, CHECK_NO_MEMORY, CLAIM_FIRST, LOAD_BODY_SIZE, MESSAGE_REFUSED, NO_INDEX, LoadChannel, LoadClient,
    LoadCounts, LoadMessage, check_delivery, check_gap, enter_channel, make_room, message_acked, message_refused,
    message_unknown, plan_message, release, take_next, write_load_body,
)
from chatcore_ext.log_scale_histogram cimport histogram_as_dict

MIN_BODY_SIZE = <int>LOAD_BODY_SIZE


cdef class LoadChecker:

    def __init__(self, uint64_t run):
        self.tables.run = run

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.tables.n_memberships):
            free(self.tables.memberships[i].seen)
            free(self.tables.memberships[i].held)
        for i in range(self.tables.n_channels):
            free(self.tables.channels[i].cached)
        free(self.tables.messages)
        free(self.tables.channels)
        free(self.tables.memberships)
        free(self.tables.clients)

    @property
    def n_clients(self) -> int:
        return self.tables.n_clients

    cdef LoadMembership* membership_at(self, uint32_t client, uint32_t slot) except NULL:
        if client >= self.tables.n_clients or slot >= self.tables.clients[client].n_memberships:
            raise IndexError(f"there is no slot {slot} of a client {client}")
        return &self.tables.memberships[self.tables.clients[client].first_membership + slot]

    cdef int check_message(self, uint32_t message) except -1:
        if message >= self.tables.n_messages:
            raise IndexError(f"there is no message {message}")
        return 0

    def add_channel(self):
        cdef LoadTables* tables = &self.tables
        if make_room(
            <void**>&tables.channels, tables.n_channels, &tables.channels_capacity, sizeof(LoadChannel)
        ) < 0:
            raise MemoryError
        tables.n_channels += 1
        return tables.n_channels - 1

    def add_client(self, bytes name not None, list channels not None):
        cdef:
            LoadTables* tables = &self.tables
            LoadClient* client
            uint32_t channel
        if not 0 < len(name) <= MAX_NAME_SIZE:
            raise ValueError(f"{name} is no player's name")
        if make_room(<void**>&tables.clients, tables.n_clients, &tables.clients_capacity, sizeof(LoadClient)) < 0:
            raise MemoryError
        client = &tables.clients[tables.n_clients]
        client.first_membership = tables.n_memberships
        client.name_len = <uint8_t>len(name)
        memcpy(client.name, PyBytes_AS_STRING(name), len(name))
        for channel in channels:
            self.add_membership(tables.n_clients, channel)
            client.n_memberships += 1
        tables.n_clients += 1
        return tables.n_clients - 1

    cdef int add_membership(self, uint32_t client, uint32_t channel) except -1:
        cdef LoadTables* tables = &self.tables
        if channel >= tables.n_channels:
            raise IndexError(f"there is no channel {channel}")
        if make_room(
            <void**>&tables.memberships, tables.n_memberships, &tables.memberships_capacity, sizeof(LoadMembership)
        ) < 0:
            raise MemoryError
        tables.memberships[tables.n_memberships].channel = channel
        tables.memberships[tables.n_memberships].client = client
        tables.n_memberships += 1
        tables.channels[channel].n_members += 1
        return 0

    def plan(self, uint32_t client, uint32_t slot, uint64_t due_ns):
        cdef LoadMembership* membership = self.membership_at(client, slot)
        cdef uint32_t message = plan_message(&self.tables, <uint32_t>(membership - self.tables.memberships), due_ns)
        if message == NO_INDEX:
            raise MemoryError
        return message

    def body_of(self, uint32_t message, uint32_t size):
        cdef bytes body
        self.check_message(message)
        if size < LOAD_BODY_SIZE:
            raise ValueError(f"a body has at least {LOAD_BODY_SIZE} bytes")
        body = PyBytes_FromStringAndSize(NULL, size)
        write_load_body(&self.tables, message, <uint8_t*>PyBytes_AS_STRING(body), size)
        return body

    def acknowledge(self, uint32_t message, uint64_t id, uint64_t now_ns):
        self.check_message(message)
        message_acked(&self.tables, message, id, now_ns)

    def refuse(self, uint32_t message):
        self.check_message(message)
        message_refused(&self.tables, message)

    def give_up(self, uint32_t message):
        self.check_message(message)
        message_unknown(&self.tables, message)

    def enter(self, uint32_t client, uint32_t slot, uint32_t number, uint64_t head, uint64_t hash):
        cdef LoadMembership* membership = self.membership_at(client, slot)
        membership.number = number
        return enter_channel(&self.tables, membership, head, hash) == CHECK_HEAL

    def left(self, uint32_t client):
        cdef uint32_t slot
        if client >= self.tables.n_clients:
            raise IndexError(f"there is no client {client}")
        for slot in range(self.tables.clients[client].n_memberships):
            self.membership_at(client, slot).number = 0

    def is_joined(self, uint32_t client, uint32_t slot):
        return self.membership_at(client, slot).number != 0

    def is_healing(self, uint32_t client, uint32_t slot):
        return bool(self.membership_at(client, slot).is_healing)

    def deliver(self, uint32_t client, bytes body not None, uint64_t now_ns):
        cdef uint32_t slot = 0
        cdef DeliverFields fields
        self.membership_at(client, 0)
        if read_deliver(body, <uint32_t>len(body), &fields):
            raise ValueError("DELIVER is too short")
        return self.outcome(check_delivery(&self.tables, client, body, <uint32_t>len(body), now_ns, &slot), slot)

    def gap(self, uint32_t client, uint32_t number, uint64_t first, uint64_t last):
        cdef uint32_t slot = 0
        self.membership_at(client, 0)
        return self.outcome(check_gap(&self.tables, client, number, first, last, &slot), slot)

    cdef int outcome(self, int result, uint32_t slot) except -2:
        if result == CHECK_NO_MEMORY:
            raise MemoryError
        return <int>slot if result == CHECK_HEAL else -1

    def last_id(self, uint32_t client, uint32_t slot):
        return self.membership_at(client, slot).last_id

    def take_history(
        self, uint32_t client, uint32_t slot, uint64_t id, uint64_t prev, uint64_t hash, int flags,
        bytes sender not None, bytes body not None, uint64_t now_ns,
    ):
        cdef LoadMembership* membership = self.membership_at(client, slot)
        cdef DeliverFields entry
        cdef int claimed
        if membership.is_anchored and id <= membership.last_id:
            return
        if len(sender) > 255:
            raise ValueError("a sender's name has at most 255 bytes")
        entry.channel, entry.flags, entry.id, entry.prev, entry.hash = membership.number, flags, id, prev, hash
        entry.sender, entry.sender_len = sender, <uint8_t>len(sender)
        entry.body, entry.body_len = body, <uint32_t>len(body)
        claimed = take_next(&self.tables, membership, &entry, now_ns)
        if claimed == CHECK_NO_MEMORY:
            raise MemoryError
        self.tables.counts.healed += claimed == CLAIM_FIRST

    def synced(self, uint32_t client, uint32_t slot, bint more, bint patient, uint64_t now_ns):
        cdef LoadMembership* membership = self.membership_at(client, slot)
        cdef int result
        if not membership.is_healing:
            return False
        if more:
            return True
        result = release(&self.tables, membership, patient, now_ns)
        if result == CHECK_NO_MEMORY:
            raise MemoryError
        if patient and membership.last_id < membership.goal:
            membership.is_healing = True
            return True
        return result == CHECK_HEAL

    def progress(self):
        cdef LoadCounts* counts = &self.tables.counts
        return counts.planned, counts.acked + counts.refused + counts.unknown, counts.expected, counts.delivered

    def counts(self):
        cdef LoadCounts* counts = &self.tables.counts
        return {
            "planned": counts.planned,
            "sent": counts.sent,
            "resent": counts.resent,
            "acked": counts.acked,
            "refused": counts.refused,
            "unknown": counts.unknown,
            "expected": counts.expected,
            "delivered": counts.delivered,
            "lost": counts.expected - counts.delivered,
            "healed": counts.healed,
            "duplicated": counts.duplicated,
            "out_of_order": counts.out_of_order + self.swapped_sends(),
            "hash_mismatches": counts.hash_mismatches,
            "prev_mismatches": counts.prev_mismatches,
            "id_mismatches": counts.id_mismatches,
            "misdelivered": counts.misdelivered,
            "foreign": counts.foreign,
            "unverified": counts.unverified,
            "gaps": counts.gaps,
            "delivered_refused": self.delivered_refused(),
        }

    cdef object swapped_sends(self):
        """Deliveries of messages that lie in the log before an earlier one of the same sender and channel. Receivers
        get a channel by ascending ids, or are counted; so this is the sender's order for all of them at once."""
        cdef:
            uint64_t* highest = <uint64_t*>calloc(self.tables.n_memberships + 1, sizeof(uint64_t))
            uint64_t n_swapped = 0
            uint32_t i
            LoadMessage* message
        if highest == NULL:
            raise MemoryError
        for i in range(self.tables.n_messages):
            message = &self.tables.messages[i]
            if message.id == no_id() or message.was_delayed:
                continue
            if message.id < highest[message.membership]:
                n_swapped += message.n_delivered
            else:
                highest[message.membership] = message.id
        free(highest)
        return n_swapped

    cdef uint64_t delivered_refused(self) noexcept:
        """Deliveries of messages that the server said were not in the log."""
        cdef uint64_t n = 0
        cdef uint32_t i
        for i in range(self.tables.n_messages):
            if self.tables.messages[i].state == MESSAGE_REFUSED:
                n += self.tables.messages[i].n_delivered
        return n

    def histograms(self):
        return {
            "ack": histogram_as_dict(&self.tables.counts.ack_ns),
            "deliver": histogram_as_dict(&self.tables.counts.deliver_ns),
        }

    def slowest_ns(self):
        return {"ack": self.tables.counts.ack_ns.largest, "deliver": self.tables.counts.deliver_ns.largest}
