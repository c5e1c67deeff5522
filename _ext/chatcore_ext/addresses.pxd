"""Where connections come from: how many there are of each remote address, and how fast new ones may come.

An address is IPv4's, or the first 64 bits of IPv6's, for a customer has as many addresses as that leaves. An address is
remembered while it has connections and until its bucket is full again, so nobody gets a fresh one by hanging up.
"""

from chatcore_ext.constants cimport MAX_NETWORKS
from chatcore_ext.pointer_table cimport PointerTable
from chatcore_ext.token_bucket cimport Bucket


cdef enum:
    NO_ADDRESS = 0             # a slot that nothing counts against: UNIX sockets
    MAX_IDLE_ADDRESSES = 65536  # remembered without a connection, 64 bytes each; beyond it the oldest is forgotten


# Without connections it is in the list of the idle; when it is free, `next` links it to the next free one.
cdef struct Address:
    unsigned long long key
    unsigned long long idle_since_ms
    unsigned int n_connections
    unsigned int next
    unsigned int previous
    bint is_unlimited
    Bucket accepts


cdef struct Network:
    unsigned long long key
    unsigned long long mask


# Loop thread only. All zero is valid and empty.
cdef struct Addresses:
    PointerTable places        # scrambled key -> slot
    Address* slots             # the first is nobody's
    unsigned int capacity
    unsigned int free
    unsigned int oldest_idle
    unsigned int newest_idle
    unsigned int n_idle
    int n_networks
    Network[MAX_NETWORKS] networks


# The key of a sockaddr. False: it is of no family that has addresses.
cdef bint key_of_sockaddr(const void* address, unsigned long long* key) noexcept nogil
# "192.0.2.1" or "2001:db8::1", scope and all. ValueError: it is neither.
cdef unsigned long long key_of_text(str text) except? 0
# As limits know it: "192.0.2.1" or "2001:db8:0:1::/64".
cdef str text_of_key(unsigned long long key)
# The networks whose addresses have no limits, as ipaddress.ip_network reads them. ValueError.
cdef int set_networks(Addresses* addresses, object networks) except -1

# The slot of an address, made if need be with a full bucket. NO_ADDRESS: no memory.
cdef unsigned int address_find(
    Addresses* addresses, unsigned long long key, unsigned int burst, unsigned long long now_ms
) noexcept nogil
# One connection more, or less, of a slot; harmless for NO_ADDRESS.
cdef void address_enter(Addresses* addresses, unsigned int slot) noexcept nogil
cdef void address_leave(Addresses* addresses, unsigned int slot, unsigned long long now_ms) noexcept nogil
# Forget those who have been idle for `memory_ms`.
cdef void addresses_forget(Addresses* addresses, unsigned long long now_ms, unsigned long long memory_ms) noexcept nogil
cdef void addresses_free(Addresses* addresses) noexcept nogil
