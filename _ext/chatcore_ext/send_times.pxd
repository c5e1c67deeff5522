"""When recent SENDs came in, so that it can be told how long until their ACK and their delivery were sent.

A sample: a SEND whose place in the table is taken by another one that waits for its ACK is not measured. So a stall
costs samples, but not those of the sends that wait longest. Knows only sends of this worker's connections.
"""

from chatcore_ext.durations cimport Durations

cdef enum:
    N_SEND_TIMES = 2048        # a power of two: sends under way at a time that can be measured, at most
    N_NOTED = 512              # of one turn; with more, some are measured before the flush
    FORGOTTEN_US = 60000000    # refused, or its connection is gone: the place is free again


cdef struct SendTime:
    unsigned long long session
    unsigned long long seq
    unsigned long long taken_us  # the hub's monotonic clock in the turn that took it out of its socket
    bint is_acknowledged


# Appended in this turn, and measured once it is flushed.
cdef struct NotedTime:
    unsigned long long taken_us
    bint is_delivery


# Loop thread only. All zero is empty.
cdef struct SendTimes:
    SendTime[N_SEND_TIMES] times
    NotedTime[N_NOTED] noted
    unsigned int n_noted
    Durations ack_latency
    Durations delivery_latency


cdef void send_taken(
    SendTimes* times, unsigned long long session, unsigned long long seq, unsigned long long now_us
) noexcept nogil
# Its ACK, or its DELIVER for at least one receiver, is in this turn's output.
cdef void note_ack(SendTimes* times, unsigned long long session, unsigned long long seq) noexcept nogil
cdef void note_delivery(SendTimes* times, unsigned long long session, unsigned long long seq) noexcept nogil
# The turn's output is with the kernel.
cdef void measure_noted(SendTimes* times) noexcept nogil
