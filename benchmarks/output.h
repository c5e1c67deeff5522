/*
 * The bytes that wait to be sent on a connection. An output has a buffer only while it holds something; free buffers of
 * the common size form a pool, so an idle connection costs no output memory and a busy one no malloc. Nothing here bounds
 * an output, and nothing here is thread safe.
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

/* Not a multiple of 4,096: buffers at equal page offsets would fight for the same cache sets. */
enum { POOLED_OUTPUT_SIZE = 2112 };

struct output {
    uint8_t *bytes;
    uint32_t size; /* bytes held, of which `sent` are out */
    uint32_t sent;
    uint32_t capacity;
};

static void *output_pool; /* free buffers, each starting with a pointer to the next */

static inline void *or_die(void *memory)
{
    if (memory == NULL) {
        perror("memory");
        exit(2);
    }
    return memory;
}

static inline void output_release(struct output *output)
{
    if (output->bytes == NULL)
        return;
    if (output->capacity == POOLED_OUTPUT_SIZE) {
        *(void **)output->bytes = output_pool;
        output_pool = output->bytes;
    } else {
        free(output->bytes);
    }
    *output = (struct output){0};
}

static inline uint8_t *output_take_pooled(void)
{
    void *buffer = output_pool;
    if (buffer == NULL)
        return or_die(malloc(POOLED_OUTPUT_SIZE));
    output_pool = *(void **)buffer;
    return buffer;
}

static void output_grow(struct output *output, size_t needed)
{
    if (output->bytes == NULL && needed <= POOLED_OUTPUT_SIZE) {
        output->bytes = output_take_pooled();
        output->capacity = POOLED_OUTPUT_SIZE;
        return;
    }
    struct output larger = {.size = output->size, .sent = output->sent, .capacity = 2 * POOLED_OUTPUT_SIZE};
    while (larger.capacity < needed)
        larger.capacity *= 2;
    larger.bytes = or_die(malloc(larger.capacity));
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
