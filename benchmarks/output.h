/*
 * The bytes that wait to be sent on a connection. An output has a buffer only while it holds something; free buffers of
 * the two common sizes form pools, so an idle connection costs no output memory and a busy one no malloc. Nothing here
 * bounds an output, and nothing here is thread safe.
 */
#ifndef CHATCORE_BENCHMARKS_OUTPUT_H
#define CHATCORE_BENCHMARKS_OUTPUT_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/*
 * One message of the usual size, so that the buffers of a large room lie dense; and the messages of a busy turn. Neither
 * divides 4,096: buffers at equal page offsets would fight for the same cache sets.
 */
enum { SMALL_OUTPUT_SIZE = 192, POOLED_OUTPUT_SIZE = 2112 };

struct output {
    uint8_t *bytes;
    uint32_t size; /* bytes held, of which `sent` are out */
    uint32_t sent;
    uint32_t capacity;
};

static void *small_output_pool, *output_pool; /* free buffers, each starting with a pointer to the next */

static inline void *or_die(void *memory)
{
    if (memory == NULL) {
        perror("memory");
        exit(2);
    }
    return memory;
}

static inline void **output_pool_of(size_t capacity)
{
    return capacity == SMALL_OUTPUT_SIZE ? &small_output_pool : capacity == POOLED_OUTPUT_SIZE ? &output_pool : NULL;
}

static inline void output_release(struct output *output)
{
    if (output->bytes == NULL)
        return;
    void **pool = output_pool_of(output->capacity);
    if (pool != NULL) {
        *(void **)output->bytes = *pool;
        *pool = output->bytes;
    } else {
        free(output->bytes);
    }
    *output = (struct output){0};
}

static inline uint8_t *output_allocate(size_t capacity)
{
    void **pool = output_pool_of(capacity);
    if (pool == NULL || *pool == NULL)
        return or_die(malloc(capacity));
    void *buffer = *pool;
    *pool = *(void **)buffer;
    return buffer;
}

static void output_grow(struct output *output, size_t needed)
{
    struct output larger = {.size = output->size, .sent = output->sent, .capacity = SMALL_OUTPUT_SIZE};
    if (needed > SMALL_OUTPUT_SIZE)
        larger.capacity = POOLED_OUTPUT_SIZE;
    while (larger.capacity < needed)
        larger.capacity *= 2;
    larger.bytes = output_allocate(larger.capacity);
    if (output->bytes != NULL) {
        memcpy(larger.bytes, output->bytes, output->size);
        output_release(output);
    }
    *output = larger;
}

/* Where the next `size` bytes go. */
static inline uint8_t *output_reserve(struct output *output, size_t size)
{
    size_t needed = output->size + size;
    if (needed > output->capacity)
        output_grow(output, needed);
    uint8_t *at = output->bytes + output->size;
    output->size = (uint32_t)needed;
    return at;
}

enum output_state { OUTPUT_EMPTY, OUTPUT_BLOCKED, OUTPUT_BROKEN };

/* One send of all that is held. */
static inline enum output_state output_send(struct output *output, int fd)
{
    if (output->bytes == NULL)
        return OUTPUT_EMPTY;
    size_t size = output->size - output->sent;
    ssize_t sent = send(fd, output->bytes + output->sent, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR)
        return OUTPUT_BROKEN;
    if (sent == (ssize_t)size) {
        output_release(output);
        return OUTPUT_EMPTY;
    }
    output->sent += sent > 0 ? (uint32_t)sent : 0;
    return OUTPUT_BLOCKED;
}

#endif
