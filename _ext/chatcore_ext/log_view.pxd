"""What one reader of the log knows, for the modules that place records without making Python objects of them."""

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from chatcore_ext.record cimport RecordFields
from chatcore_ext.replay_window cimport ReplayWindow


# Where a record belongs. `record` points into the value that was placed.
cdef struct Placement:
    bint first                 # False: a later copy, or not a message at all (record.kind); nothing below prev is said
    uint64_t prev              # unknown_id(): not known
    uint64_t hash              # HASH_UNKNOWN: not known
    RecordFields record


cdef enum:
    NO_SLOT = -1


# A channel's last message. One that is only pinned has id = unknown_id().
cdef struct Head:
    uint64_t id
    uint64_t hash
    uint64_t time              # the log's, ms since 1970
    # What history says of a message that the log has not told yet: completes the hash when it does. 0: nothing.
    uint64_t ahead_id
    uint64_t ahead_hash
    PyObject* name             # borrowed from the key in `slots`; NULL: a free slot
    int32_t newer             # LRU list of the unpinned ones; `newer` also links the free slots
    int32_t older
    uint32_t n_pins
    bint is_from_log           # False: from history, which may say something newer yet


# Loop thread only.
cdef class LogView:
    cdef:
        ReplayWindow replay
        uint64_t chain_idle_ms
        uint64_t max_heads
        uint64_t settled       # the generation of the replay window from which on verdicts are everybody's
        uint64_t n_known       # heads whose id is known
        uint64_t n_unpinned
        uint64_t n_duplicates
        dict slots             # name -> index into heads
        Head* heads
        int32_t n_slots
        int32_t free_slot     # first of a list through `newer`
        int32_t newest
        int32_t oldest

    # Takes the next record of a partition in; `out` says where it belongs. `offset` must be larger than any before it
    # in this partition. ValueError if the record is malformed or the offset is no id; MemoryError.
    cdef int place_record(
        self, uint32_t partition, uint64_t offset, uint64_t time, bytes channel,
        const uint8_t* value, size_t size, Placement* out
    ) except -1
    # The same for a record that the caller has read into `out.record` (read_record).
    cdef int place_fields(
        self, uint32_t partition, uint64_t offset, uint64_t time, bytes channel, Placement* out
    ) except -1
    # The channel's head, or NULL if it is not known. Valid until the view changes.
    cdef const Head* find_head(self, bytes channel) except? NULL
    cdef int pin_channel(self, bytes channel) except -1
    cdef int unpin_channel(self, bytes channel) except -1

    cdef int32_t find_slot(self, bytes channel) except? NO_SLOT
    cdef int32_t add_slot(self, bytes channel) except? NO_SLOT
    cdef int grow(self) except -1
    cdef int drop_slot(self, int32_t slot) except -1
    cdef int forget_head(self, int32_t slot) except -1
    cdef int evict_surplus(self) except -1
    cdef void unlink(self, int32_t slot) noexcept
    cdef void link_newest(self, int32_t slot) noexcept
