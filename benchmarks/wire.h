/*
 * The part of docs/protocol.md that the bare C server and the load generator speak: integers, frame headers, and just
 * enough MessagePack to find a key in a map. Bounds are checked on everything that came from a socket; it holds no state
 * and does no I/O.
 */
#ifndef CHATCORE_BENCHMARKS_WIRE_H
#define CHATCORE_BENCHMARKS_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    FRAME_HELLO = 0x01,
    FRAME_WELCOME = 0x02,
    FRAME_PING = 0x03,
    FRAME_PONG = 0x04,
    FRAME_GOAWAY = 0x05,
    FRAME_CLOSE = 0x06,
    FRAME_SEND = 0x10,
    FRAME_ACK = 0x11,
    FRAME_REFUSED = 0x12,
    FRAME_DELIVER = 0x13,
    FRAME_SIGNAL = 0x14,
    FRAME_GAP = 0x15,
    FRAME_REQUEST = 0x20,
    FRAME_REPLY = 0x21,
    FRAME_FAILED = 0x22,
    FRAME_EVENT = 0x23,
};

enum {
    OPERATION_JOIN = 1,
    SIGNAL_APPLICATION = 128, /* the first signal kind that belongs to the game */

    HEADER_SIZE = 4,
    HELLO_PREFIX_SIZE = 8,
    PING_SIZE = 8,
    SEND_PREFIX_SIZE = 13,
    ACK_SIZE = 24,
    DELIVER_PREFIX_SIZE = 38,
    SIGNAL_PREFIX_SIZE = 6,
    REQUEST_PREFIX_SIZE = 5,
    REPLY_PREFIX_SIZE = 4,
    ERROR_PREFIX_SIZE = 8,
    MAX_NAME_SIZE = 64,
};

static inline void put_u16(uint8_t *at, uint16_t value)
{
    value = __builtin_bswap16(value);
    memcpy(at, &value, sizeof value);
}

static inline void put_u32(uint8_t *at, uint32_t value)
{
    value = __builtin_bswap32(value);
    memcpy(at, &value, sizeof value);
}

static inline void put_u64(uint8_t *at, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(at, &value, sizeof value);
}

static inline uint16_t get_u16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return __builtin_bswap16(value);
}

static inline uint32_t get_u32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return __builtin_bswap32(value);
}

static inline uint64_t get_u64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return __builtin_bswap64(value);
}

static inline void put_header(uint8_t *at, size_t body_length, uint8_t type)
{
    put_u32(at, (uint32_t)(body_length << 8 | type));
}

/* Bytes that are still to be read. */
struct span {
    const uint8_t *at;
    const uint8_t *end;
};

static inline size_t span_size(struct span span)
{
    return (size_t)(span.end - span.at);
}

/* A big-endian integer of `size` bytes; the caller has checked that it is there. */
static inline uint64_t msgpack_integer(const uint8_t *at, size_t size)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++)
        value = value << 8 | at[i];
    return value;
}

/* What the next value is: how many bytes its head has, how many follow it, how many values lie inside it. */
struct msgpack_shape {
    size_t head;
    uint64_t payload;
    uint64_t children;
};

