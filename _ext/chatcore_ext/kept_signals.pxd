"""Signals for receivers that do not take more now: the last value of each waits until they have caught up.

One value for each (channel, kind, sender), newest wins, as many as KEPT_SIGNALS_SIZE holds; beyond it the oldest gives
way. Memory is taken when a receiver lags and a signal comes, and given back when it has caught up: a connection costs
nothing for this otherwise. Its place is a table beside the connections, and CONGESTION_SIGNALS says that it is there.
"""

from libc.stdint cimport uint8_t

from chatcore_ext.output cimport Output
from chatcore_ext.tables cimport Connection


# In the place of what its channel, kind and sender had to say before.
cdef void keep_signal(Output* output, Connection* connection, const uint8_t* frame, size_t size) noexcept nogil
# It has caught up: what is not too old goes behind what is pending, the oldest first.
cdef void tell_signals(Output* output, Connection* connection) noexcept nogil
# It is in the channel no more.
cdef void forget_signals_in(Output* output, Connection* connection, unsigned int channel) noexcept nogil
# It must not hear the sender any more.
cdef void forget_signals_from(
    Output* output, Connection* connection, const uint8_t* sender, size_t sender_size
) noexcept nogil
# It ends.
cdef void forget_signals(Output* output, Connection* connection) noexcept nogil
# Bytes of memory that they take.
cdef size_t kept_signals_capacity(const Output* output, const Connection* connection) noexcept nogil
