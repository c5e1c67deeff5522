"""The replay window's tables and its verdict. replay_window.pxd says what they mean and why they are so."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from chatcore_ext.constants cimport DEFAULT_REPLAY_WINDOW_MS

REACH = REPLAY_REACH

cdef enum:
    SMALLEST_TABLE = 8         # windows


cdef Window* probe(const Generation* generation, uint64_t session) noexcept nogil:
    """The session's window, or the free place where it belongs. The table has a free place (it is never full)."""
    cdef:
        uint64_t mask = generation.capacity - 1
        # Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4). Session ids are the servers' own choice:
        # nobody outside can pick some that collide.
        uint64_t place = ((session * <uint64_t>0x9E3779B97F4A7C15) >> 32) & mask
    while generation.windows[place].session != 0 and generation.windows[place].session != session:
        place = (place + 1) & mask
    return &generation.windows[place]


cdef const Window* find_window(const Generation* generation, uint64_t session) noexcept nogil:
    cdef const Window* window
    if generation.n_windows == 0:
        return NULL
    window = probe(generation, session)
    return window if window.session == session else NULL


cdef int resize(Generation* generation, uint64_t capacity) except -1:
    cdef:
        Generation larger
        uint64_t place
    larger.windows = <Window*>calloc(capacity, sizeof(Window))
    if larger.windows == NULL:
        raise MemoryError
    larger.capacity = capacity
    larger.n_windows = generation.n_windows
    for place in range(generation.capacity):
        if generation.windows[place].session != 0:
            probe(&larger, generation.windows[place].session)[0] = generation.windows[place]
    free(generation.windows)
    generation[0] = larger
    return 0


cdef int make_room(Generation* generation, const Generation* previous) except -1:
    """Room for one window more. A first table is made for as many as the generation before had: mostly it will do."""
    cdef uint64_t capacity = SMALLEST_TABLE
    if generation.capacity == 0:
        while capacity * 3 < previous.n_windows * 4:
            capacity *= 2
        return resize(generation, capacity)
    if (generation.n_windows + 1) * 4 > generation.capacity * 3:
        return resize(generation, generation.capacity * 2)
    return 0


cdef void clear(Generation* generation) noexcept nogil:
    free(generation.windows)
    memset(generation, 0, sizeof(Generation))


cdef void start_generation(PartitionWindows* partition, uint64_t number) noexcept nogil:
    clear(&partition.previous)
    if number == partition.number + 1:
        partition.previous = partition.current
        memset(&partition.current, 0, sizeof(Generation))
    else:
        clear(&partition.current)
    partition.number = number


cdef bint is_below_reach(const Window* window, uint64_t seq) noexcept nogil:
    return seq < window.highest and window.highest - seq >= REPLAY_REACH


cdef bint has_seen(const Window* window, uint64_t seq) noexcept nogil:
    """Whether the seq came, or is so far below the highest that nobody may still send it for the first time."""
    if seq > window.highest:
        return False
    if is_below_reach(window, seq):
        return True
    return (window.bitmap[(seq // WORD_BITS) % WINDOW_WORDS] >> (seq % WORD_BITS)) & 1


cdef void mark(Window* window, uint64_t seq) noexcept nogil:
    """RFC 6479, section 2.3: going up clears the words that are entered, so that no bit is ever shifted."""
    cdef uint64_t word, n_entered
    if is_below_reach(window, seq):
        return
    word = seq // WORD_BITS
    if seq > window.highest:
        n_entered = min(word - window.highest // WORD_BITS, <uint64_t>WINDOW_WORDS)
        while n_entered > 0:
            n_entered -= 1
            window.bitmap[(word - n_entered) % WINDOW_WORDS] = 0
        window.highest = seq
    window.bitmap[word % WINDOW_WORDS] |= <uint64_t>1 << (seq % WORD_BITS)


@cython.final
cdef class ReplayWindow:
    def __cinit__(self, uint64_t window_ms=DEFAULT_REPLAY_WINDOW_MS):
        if window_ms == 0:
            raise ValueError("a replay window of 0 ms would recognise nothing")
        self.window_ms = window_ms

    def __dealloc__(self):
        cdef uint32_t partition
        for partition in range(self.n_partitions):
            clear(&self.partitions[partition].previous)
            clear(&self.partitions[partition].current)
        free(self.partitions)

    @property
    def window_ms(self) -> int:
        return self.window_ms

    @property
    def replay_ms(self) -> int:
        return 2 * self.window_ms

    @property
    def n_entries(self) -> int:
        return self.count_windows()

    def admit(self, uint64_t session, uint32_t partition, uint64_t seq, uint64_t time) -> bool:
        return self.admit_copy(partition, session, seq, time) == 1

    def highest(self, uint64_t session) -> int:
        return self.highest_of(session)

    cdef uint64_t highest_of(self, uint64_t session) noexcept:
        cdef:
            uint64_t highest = 0
            uint32_t partition
            const Window* window
        if session == 0:
            return 0
        for partition in range(self.n_partitions):
            window = find_window(&self.partitions[partition].previous, session)
            if window != NULL:
                highest = max(highest, window.highest)
            window = find_window(&self.partitions[partition].current, session)
            if window != NULL:
                highest = max(highest, window.highest)
        return highest

    cdef int admit_copy(self, uint32_t partition, uint64_t session, uint64_t seq, uint64_t time) except -1:
        cdef:
            PartitionWindows* windows
            Window* window
            const Window* earlier
            bint is_later
        if partition >= self.n_partitions:
            self.add_partitions(partition)
        windows = &self.partitions[partition]
        if time // self.window_ms > windows.number:
            start_generation(windows, time // self.window_ms)
        if session == 0:
            return 1
        earlier = find_window(&windows.previous, session)
        is_later = earlier != NULL and has_seen(earlier, seq)
        make_room(&windows.current, &windows.previous)
        window = probe(&windows.current, session)
        if window.session == 0:
            window.session = session
            window.highest = seq
            windows.current.n_windows += 1
        elif has_seen(window, seq):
            is_later = True
        # Later copies too: the current generation must know all that came in it when it has become the previous one.
        mark(window, seq)
        return not is_later

    cdef int add_partitions(self, uint32_t partition) except -1:
        cdef void* larger
        if partition >= MAX_PARTITIONS:
            raise ValueError(f"there is no partition {partition}: a log has at most {MAX_PARTITIONS}")
        larger = realloc(self.partitions, (partition + 1) * sizeof(PartitionWindows))
        if larger == NULL:
            raise MemoryError
        self.partitions = <PartitionWindows*>larger
        memset(&self.partitions[self.n_partitions], 0, (partition + 1 - self.n_partitions) * sizeof(PartitionWindows))
        self.n_partitions = partition + 1
        return 0

    cdef uint64_t count_windows(self) noexcept:
        cdef:
            uint64_t n_windows = 0
            uint32_t partition
        for partition in range(self.n_partitions):
            n_windows += self.partitions[partition].previous.n_windows + self.partitions[partition].current.n_windows
        return n_windows
