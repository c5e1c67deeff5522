"""Where connections come from; see addresses.pxd."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from chatcore_ext.constants cimport MAX_NETWORKS
from chatcore_ext.pointer_table cimport table_free, table_get, table_put, table_remove
from chatcore_ext.routing cimport hash_of
from chatcore_ext.token_bucket cimport bucket_init

cdef extern from "<arpa/inet.h>" nogil:
    uint32_t ntohl(uint32_t number) noexcept

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_INET
        AF_INET6
    cdef struct sockaddr:
        unsigned short sa_family

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct sockaddr_in:
        in_addr sin_addr
    cdef struct in6_addr:
        uint8_t[16] s6_addr
    cdef struct sockaddr_in6:
        in6_addr sin6_addr

cdef enum:
    MIN_CAPACITY = 64

# IPv4 addresses are kept where IPv6 maps them (RFC 4291, 2.5.5.2), so both ways to write one count together.
cdef unsigned long long MAPPED = 0xFFFF00000000


# --- keys ---

cdef unsigned long long load_u64(const uint8_t* data) noexcept nogil:
    cdef:
        unsigned long long number = 0
        int i
    for i in range(8):
        number = number << 8 | data[i]
    return number


cdef bint key_of_sockaddr(const void* address, unsigned long long* key) noexcept nogil:
    cdef:
        int family = (<const sockaddr*>address).sa_family
        uint8_t[16] data
    if family == AF_INET:
        key[0] = MAPPED | ntohl((<const sockaddr_in*>address).sin_addr.s_addr)
        return True
    if family != AF_INET6:
        return False
    memcpy(&data[0], &(<const sockaddr_in6*>address).sin6_addr, 16)
    key[0] = load_u64(&data[0])
    if key[0] == 0 and load_u64(&data[8]) >> 32 == 0xFFFF:
        key[0] = load_u64(&data[8])
    return True


cdef unsigned long long key_of(object address) except? 0:
    if address.version == 4:
        return MAPPED | <unsigned long long>int(address)
    if address.ipv4_mapped is not None:
        return MAPPED | <unsigned long long>int(address.ipv4_mapped)
    return <unsigned long long>(int(address) >> 64)


cdef unsigned long long key_of_text(str text) except? 0:
    return key_of(ip_address(text))


cdef str text_of_key(unsigned long long key):
    if key >> 32 == MAPPED >> 32:
        return str(IPv4Address(<uint32_t>key))
    return f"{IPv6Address(int(key) << 64)}/64"


cdef bint is_without_limits(const Addresses* addresses, unsigned long long key) noexcept nogil:
    cdef int i
    for i in range(addresses.n_networks):
        if key & addresses.networks[i].mask == addresses.networks[i].key:
            return True
    return False


cdef int set_networks(Addresses* addresses, object networks) except -1:
    cdef:
        Network* network
        unsigned int n_bits, slot
    if len(networks) > MAX_NETWORKS:
        raise ValueError(f"at most {<int>MAX_NETWORKS} networks can be without limits")
    parsed = [ip_network(text) for text in networks]
    addresses.n_networks = 0
    for found in parsed:
        network = &addresses.networks[addresses.n_networks]
        n_bits = min(<unsigned int>found.prefixlen + (32 if found.version == 4 else 0), <unsigned int>64)
        network.mask = <unsigned long long>0xFFFFFFFFFFFFFFFF << (64 - n_bits) if n_bits else 0
        network.key = key_of(found.network_address) & network.mask
        addresses.n_networks += 1
    for slot in range(1, addresses.capacity):  # free ones are told when they are used
        addresses.slots[slot].is_unlimited = is_without_limits(addresses, addresses.slots[slot].key)
    return 0


# Reversible, so two keys never meet; secret, so nobody can pick addresses that lie together in the table.
cdef unsigned long long scrambled(unsigned long long key) noexcept nogil:
    cdef unsigned long long secret = hash_of(b"addresses", 9)
    return (key ^ secret) * (secret | 1)


# --- slots ---

cdef int grow(Addresses* addresses) noexcept nogil:
    cdef:
        unsigned int capacity = addresses.capacity * 2 if addresses.capacity else MIN_CAPACITY
        Address* slots = <Address*>realloc(addresses.slots, capacity * sizeof(Address))
        unsigned int slot = capacity
    if slots == NULL:
        return -1
    addresses.slots = slots
    memset(&slots[addresses.capacity], 0, (capacity - addresses.capacity) * sizeof(Address))
    while slot > max(addresses.capacity, <unsigned int>1):
        slot -= 1
        slots[slot].next = addresses.free
        addresses.free = slot
    addresses.capacity = capacity
    return 0


cdef void become_idle(Addresses* addresses, unsigned int slot, unsigned long long now_ms) noexcept nogil:
    cdef Address* address = &addresses.slots[slot]
    address.idle_since_ms = now_ms
    address.next = 0
    address.previous = addresses.newest_idle
    if address.previous:
        addresses.slots[address.previous].next = slot
    else:
        addresses.oldest_idle = slot
    addresses.newest_idle = slot
    addresses.n_idle += 1


cdef void end_idleness(Addresses* addresses, unsigned int slot) noexcept nogil:
    cdef Address* address = &addresses.slots[slot]
    if address.previous:
        addresses.slots[address.previous].next = address.next
    else:
        addresses.oldest_idle = address.next
    if address.next:
        addresses.slots[address.next].previous = address.previous
    else:
        addresses.newest_idle = address.previous
    addresses.n_idle -= 1


cdef void forget_oldest(Addresses* addresses) noexcept nogil:
    cdef unsigned int slot = addresses.oldest_idle
    end_idleness(addresses, slot)
    table_remove(&addresses.places, scrambled(addresses.slots[slot].key))
    addresses.slots[slot].next = addresses.free
    addresses.free = slot


cdef unsigned int address_find(
    Addresses* addresses, unsigned long long key, unsigned int burst, unsigned long long now_ms
) noexcept nogil:
    cdef:
        unsigned long long place = scrambled(key)
        unsigned int slot = <unsigned int><size_t>table_get(&addresses.places, place)
        Address* address
    if slot:
        return slot
    if addresses.n_idle >= MAX_IDLE_ADDRESSES:
        forget_oldest(addresses)
    if addresses.free == 0 and grow(addresses) < 0:
        return NO_ADDRESS
    slot = addresses.free
    if table_put(&addresses.places, place, <void*><size_t>slot) < 0:
        return NO_ADDRESS
    address = &addresses.slots[slot]
    addresses.free = address.next
    address.key = key
    address.n_connections = 0
    address.is_unlimited = is_without_limits(addresses, key)
    bucket_init(&address.accepts, burst, <long long>now_ms)
    become_idle(addresses, slot, now_ms)
    return slot


cdef void address_enter(Addresses* addresses, unsigned int slot) noexcept nogil:
    if slot == NO_ADDRESS:
        return
    if addresses.slots[slot].n_connections == 0:
        end_idleness(addresses, slot)
    addresses.slots[slot].n_connections += 1


cdef void address_leave(Addresses* addresses, unsigned int slot, unsigned long long now_ms) noexcept nogil:
    if slot == NO_ADDRESS:
        return
    addresses.slots[slot].n_connections -= 1
    if addresses.slots[slot].n_connections == 0:
        become_idle(addresses, slot, now_ms)


cdef void addresses_forget(
    Addresses* addresses, unsigned long long now_ms, unsigned long long memory_ms
) noexcept nogil:
    while addresses.oldest_idle and addresses.slots[addresses.oldest_idle].idle_since_ms + memory_ms <= now_ms:
        forget_oldest(addresses)


cdef void addresses_free(Addresses* addresses) noexcept nogil:
    table_free(&addresses.places)
    free(addresses.slots)
    memset(addresses, 0, sizeof(Addresses))
