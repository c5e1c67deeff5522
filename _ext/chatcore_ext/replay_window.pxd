"""Which sends of which sessions a reader of the log has seen: the first copy counts, later ones do not exist.

Per session and partition an anti-replay window as of RFC 6479, section 2: the highest seq and a circular bitmap of the
seqs below it. Time is the log's own, and runs per partition in *generations* of `window_ms`; a window belongs to one
generation and records what came in it. A verdict looks at the partition's current and previous generation only. So

- a copy that comes within `window_ms` of the first is always recognised;
- a verdict depends on that partition's records of two generations, in order, and on nothing else: a reader that has
  replayed `2 * window_ms` decides like one that has read for ever, whatever the senders did;
- a generation that is over is freed whole. (Rejected: a last-used time in each window and a sweep. It needs tombstones
  or shifting, and a session that goes on sending keeps alive what a reader that started later cannot know.)
"""

from libc.stdint cimport uint32_t, uint64_t

from chatcore_ext.constants cimport REPLAY_WINDOW_BITS

cdef enum:
    WORD_BITS = 64
    WINDOW_WORDS = REPLAY_WINDOW_BITS >> 6  # not //: an enum's division kills the compiler where cdivision is off
    # How far below the highest seq one is still looked up. RFC 6479 clears whole words, so one is always in reserve.
    REPLAY_REACH = REPLAY_WINDOW_BITS - WORD_BITS
    # Far above what a log is cut into; a number beyond it is a mistake, not a partition.
    MAX_PARTITIONS = 65536


cdef struct Window:
    uint64_t session           # 0: free
    uint64_t highest
    uint64_t[WINDOW_WORDS] bitmap


# A hash table with linear probing, at most 3/4 full. Nothing is ever removed from it.
cdef struct Generation:
    Window* windows
    uint64_t capacity          # a power of two, or 0
    uint64_t n_windows


cdef struct PartitionWindows:
    uint64_t number            # of the current generation: its time divided by window_ms
    Generation current
    Generation previous


# Loop thread only.
cdef class ReplayWindow:
    cdef:
        uint64_t window_ms
        PartitionWindows* partitions
        uint32_t n_partitions

    # 1: first copy, or session 0. 0: a later copy. MemoryError (nothing was taken in), ValueError (partition).
    cdef int admit_copy(self, uint32_t partition, uint64_t session, uint64_t seq, uint64_t time) except -1
    # The highest seq of the session in any partition, as far as it is remembered; 0: none is.
    cdef uint64_t highest_of(self, uint64_t session) noexcept
    cdef uint64_t count_windows(self) noexcept
    cdef int add_partitions(self, uint32_t partition) except -1
