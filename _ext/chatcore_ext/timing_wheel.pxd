"""One timing wheel for all deadlines of a worker: set, cancel and move a timer in O(1), whatever their number.

A hashed wheel with unsorted slots: G. Varghese and A. Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987, scheme
6. Not the hierarchical one (scheme 7): nearly all deadlines here are heartbeats of about the same length, so a wheel of
one revolution over that length seldom looks at a timer twice, and no timer is ever moved between wheels.

Timers are structs inside what they time; the wheel links them and owns none. Never looks at a clock.
"""

from libc.stdint cimport uint64_t


# All zero is a timer that is not set. Must not move in memory, or be freed, while it is set.
cdef struct Timer:
    Timer* next                # NULL: not set
    Timer* prev
    uint64_t deadline          # in ticks


# Loop thread only, like everything that is timed by it.
cdef struct Wheel:
    Timer* slots               # heads of circular lists
    uint64_t n_slots           # a power of two
    uint64_t tick_ms
    uint64_t now               # the tick up to which all timers have fired
    size_t n_timers


# Called with a timer that is not set any more; may set it again, set or cancel any other, and free what it belongs to.
ctypedef void (*timer_callback)(Timer* timer, void* context) noexcept nogil


# One revolution is n_slots * tick_ms: choose it longer than most deadlines. ValueError if n_slots is not a power of two
# or tick_ms is 0; MemoryError.
cdef int wheel_init(Wheel* wheel, uint64_t n_slots, uint64_t tick_ms, uint64_t now_ms) except -1
# Timers that are still set are left dangling: they are their owners', who are going away too.
cdef void wheel_free(Wheel* wheel) noexcept nogil
# Calls `callback` for each timer whose deadline has come, once; returns how many. A deadline within a tick comes with
# the tick's end, so a timer is never early and at most one tick late. A timer that a callback sets fires in a later
# call, whatever its deadline. Costs O(ticks since the last call, at most one revolution) + O(timers looked at). A time
# before the last call's is taken as that one.
cdef size_t wheel_advance(Wheel* wheel, uint64_t now_ms, timer_callback callback, void* context) noexcept nogil


cdef inline bint timer_is_set(const Timer* timer) noexcept nogil:
    return timer.next != NULL


cdef inline void timer_link(Timer* timer, Timer* head) noexcept nogil:
    timer.prev = head.prev
    timer.next = head
    head.prev.next = timer
    head.prev = timer


cdef inline void timer_unlink(Timer* timer) noexcept nogil:
    timer.prev.next = timer.next
    timer.next.prev = timer.prev
    timer.next = NULL
    timer.prev = NULL


cdef inline bint wheel_cancel(Wheel* wheel, Timer* timer) noexcept nogil:
    """False: it was not set."""
    if timer.next == NULL:
        return False
    timer_unlink(timer)
    wheel.n_timers -= 1
    return True


cdef inline void wheel_set(Wheel* wheel, Timer* timer, uint64_t deadline_ms) noexcept nogil:
    """Sets the timer, or moves it if it is set. A deadline that has passed fires at the next tick."""
    wheel_cancel(wheel, timer)
    # Rounded up, without the overflow of deadline_ms + tick_ms - 1.
    timer.deadline = deadline_ms // wheel.tick_ms + (deadline_ms % wheel.tick_ms != 0)
    if timer.deadline <= wheel.now:
        timer.deadline = wheel.now + 1
    timer_link(timer, &wheel.slots[timer.deadline & (wheel.n_slots - 1)])
    wheel.n_timers += 1
