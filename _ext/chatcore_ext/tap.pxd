"""What a trace sees: events that compiled code notes while it works, for Python to take at the end of the turn.

Off, it holds no memory, and costs its callers one look at `is_on` per frame, record or fan-out, never one per receiver.
On, it is bounded: what does not fit until the next take is counted as lost, and nobody waits. Decides nothing and
changes nothing that it looks at.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

from chatcore_ext.constants cimport MAX_TRACES
from chatcore_ext.tables cimport Channel, Connection, Subscription


# What an event tells: its numbers behind it.
cpdef enum TapKind:
    TAP_IN = 1                 # a client's frame
    TAP_OUT = 2                # a frame to a client
    TAP_ATTACHED = 3           # session, the player's sessions here
    TAP_DETACHED = 4           # session, close code
    TAP_JOINED = 5             # the channel's number, members then, may send
    TAP_LEFT = 6
    TAP_RECORD = 7             # id, prev, session, seq, 1 = a repeated copy, members here
    TAP_FANNED_OUT = 8         # id, then receivers: delivered, hidden, left out (a signal, id 0: waits), closing
    TAP_MISSED = 9             # id (0: a signal), fate, bytes pending, the first id that was left out


# What became of a message for one receiver.
cpdef enum Fate:
    FATE_DELIVERED = 0
    FATE_HIDDEN = 1            # blocked: an empty entry (a signal: nothing)
    FATE_LEFT_OUT = 2          # behind: a GAP tells later
    FATE_CLOSING = 3
    FATE_NOT_JOINED = 4
    FATE_NOT_CONNECTED = 5
    FATE_IS_SENDER = 6         # a signal does not go back to whom it came from
    FATE_TAKEN_BACK = 7        # left out after all, at the flush: too much is unsent to all connections
    FATE_WAITS = 8             # a signal: the last of its kind and sender is told when the receiver has caught up


# Bits of Connection.traced.
cdef enum Traced:
    TRACED_PLAYER = 1          # all frames
    TRACED_SENDER = 2          # has sent to a traced channel: what became of its sends


cdef enum:
    TAP_EVENTS = 4096          # until the next take
    TAP_BYTES = 1048576        # of names and frames until the next take
    TAP_RESERVE = 64           # of the events: not for TAP_MISSED, so that those of a large room push nothing else out
    TAP_NUMBERS = 6


# `player`, `channel` and the kept part of the frame's body lie behind each other in the tap's bytes.
cdef struct TapEvent:
    unsigned char kind
    unsigned char type         # of the frame
    unsigned char player_size
    unsigned char channel_size
    unsigned int size          # of the whole body
    unsigned int kept
    unsigned int start
    unsigned long long connection  # handle; 0: none
    unsigned long long[TAP_NUMBERS] numbers


# Loop thread only. All zero is one that is off.
cdef struct Tap:
    bint is_on
    bint with_bodies           # keep what players say, too
    TapEvent* events           # TAP_EVENTS of them; NULL while off
    uint8_t* bytes             # TAP_BYTES
    unsigned int n_events
    unsigned int n_bytes
    unsigned long long n_lost  # since the last take
    PyObject* players[MAX_TRACES]  # names, owned
    int n_players


# -1: no memory.
cdef int tap_open(Tap* tap) noexcept nogil
# Keeps no event; the names stay the caller's business.
cdef void tap_close(Tap* tap) noexcept nogil

# A new event with these names (channel NULL: none). NULL: lost.
cdef TapEvent* tap_note(
    Tap* tap, TapKind kind, unsigned long long connection, const uint8_t* player, size_t player_size,
    PyObject* channel
) noexcept nogil
# The same about a connection and its player.
cdef TapEvent* tap_note_of(Tap* tap, TapKind kind, const Connection* connection, const Channel* channel) noexcept nogil
# Keep the body of a frame with the newest event, or as much of it as may be kept. Without room the event stays.
cdef void tap_keep(Tap* tap, TapEvent* event, int type, const uint8_t* body, size_t size) noexcept nogil

# A whole frame to one connection is about to be appended. To be called while `is_on`.
cdef void tap_out(Tap* tap, const Connection* connection, const uint8_t* frame, const Channel* channel) noexcept nogil

# A message that was noted for it is left out after all. To be called while `is_on`.
cdef void tap_taken_back(
    Tap* tap, const Connection* connection, const Subscription* subscription, unsigned long long id
) noexcept nogil

# (kind, type, connection, player, channel, numbers, size, body) of each, and empties it.
cdef list tap_take(Tap* tap)
