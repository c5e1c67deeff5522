"""Who is here and who hears what: players <-> sessions <-> connections, channels <-> subscriptions <-> connections.

Every link goes both ways and both ends are changed together, in O(1). What nobody uses any more is freed at once: a
channel without subscriptions, a player without sessions. Knows no bytes of the wire and sends nothing.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

from chatcore_ext.pointer_table cimport PointerTable, table_get
from chatcore_ext.tables cimport Channel, Connection, Named, Player, Session, Subscription


cdef extern from "Python.h":
    # Of a bytes object that is known to live, without the GIL: both only read its fixed fields.
    const uint8_t* NAME_BYTES "(const uint8_t*)PyBytes_AS_STRING" (PyObject* name) noexcept nogil
    size_t NAME_SIZE "(size_t)PyBytes_GET_SIZE" (PyObject* name) noexcept nogil


# Loop thread only, with the GIL wherever something is added or removed. All zero is valid and empty.
cdef struct Routing:
    PointerTable players       # by name
    PointerTable channels      # by name
    PointerTable hidden_senders  # by name
    PointerTable numbers       # number -> Channel
    PointerTable sessions      # id -> Session
    PointerTable subscriptions  # connection index << 32 | channel number -> Subscription
    unsigned long long generation
    unsigned long long stamp
    unsigned int last_number
    unsigned int n_joined      # subscriptions that are joined, all channels


# Keyed per process: nobody outside can pick what collides.
cdef unsigned long long hash_of(const uint8_t* name, size_t size) noexcept nogil
cdef Named* find_named(const PointerTable* table, const uint8_t* name, size_t size) noexcept nogil
cdef Named* find_name(const PointerTable* table, bytes name) noexcept

# --- players and sessions ---
# NULL and MemoryError: no memory.
cdef Session* session_new(Routing* routing, unsigned long long id, bytes player) except NULL
# Frees the player too if it was the last. The connection must be detached from it; its timer must not run.
cdef void session_free(Routing* routing, Session* session) noexcept

# --- channels ---
# The channel of that name, made if need be: give it a subscription or `channel_release` it.
cdef Channel* channel_get(Routing* routing, bytes name) except NULL
# True: nobody needed it, it is gone.
cdef bint channel_release(Routing* routing, Channel* channel) noexcept
cdef Subscription* subscription_new(Routing* routing, Connection* connection, Channel* channel) except NULL
cdef int subscription_join(Routing* routing, Subscription* subscription) except -1
# True: the channel is gone with it.
cdef bint subscription_free(Routing* routing, Subscription* subscription) noexcept

# --- hidden senders ---
cdef int hide_add(Routing* routing, Player* player, bytes sender) except -1
cdef void hide_remove(Routing* routing, Player* player, bytes sender) noexcept
# Marks all players who hide the sender with a new stamp, which it returns; 0: nobody hides it.
cdef unsigned long long stamp_hiders(Routing* routing, const uint8_t* name, size_t size) noexcept nogil

cdef void routing_free(Routing* routing) noexcept


cdef inline Subscription* subscription_of(
    const Routing* routing, const Connection* connection, unsigned int number
) noexcept nogil:
    return <Subscription*>table_get(&routing.subscriptions, (<unsigned long long>connection.index << 32) | number)


cdef inline Subscription* subscription_to(
    const Routing* routing, const Connection* connection, const Channel* channel
) noexcept nogil:
    return subscription_of(routing, connection, channel.number)
