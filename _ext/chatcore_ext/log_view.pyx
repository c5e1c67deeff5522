"""Each channel's last id and hash as one reader of the log knows them, and the placing of records after them.

Decides by the log alone: no clock, no other reader. Never delivers and never asks history; it is told (`learn_head`).

A head is a struct in one array; a dict leads from the channel's name to its place there. Heads that nobody has pinned
form a list by age of their last message; the oldest goes when there are more than `max_heads`. A name, its place in the
dict and its head take about 220 bytes.
"""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from chatcore_ext.chain_hash cimport chain_next
from chatcore_ext.constants cimport (
    DEFAULT_CHAIN_IDLE_MS, DEFAULT_MAX_HEADS, DEFAULT_REPLAY_WINDOW_MS, HASH_UNKNOWN, RECORD_MESSAGE, no_id, unknown_id,
)
from chatcore_ext.record cimport read_record

cdef enum:
    FEWEST_SLOTS = 16


cdef void follow_head(
    const Head* head, uint64_t chain_idle_ms, uint64_t id, uint64_t time, Placement* out
) noexcept nogil:
    """prev and hash of a message that follows `head`."""
    cdef uint64_t chain = head.hash
    out.prev = head.id
    if head.id == unknown_id():
        return
    if time > head.time and time - head.time > chain_idle_ms:
        out.prev = no_id()
    if out.prev == no_id():
        chain = 0              # chain_next: a new chain
    elif chain == HASH_UNKNOWN:
        return
    out.hash = chain_next(
        chain, id, out.record.sender, out.record.sender_len, out.record.body, out.record.body_len
    )


cdef void advance_head(
    Head* head, uint64_t chain_idle_ms, uint64_t id, uint64_t time, Placement* out
) noexcept nogil:
    if head.id != unknown_id() and head.id >= id:
        # History was ahead of this reader: what came before this message is not known, but what comes is.
        head.ahead_id, head.ahead_hash = head.id, head.hash
        head.id = unknown_id()
    follow_head(head, chain_idle_ms, id, time, out)
    if head.ahead_id == id and out.hash == HASH_UNKNOWN:
        out.hash = head.ahead_hash
    if head.ahead_id <= id:
        head.ahead_id = head.ahead_hash = 0
    head.id, head.hash, head.time = id, out.hash, time
    head.is_from_log = True


