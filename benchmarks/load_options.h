/*
 * The load generator's command line. Nothing here opens or sends anything.
 */
#ifndef CHATCORE_BENCHMARKS_LOAD_OPTIONS_H
#define CHATCORE_BENCHMARKS_LOAD_OPTIONS_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_BODY_SIZE = 20, MAX_BODY_SIZE = 4000 };

struct options {
    const char *host;
    const char *tokens; /* file, one token per line; NULL: connection i says the token "p<i>" */
    int port;
    int server_pid; /* whose CPU clock to read; 0: nobody's */
    bool durable;   /* SEND and DELIVER instead of SIGNAL */
    bool idle;
    uint32_t n_rooms, n_members, n_talkers; /* members and talkers of each room */
    uint32_t n_channels;                    /* that each connection joins: its room and others in which nobody talks */
    uint32_t window;                        /* messages of a talker under way */
    double rate;                            /* messages/s of all talkers together; 0: closed loop */
    size_t body_size;
    double warm_seconds, seconds, stall_seconds;
};

static const char *const USAGE =
    "usage: load_generator --port P [options]\n"
    "  --host H            127.0.0.1\n"
    "  --tokens FILE       one token per line, one line per connection\n"
    "  --mode signals|messages\n"
    "  --rooms N           1\n"
    "  --members N         connections per room, 2\n"
    "  --talkers N         of each room, 1\n"
    "  --window N          closed loop: messages of a talker under way until all receivers have them, 1\n"
    "  --rate R            open loop instead: messages/s of all talkers together\n"
    "  --body N            bytes of a message, 128\n"
    "  --warm S --seconds S --stall S    0.5, 3, 3: unmeasured start, measured time, silence that ends a run\n"
    "  --server-pid PID    read this process's CPU clock around the measured time\n"
    "  --idle              connect and join, say so, and wait until standard input ends\n"
    "  --channels N        that each connection joins, 1\n";

static void usage(const char *wrong)
{
    if (wrong != NULL)
        fprintf(stderr, "load_generator: %s\n", wrong);
    fputs(USAGE, stderr);
    exit(2);
}

static double number_option(const char *text, double lowest, double highest)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= lowest && value <= highest))
        usage("a number is missing or out of its range");
    return value;
}

static struct options read_options(int argc, char **argv)
{
    enum {
        HOST, PORT, TOKENS, MODE, ROOMS, MEMBERS, TALKERS, WINDOW, RATE, BODY, WARM, SECONDS, STALL, SERVER_PID, IDLE, CHANNELS
    };
    static const struct option names[] = {
        {"host", 1, 0, HOST}, {"port", 1, 0, PORT}, {"tokens", 1, 0, TOKENS}, {"mode", 1, 0, MODE}, {"rooms", 1, 0, ROOMS},
        {"members", 1, 0, MEMBERS}, {"talkers", 1, 0, TALKERS}, {"window", 1, 0, WINDOW}, {"rate", 1, 0, RATE},
        {"body", 1, 0, BODY}, {"warm", 1, 0, WARM}, {"seconds", 1, 0, SECONDS}, {"stall", 1, 0, STALL},
        {"server-pid", 1, 0, SERVER_PID}, {"idle", 0, 0, IDLE}, {"channels", 1, 0, CHANNELS}, {0},
    };
    struct options options = {
        .host = "127.0.0.1", .n_rooms = 1, .n_members = 2, .n_talkers = 1, .n_channels = 1, .window = 1, .body_size = 128,
        .warm_seconds = 0.5, .seconds = 3, .stall_seconds = 3,
    };
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (name) {
        case HOST: options.host = optarg; break;
        case PORT: options.port = (int)number_option(optarg, 1, 65535); break;
        case TOKENS: options.tokens = optarg; break;
        case MODE:
            options.durable = strcmp(optarg, "messages") == 0;
            if (!options.durable && strcmp(optarg, "signals") != 0)
                usage("--mode is signals or messages");
            break;
        case ROOMS: options.n_rooms = (uint32_t)number_option(optarg, 1, 1e6); break;
        case MEMBERS: options.n_members = (uint32_t)number_option(optarg, 1, 1e6); break;
        case TALKERS: options.n_talkers = (uint32_t)number_option(optarg, 1, 1e6); break;
        case WINDOW: options.window = (uint32_t)number_option(optarg, 1, 65536); break;
        case RATE: options.rate = number_option(optarg, 0.01, 1e8); break;
        case BODY: options.body_size = (size_t)number_option(optarg, MIN_BODY_SIZE, MAX_BODY_SIZE); break;
        case WARM: options.warm_seconds = number_option(optarg, 0, 3600); break;
        case SECONDS: options.seconds = number_option(optarg, 0.01, 3600); break;
        case STALL: options.stall_seconds = number_option(optarg, 0.1, 3600); break;
        case SERVER_PID: options.server_pid = (int)number_option(optarg, 1, 1e9); break;
        case IDLE: options.idle = true; break;
        case CHANNELS: options.n_channels = (uint32_t)number_option(optarg, 1, 16); break;
        default: usage(NULL);
        }
    }
    if (options.port == 0 || optind != argc)
        usage("--port is needed, and nothing but options");
    if (options.n_talkers > options.n_members || (!options.durable && options.n_members < 2))
        usage("a room needs as many members as talkers, and a signal somebody else");
    return options;
}

#endif
