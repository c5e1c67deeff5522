"""The wheel's slow half, and Python's door to it for tests and benchmarks. timing_wheel.pxd says what it is."""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free


cdef int wheel_init(Wheel* wheel, uint64_t n_slots, uint64_t tick_ms, uint64_t now_ms) except -1:
    cdef uint64_t slot
    wheel.slots = NULL
    if n_slots == 0 or n_slots & (n_slots - 1) or tick_ms == 0:
        raise ValueError(f"a wheel of {n_slots} slots (not a power of two?) of {tick_ms} ms cannot turn")
    wheel.slots = <Timer*>calloc(n_slots, sizeof(Timer))
    if wheel.slots == NULL:
        raise MemoryError
    for slot in range(n_slots):
        wheel.slots[slot].next = wheel.slots[slot].prev = &wheel.slots[slot]
    wheel.n_slots = n_slots
    wheel.tick_ms = tick_ms
    wheel.now = now_ms // tick_ms
    wheel.n_timers = 0
    return 0


cdef void wheel_free(Wheel* wheel) noexcept nogil:
    free(wheel.slots)
    wheel.slots = NULL


cdef void collect_due(Timer* slot, uint64_t now, Timer* due) noexcept nogil:
    """Moves the timers whose deadline has come to the list `due`; the others wait for another revolution."""
    cdef:
        Timer* timer = slot.next
        Timer* following
    while timer != slot:
        following = timer.next
        if timer.deadline <= now:
            timer_unlink(timer)
            timer_link(timer, due)
        timer = following


cdef size_t wheel_advance(Wheel* wheel, uint64_t now_ms, timer_callback callback, void* context) noexcept nogil:
    cdef:
        Timer due
        Timer* timer
        uint64_t tick = wheel.now
        uint64_t now = now_ms // wheel.tick_ms
        uint64_t n_ticks
        size_t n_fired = 0
    if now <= wheel.now:
        return 0
    n_ticks = min(now - wheel.now, wheel.n_slots)
    wheel.now = now
    if wheel.n_timers == 0:
        return 0
    # All are taken out before the first callback runs, so no callback can change a list that is being walked; `due` is
    # an ordinary list, so a callback may still cancel or move a timer that is waiting in it.
    due.next = due.prev = &due
    while n_ticks > 0:
        tick += 1
        n_ticks -= 1
        collect_due(&wheel.slots[tick & (wheel.n_slots - 1)], now, &due)
    while due.next != &due:
        timer = due.next
        timer_unlink(timer)
        wheel.n_timers -= 1
        n_fired += 1
        callback(timer, context)
    return n_fired


# What a TimingWheel keeps for a key. The timer is the first member, so a pointer to one is a pointer to the other.
cdef struct KeyedTimer:
    Timer timer
    int64_t key


cdef void fire(Timer* timer, void* context) noexcept with gil:
    (<TimingWheel>context).fire((<KeyedTimer*>timer).key)


# no_gc_clear: __dealloc__ needs the dict; a cycle through it cannot be, it holds nothing but ints.
@cython.final
@cython.no_gc_clear
cdef class TimingWheel:
    cdef:
        Wheel wheel
        dict timers            # key -> address of its KeyedTimer, which it owns
        # During `advance`
        list fired
        object on_fired
        object failure         # the first exception of on_fired

    def __cinit__(self, uint64_t n_slots, uint64_t tick_ms, uint64_t now_ms):
        self.timers = {}
        wheel_init(&self.wheel, n_slots, tick_ms, now_ms)

    def __dealloc__(self):
        if self.timers is not None:
            for address in self.timers.values():
                free(<void*><size_t>address)
        wheel_free(&self.wheel)

    def __len__(self) -> int:
        return self.wheel.n_timers

    def insert(self, int64_t key, uint64_t deadline_ms) -> None:
        cdef KeyedTimer* timer
        address = self.timers.get(key)
        if address is None:
            timer = <KeyedTimer*>calloc(1, sizeof(KeyedTimer))
            if timer == NULL:
                raise MemoryError
            timer.key = key
            self.timers[key] = <size_t>timer
        else:
            timer = <KeyedTimer*><size_t>address
        wheel_set(&self.wheel, &timer.timer, deadline_ms)

    def cancel(self, int64_t key) -> bool:
        address = self.timers.pop(key, None)
        if address is None:
            return False
        wheel_cancel(&self.wheel, &(<KeyedTimer*><size_t>address).timer)
        free(<void*><size_t>address)
        return True

    def advance(self, uint64_t now_ms, on_fired=None) -> list:
        if self.fired is not None:
            raise RuntimeError("advance was called from its own callback")
        cdef list fired = []
        self.fired = fired
        self.on_fired = on_fired
        with nogil:
            wheel_advance(&self.wheel, now_ms, fire, <void*>self)
        failure, self.failure, self.on_fired, self.fired = self.failure, None, None, None
        if failure is not None:
            raise failure
        return fired

    cdef int fire(self, int64_t key) noexcept:
        try:
            free(<void*><size_t>self.timers.pop(key))
            self.fired.append(key)
            if self.on_fired is not None:
                self.on_fired(key)
        except BaseException as error:
            if self.failure is None:
                self.failure = error
        return 0