@cython.final
cdef class LogView:
    def __cinit__(
        self,
        *,
        uint64_t window_ms=DEFAULT_REPLAY_WINDOW_MS,
        uint64_t max_heads=DEFAULT_MAX_HEADS,
        uint64_t chain_idle_ms=DEFAULT_CHAIN_IDLE_MS,
        uint64_t since_ms=0,
    ):
        self.replay = ReplayWindow(window_ms)
        if since_ms > 0:
            # The first generation whose predecessor began at since_ms or later: nothing that it looks at is missing.
            self.settled = (since_ms - 1) // window_ms + 2
        self.max_heads = max_heads
        self.chain_idle_ms = chain_idle_ms
        self.slots = {}
        self.free_slot = self.newest = self.oldest = NO_SLOT

    def __dealloc__(self):
        free(self.heads)

    @property
    def n_heads(self) -> int:
        return self.n_known

    @property
    def n_windows(self) -> int:
        return self.replay.count_windows()

    @property
    def duplicates(self) -> int:
        return self.n_duplicates

    @property
    def replay_ms(self) -> int:
        return self.replay.replay_ms + self.replay.window_ms

    def place(self, uint32_t partition, uint64_t offset, uint64_t time, bytes channel not None, bytes record not None):
        cdef Placement placement
        self.place_record(partition, offset, time, channel, record, len(record), &placement)
        if placement.record.kind != RECORD_MESSAGE:
            raise ValueError(f"a record of kind {placement.record.kind} is no message")
        return (placement.prev, placement.hash) if placement.first else None

    def head(self, bytes channel not None):
        cdef const Head* head = self.find_head(channel)
        return None if head == NULL else (head.id, head.hash)

    def learn_head(self, bytes channel not None, uint64_t id, uint64_t hash, uint64_t time):
        cdef:
            int32_t slot
            Head* head
        if id == unknown_id():
            raise ValueError(f"{id} is no id")
        slot = self.find_slot(channel)
        if slot == NO_SLOT:
            slot = self.add_slot(channel)
            self.link_newest(slot)
        head = &self.heads[slot]
        if head.id == unknown_id() or (head.id < id and not head.is_from_log):
            self.n_known += head.id == unknown_id()
            head.id, head.hash, head.time = id, hash if id != no_id() else HASH_UNKNOWN, time
        elif head.id == id and head.hash == HASH_UNKNOWN and id != no_id():
            head.hash = hash
        elif head.id < id and head.hash == HASH_UNKNOWN != hash and (head.ahead_id == 0 or id < head.ahead_id):
            head.ahead_id, head.ahead_hash = id, hash
        self.evict_surplus()

    def pin(self, bytes channel not None):
        self.pin_channel(channel)

    def unpin(self, bytes channel not None):
        self.unpin_channel(channel)

    cdef int place_record(
        self, uint32_t partition, uint64_t offset, uint64_t time, bytes channel,
        const uint8_t* value, size_t size, Placement* out
    ) except -1:
        if read_record(value, size, &out.record):
            raise ValueError("not a log record of version 1")
        return self.place_fields(partition, offset, time, channel, out)

    cdef int place_fields(
        self, uint32_t partition, uint64_t offset, uint64_t time, bytes channel, Placement* out
    ) except -1:
        cdef:
            int32_t slot
            Head* head
        out.first = False
        out.prev = unknown_id()
        out.hash = HASH_UNKNOWN
        if out.record.kind != RECORD_MESSAGE:
            return 0
        if offset == no_id() or offset == unknown_id():
            raise ValueError(f"the log's offset {offset} is no id")
        if not self.replay.admit_copy(partition, out.record.session, out.record.seq, time):
            self.n_duplicates += 1
            return 0
        out.first = True
        slot = self.find_slot(channel)
        if self.replay.partitions[partition].number < self.settled:
            # Perhaps a later copy of one that this reader has not seen: what it says about the head may be wrong.
            return 0 if slot == NO_SLOT or self.heads[slot].id >= offset else self.forget_head(slot)
        if slot == NO_SLOT:
            slot = self.add_slot(channel)
            self.link_newest(slot)
        elif self.heads[slot].n_pins == 0:
            self.unlink(slot)
            self.link_newest(slot)
        head = &self.heads[slot]
        self.n_known += head.id == unknown_id()
        advance_head(head, self.chain_idle_ms, offset, time, out)
        return self.evict_surplus()

    cdef const Head* find_head(self, bytes channel) except? NULL:
        cdef int32_t slot = self.find_slot(channel)
        if slot == NO_SLOT or self.heads[slot].id == unknown_id():
            return NULL
        return &self.heads[slot]

    cdef int pin_channel(self, bytes channel) except -1:
        cdef int32_t slot = self.find_slot(channel)
        if slot == NO_SLOT:
            slot = self.add_slot(channel)
        elif self.heads[slot].n_pins == 0:
            self.unlink(slot)
        self.heads[slot].n_pins += 1
        return 0

    cdef int unpin_channel(self, bytes channel) except -1:
        cdef int32_t slot = self.find_slot(channel)
        if slot == NO_SLOT or self.heads[slot].n_pins == 0:
            raise ValueError(f"channel {channel!r} is not pinned")
        self.heads[slot].n_pins -= 1
        if self.heads[slot].n_pins > 0:
            return 0
        if self.heads[slot].id == unknown_id():
            return self.drop_slot(slot)
        self.link_newest(slot)
        return self.evict_surplus()

    cdef int32_t find_slot(self, bytes channel) except? NO_SLOT:
        cdef PyObject* slot = PyDict_GetItemWithError(self.slots, channel)
        return NO_SLOT if slot == NULL else <int32_t><object>slot

    cdef int32_t add_slot(self, bytes channel) except? NO_SLOT:
        """A head of which nothing is known yet, in no list."""
        cdef:
            int32_t slot
            Head* head
        if self.free_slot == NO_SLOT:
            self.grow()
        slot = self.free_slot
        self.slots[channel] = slot
        head = &self.heads[slot]
        self.free_slot = head.newer
        head.id = unknown_id()
        head.hash = head.time = head.ahead_id = head.ahead_hash = 0
        head.is_from_log = False
        head.n_pins = 0
        head.name = <PyObject*>channel
        return slot

    cdef int drop_slot(self, int32_t slot) except -1:
        """The caller has taken it out of the list."""
        cdef Head* head = &self.heads[slot]
        # A reference of our own: the dict's may be the last.
        cdef bytes name = <bytes>head.name
        self.n_known -= head.id != unknown_id()
        head.name = NULL
        head.newer = self.free_slot
        self.free_slot = slot
        del self.slots[name]
        return 0

    cdef int forget_head(self, int32_t slot) except -1:
        cdef Head* head = &self.heads[slot]
        if head.n_pins == 0:
            self.unlink(slot)
            return self.drop_slot(slot)
        self.n_known -= head.id != unknown_id()
        head.id = unknown_id()
        head.hash = head.ahead_id = head.ahead_hash = 0
        head.is_from_log = False
        return 0

    cdef int grow(self) except -1:
        cdef:
            int64_t n_slots = 2 * <int64_t>self.n_slots if self.n_slots else FEWEST_SLOTS
            void* larger
        if n_slots > INT32_MAX:
            raise MemoryError
        larger = realloc(self.heads, n_slots * sizeof(Head))
        if larger == NULL:
            raise MemoryError
        self.heads = <Head*>larger
        while self.n_slots < n_slots:
            self.heads[self.n_slots].newer = self.free_slot
            self.free_slot = self.n_slots
            self.n_slots += 1
        return 0

    cdef int evict_surplus(self) except -1:
        cdef int32_t slot
        while self.n_unpinned > self.max_heads:
            slot = self.oldest
            self.unlink(slot)
            self.drop_slot(slot)
        return 0

    cdef void unlink(self, int32_t slot) noexcept:
        cdef Head* head = &self.heads[slot]
        if head.newer == NO_SLOT:
            self.newest = head.older
        else:
            self.heads[head.newer].older = head.older
        if head.older == NO_SLOT:
            self.oldest = head.newer
        else:
            self.heads[head.older].newer = head.newer
        self.n_unpinned -= 1

    cdef void link_newest(self, int32_t slot) noexcept:
        cdef Head* head = &self.heads[slot]
        head.newer = NO_SLOT
        head.older = self.newest
        if self.newest == NO_SLOT:
            self.oldest = slot
        else:
            self.heads[self.newest].newer = slot
        self.newest = slot
        self.n_unpinned += 1
