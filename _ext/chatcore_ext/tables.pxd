"""What is known of connections, sessions, players, channels and subscriptions: structs that point to each other.

Declared in one place because each names the others. connection.pxd says where connections live, routing.pxd how the
rest is linked; nobody else changes a link.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

from chatcore_ext.frame cimport FrameAssembler
from chatcore_ext.timing_wheel cimport Timer
from chatcore_ext.token_bucket cimport Bucket


cdef enum ConnectionState:
    STATE_FREE = 0
    STATE_OPEN                 # no HELLO yet
    STATE_GREETING             # HELLO was handed to Python, which has not attached it yet
    STATE_READY
    STATE_CLOSING              # CLOSE is written, its bytes are on their way; in no table any more
    STATE_LINGERING            # all bytes are out and our side is shut; what still comes in is thrown away
    STATE_LOST                 # the socket is of no use; the slot is freed at the end of the turn


# Why a connection is not simply sent everything.
cdef enum Congestion:
    CONGESTION_BLOCKED = 1     # the kernel or transport has said that it takes no more for now
    CONGESTION_BEHIND = 2      # messages are left out until all that is pending is out; then a GAP per channel tells
    CONGESTION_SIGNALS = 4     # signals wait until all that is pending is out (kept_signals.pxd)


# Where a connection with output waits for its flush.
cdef enum Dirty:
    DIRTY_LISTED = 1           # among those of this turn
    DIRTY_HELD                 # until the window's end (flush_window.pxd)
    DIRTY_HURRIED              # listed or held, but must not be held any longer than this turn


# A timer that knows what it is part of: the wheel holds those of connections and of sessions.
cdef struct Deadline:
    Timer timer                # first, so a pointer to one is a pointer to the other
    bint is_session


# Bytes that a connection is to be sent this turn. They lie in the turn's arena or are static: never freed by this.
cdef struct Slice:
    const uint8_t* data
    unsigned int size          # bytes; `pending` bounds it
    unsigned int n_frames      # that begin in it
    Slice* next


# What the kernel did not take: owned by the connection, gone when drained. The bytes follow the struct.
cdef struct Backlog:
    size_t start
    size_t end
    size_t capacity


cdef struct Connection:
    # The first cache line is all that a fan-out and its flush touch.
    unsigned char state
    unsigned char is_dirty     # a Dirty; 0: has no output
    unsigned char congestion   # bits of Congestion
    unsigned char is_doomed    # is in the list of those to be put away at the end of the turn
    int descriptor             # -1: on a transport
    unsigned int pending       # bytes, backlog and slices
    unsigned int n_slices
    Connection* next_dirty
    Slice* last                # NULL: no slices
    Slice first                # most turns need only one
    Backlog* backlog           # NULL: empty

    unsigned int index
    unsigned int generation
    Session* session           # NULL unless ready
    Subscription* subscriptions
    unsigned int n_subscriptions
    unsigned short close_code
    unsigned char is_detached  # out of all tables, and its end was told
    unsigned char was_greeted  # Python knows of it
    unsigned long long last_seen  # ms, the hub's clock: the turn in which the last bytes came
    Connection* next_doomed
    PyObject* transport        # owned; NULL: a socket
    Deadline deadline          # hello, heartbeat or closing, by state
    Bucket frames              # that it may send
    Bucket excess              # frames over that limit which it may send before it is closed
    FrameAssembler assembler
    unsigned int address       # slot of the peer's; 0: none is known
    unsigned char traced       # bits of Traced, of meaning while the tap is on
    # Of the flush window; with these it is three whole cache lines, so that the next connection begins one too.
    unsigned char mean_gap     # between its outputs of late, in 64ths of what counts as busy
    unsigned short last_flush  # time, in 16 us


# What has a name begins with this. The name is a bytes object: events and callbacks hand it out without a copy.
cdef struct Named:
    unsigned long long hash    # SipHash, keyed per process (PEP 456): players choose names
    Named* same_hash
    PyObject* name             # owned


cdef struct Player:
    Named named
    Session* sessions          # oldest first
    Hide* hides
    unsigned int n_sessions
    unsigned long long stamp   # of the last walk that met this player
    Bucket frames              # over all sessions, as the next
    Bucket bytes


cdef struct Session:
    unsigned long long id
    Player* player
    Connection* connection     # NULL: detached, within its grace
    Session* next              # of the same player
    Session* previous
    Session* next_expired
    unsigned long long highest_seq  # of the sends taken here, and those that the log has told of
    Deadline deadline          # of the grace: set while detached


# `player` must not see what `sender` says.
cdef struct Hide:
    Player* player
    HiddenSender* sender
    Hide* next_of_player
    Hide* previous_of_player
    Hide* next_of_sender
    Hide* previous_of_sender


# Somebody whom at least one player here hides.
cdef struct HiddenSender:
    Named named
    Hide* hides


cdef struct Subscription:
    Channel* channel
    Connection* connection
    Subscription* next         # of the same connection
    Subscription* previous
    unsigned long long generation  # of the newest begin_join
    unsigned long long first_left_out  # id of the first message that was left out since the last GAP; 0: none was
    unsigned int position      # in the channel's members, if joined
    unsigned short refusal     # what SEND is answered if it may not
    unsigned char is_joined    # otherwise a begin_join waits for its complete_join
    unsigned char may_send


cdef struct Member:
    Connection* connection
    Subscription* subscription


cdef struct Channel:
    Named named
    Member* members            # dense, in no order
    unsigned int n_members
    unsigned int capacity
    unsigned int n_pending     # subscriptions that are not joined (yet)
    unsigned int number
    unsigned long long last_id  # of the last message while somebody here was in it; 0: none yet
    # Where this turn's frames of the channel lie; of no meaning in another turn.
    unsigned long long turn
    uint8_t* extent_end           # one past the last frame
    uint8_t* extent_limit         # one past the room reserved
    unsigned int extent_size   # bytes reserved last, when frames of the turn did not lie together
    unsigned char is_traced
