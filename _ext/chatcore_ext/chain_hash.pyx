"""The rolling hash by which a client proves order and completeness (docs/protocol.md, "Hash"). No defence against
forgery."""


def chain_hash(uint64_t previous, uint64_t id, bytes sender not None, bytes body not None):
    if len(sender) > 255:
        raise ValueError("a sender's name has at most 255 bytes")
    return chain_next(previous, id, sender, len(sender), body, len(body))


def name_hash(bytes name not None):
    return fnv_bytes(fnv_offset_basis(), name, len(name))
