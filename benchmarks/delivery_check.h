/*
 * Was every message of a sender delivered to a receiver exactly once and in the sender's order? One `stream` per
 * (receiver, sender) and one tally for all of them; neither knows what a message is.
 */
#ifndef CHATCORE_BENCHMARKS_DELIVERY_CHECK_H
#define CHATCORE_BENCHMARKS_DELIVERY_CHECK_H

#include <stdbool.h>
#include <stdint.h>

enum { STREAM_MEMORY = 64 }; /* how many sequence numbers back a late one is told from a repeated one */

struct stream {
    uint64_t next; /* the lowest number above all that came */
    uint64_t seen; /* bit i: next - 1 - i came */
};

struct tally {
    uint64_t delivered; /* every number once */
    uint64_t lost;      /* skipped and not come since */
    uint64_t duplicated;
    uint64_t out_of_order;
};

/* A delivery has come. True if it is the first with this number. */
static inline bool stream_note(struct stream *stream, struct tally *tally, uint64_t number)
{
    if (number >= stream->next) {
        uint64_t skipped = number - stream->next;
        tally->lost += skipped;
        stream->seen = skipped + 1 < STREAM_MEMORY ? stream->seen << (skipped + 1) | 1 : 1;
        stream->next = number + 1;
        tally->delivered++;
        return true;
    }
    uint64_t back = stream->next - 1 - number;
    if (back >= STREAM_MEMORY || stream->seen >> back & 1) {
        tally->duplicated++; /* from beyond the memory: as wrong, and called so */
        return false;
    }
    stream->seen |= (uint64_t)1 << back;
    tally->out_of_order++;
    tally->lost--;
    tally->delivered++;
    return true;
}

/* The sender has sent the numbers below `sent` and nothing more will come. */
static inline void stream_end(const struct stream *stream, struct tally *tally, uint64_t sent)
{
    if (sent > stream->next)
        tally->lost += sent - stream->next;
}

#endif
