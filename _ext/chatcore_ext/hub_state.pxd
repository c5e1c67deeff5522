"""All that a hub is made of, as one C struct: the compiled modules pass it around without the GIL.

Structs only; each part is explained where it is declared.
"""

from libc.stdint cimport uint8_t

from chatcore_ext.addresses cimport Addresses
from chatcore_ext.connection cimport ConnectionTable
from chatcore_ext.counters cimport Counters
from chatcore_ext.event_queue cimport EventQueue
from chatcore_ext.half_open cimport HalfOpen
from chatcore_ext.output cimport Output
from chatcore_ext.routing cimport Routing
from chatcore_ext.send_times cimport SendTimes
from chatcore_ext.tables cimport Session
from chatcore_ext.tap cimport Tap
from chatcore_ext.timing_wheel cimport Wheel


# As configured; hub.pyi says what each means.
cdef struct Limits:
    unsigned int max_frame_size
    unsigned int max_body_size
    unsigned int max_connections
    unsigned int max_half_open
    unsigned int max_closing
    unsigned int max_connections_per_address
    unsigned int accepts_per_second
    unsigned int accept_burst
    unsigned int max_channels_per_connection
    unsigned int hello_timeout_ms
    unsigned int heartbeat_timeout_ms
    unsigned int frames_per_second
    unsigned int frame_burst
    unsigned int excess_per_second
    unsigned int excess_burst
    unsigned int player_frames_per_second
    unsigned int player_frame_burst
    unsigned int player_bytes_per_second
    unsigned int player_byte_burst
    unsigned int resume_grace_ms


cdef enum:
    MAX_LISTENERS = 8


cdef struct Listener:
    int descriptor
    bint is_paused             # out of descriptors: resumed by the next tick


# Loop thread only.
cdef struct HubState:
    Limits limits
    Counters counters
    ConnectionTable connections
    Addresses addresses
    HalfOpen half_open
    Routing routing
    Output output
    EventQueue events
    Wheel wheel
    Tap tap
    Session* expired           # whose grace has ended in this turn; linked by next_expired
    Listener[MAX_LISTENERS] listeners
    int n_listeners
    int epoll_descriptor
    unsigned int n_open        # connections that count against max_connections
    unsigned int n_half_open   # of these: no session yet
    unsigned int most_channels  # of one connection, under any limits so far: nobody is put out of a channel by others
    unsigned long long now_us  # of the turn: monotonic, for measuring
    unsigned long long now_ms  # the same for deadlines; tests shift it
    unsigned long long time_ms  # of the turn: since 1970, for records; never goes back
    unsigned long long clock_shift_ms
    long long wall_shift_ms    # the same for time_ms, in both directions
    SendTimes send_times
    uint8_t* receive_buffer       # RECEIVE_BUFFER_SIZE bytes, read into by every connection in turn