static inline bool msgpack_shape(struct span in, struct msgpack_shape *shape)
{
    if (in.at >= in.end)
        return false;
    uint8_t tag = *in.at;
    size_t size_field = 0; /* bytes of a length that follows the tag */
    uint64_t extra = 0;
    *shape = (struct msgpack_shape){.head = 1};
    if (tag <= 0x7f || tag >= 0xe0 || (tag >= 0xc0 && tag <= 0xc3))
        return true;
    if (tag <= 0x8f) {
        shape->children = 2 * (uint64_t)(tag & 0x0f);
        return true;
    }
    if (tag <= 0x9f) {
        shape->children = tag & 0x0f;
        return true;
    }
    if (tag <= 0xbf) {
        shape->payload = tag & 0x1f;
        return true;
    }
    switch (tag) {
    case 0xca: case 0xce: case 0xd2: shape->payload = 4; return true;
    case 0xcb: case 0xcf: case 0xd3: shape->payload = 8; return true;
    case 0xcc: case 0xd0: shape->payload = 1; return true;
    case 0xcd: case 0xd1: shape->payload = 2; return true;
    case 0xc4: case 0xd9: size_field = 1; break;
    case 0xc5: case 0xda: case 0xdc: case 0xde: size_field = 2; break;
    case 0xc6: case 0xdb: case 0xdd: case 0xdf: size_field = 4; break;
    case 0xc7: size_field = 1; extra = 1; break;
    case 0xc8: size_field = 2; extra = 1; break;
    case 0xc9: size_field = 4; extra = 1; break;
    default: shape->payload = 1 + ((uint64_t)1 << (tag - 0xd4)); return true; /* fixext 1-16 */
    }
    if (span_size(in) < 1 + size_field)
        return false;
    uint64_t length = msgpack_integer(in.at + 1, size_field);
    shape->head = 1 + size_field;
    if (tag == 0xdc || tag == 0xdd)
        shape->children = length;
    else if (tag == 0xde || tag == 0xdf)
        shape->children = 2 * length;
    else
        shape->payload = length + extra;
    return true;
}

/* Steps over one value, whatever lies inside it. */
static inline bool msgpack_skip(struct span *in)
{
    for (uint64_t values = 1; values > 0; values--) {
        struct msgpack_shape shape;
        if (!msgpack_shape(*in, &shape) || span_size(*in) - shape.head < shape.payload)
            return false;
        in->at += shape.head + shape.payload;
        values += shape.children;
    }
    return true;
}

/* Sets `value` to what the map holds under `key`; false if it is not there or the bytes are no map. */
static inline bool msgpack_find(struct span map, const char *key, struct span *value)
{
    struct msgpack_shape shape;
    if (!msgpack_shape(map, &shape) || shape.children % 2 != 0 || (*map.at & 0xf0) == 0x90)
        return false;
    map.at += shape.head;
    for (uint64_t pairs = shape.children / 2; pairs > 0; pairs--) {
        struct msgpack_shape name;
        if (!msgpack_shape(map, &name) || span_size(map) - name.head < name.payload)
            return false;
        bool found = name.children == 0 && name.payload == strlen(key) && memcmp(map.at + name.head, key, strlen(key)) == 0;
        if (!msgpack_skip(&map))
            return false;
        *value = map;
        if (!msgpack_skip(&map))
            return false;
        value->end = map.at;
        if (found)
            return true;
    }
    return false;
}

static inline bool msgpack_find_unsigned(struct span map, const char *key, uint64_t *number)
{
    struct span value;
    if (!msgpack_find(map, key, &value))
        return false;
    uint8_t tag = *value.at;
    if (tag <= 0x7f) {
        *number = tag;
        return true;
    }
    if (tag < 0xcc || tag > 0xcf)
        return false;
    *number = msgpack_integer(value.at + 1, (size_t)1 << (tag - 0xcc));
    return true;
}

static inline bool msgpack_find_text(struct span map, const char *key, struct span *text)
{
    struct msgpack_shape shape;
    if (!msgpack_find(map, key, text) || !msgpack_shape(*text, &shape) || shape.children != 0)
        return false;
    text->at += shape.head;
    return true;
}

/* Writes a text of up to 65,535 bytes and returns what comes after it. */
static inline uint8_t *msgpack_put_text(uint8_t *at, const char *text, size_t size)
{
    if (size < 32) {
        *at++ = (uint8_t)(0xa0 | size);
    } else if (size < 256) {
        *at++ = 0xd9;
        *at++ = (uint8_t)size;
    } else {
        *at++ = 0xda;
        put_u16(at, (uint16_t)size);
        at += 2;
    }
    memcpy(at, text, size);
    return at + size;
}

static inline uint8_t *msgpack_put_unsigned(uint8_t *at, uint64_t number)
{
    *at++ = 0xcf;
    put_u64(at, number);
    return at + 8;
}

#endif
