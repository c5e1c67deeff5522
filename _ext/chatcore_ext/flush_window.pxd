"""Output of connections that are sent something all the time, held for some ms so that a system call takes more of it.

The kernel's send is nearly all that a delivery costs, so a room that is flushed once in a window costs less the
hotter it gets. Off by default. On, a connection is held only if it was flushed less than a window ago and had something
new, on average, more often than a rate lately: what comes to one who is seldom written to, and the first thing after a
pause, goes out at once. What answers somebody (acknowledgements, replies, refusals) and CLOSE do not wait, and take
with them what was there before: a stream's order holds.

While anything is held the arena is not emptied: a turn of the arena then lasts until the window's end, and nothing is
copied. What is held lies in a list of its own and is flushed together, so there is one timer for all.
"""

from chatcore_ext.output cimport Output
from chatcore_ext.tables cimport Connection


# The window's length (under a second; 0: off) and the rate of outputs a second above which a connection is held. -1:
# there is no timer, errno says why.
cdef int window_open(Output* output, unsigned int length_us, unsigned int rate) noexcept nogil
cdef void window_close(Output* output) noexcept nogil
# A new connection is not a busy one.
cdef void window_admit(Output* output, Connection* connection) noexcept nogil
# Whether a dirty connection waits; if so, it is in the list. To be asked once for each turn in which it has output.
cdef bint window_holds(Output* output, Connection* connection) noexcept nogil
# A flush would send something of what is held.
cdef bint window_is_due(const Output* output) noexcept nogil
# Those whose wait is over: all, or those who must not wait and those who end. Linked by next_dirty.
cdef Connection* window_take_due(Output* output) noexcept nogil
# Once the dirty are flushed: sees to it that the window ends.
cdef void window_end_turn(Output* output) noexcept nogil
# The timer's descriptor is readable (by an edge: it need not be read), or nobody knows how long it has been.
cdef void window_timer_fired(Output* output) noexcept nogil
