/*
 * The limit: a chat server reduced to what no server can do without. One process, one epoll set, one recv per readable
 * connection and turn, one send per connection and turn. What another server costs above it is the price of its
 * features.
 *
 * It speaks the frames of docs/protocol.md that load_generator.c sends, and never does what a server is for: the token is
 * taken as the player's name, nothing checks that a sender is in the channel, messages get an id but go to no log and into
 * no hash, nobody has limits, heartbeats, history or permissions, and output waits for a slow receiver without a bound.
 *
 * limit_server [--host H] [--port P] [--break drop|double|swap N]
 *
 * prints "limit ready tcp=HOST:PORT" when it accepts connections. --break makes the Nth delivery fail, so that the load
 * generator's check can be checked.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "output.h"
#include "wire.h"

enum {
    MAX_EVENTS = 512,          /* as the real server's turn */
    RECEIVE_SIZE = 65536,      /* as the real server's, shared by all connections */
    MAX_INBOUND_BODY = 4096,   /* as the protocol's default */
    MAX_JOINED = 4,            /* rooms of one connection; the load generator joins one or two */
    N_BUCKETS = 4096,
};

struct room {
    struct room *next_in_bucket;
    struct connection **members;
    uint32_t number;
    uint32_t n_members;
    uint32_t room_for; /* members that fit */
    uint64_t last_id;
    size_t name_size;
    char name[];
};

struct connection {
    int fd;
    bool dirty;
    bool blocked; /* the kernel's buffer is full: EPOLLOUT is asked for */
    bool gone;
    uint8_t player_size;
    uint8_t n_joined;
    uint32_t rest_size;
    struct output output;
    uint8_t *rest;   /* the unfinished frame, otherwise NULL */
    char *player;
    struct {
        uint32_t room;
        uint32_t position; /* in the room's members */
    } joined[MAX_JOINED];
};

static int poller;
static uint64_t next_id = 1;
static uint64_t now_ms; /* read once a turn */

static struct room *buckets[N_BUCKETS];
static struct room **rooms; /* by number; number 0 is nobody's */
static uint32_t n_rooms = 1;

static struct connection **dirty;
static size_t n_dirty, dirty_capacity;
static struct connection **gone; /* to be freed at the turn's end, when no event can name them any more */
static size_t n_gone, gone_capacity;

static enum { BREAK_NOTHING, BREAK_DROP, BREAK_DOUBLE, BREAK_SWAP } break_kind;
static uint64_t break_at, n_delivered;
static struct connection *swapped_receiver;
static uint8_t swapped_frame[HEADER_SIZE + DELIVER_PREFIX_SIZE + MAX_NAME_SIZE + MAX_INBOUND_BODY];
static size_t swapped_size;

static void die(const char *what)
{
    fprintf(stderr, "limit_server: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void push(struct connection ***list, size_t *n, size_t *capacity, struct connection *connection)
{
    if (*n == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 256;
        *list = or_die(realloc(*list, *capacity * sizeof **list));
    }
    (*list)[(*n)++] = connection;
}

/* Output */

/* Room for `size` more bytes of output; the connection is flushed at the turn's end. */
static inline uint8_t *reserve(struct connection *connection, size_t size)
{
    if (!connection->dirty) {
        connection->dirty = true;
        push(&dirty, &n_dirty, &dirty_capacity, connection);
    }
    return output_reserve(&connection->output, size);
}

static inline void append(struct connection *connection, const uint8_t *frame, size_t size)
{
    memcpy(reserve(connection, size), frame, size);
}

static void append_broken(struct connection *receiver, const uint8_t *frame, size_t size)
{
    n_delivered++;
    if (swapped_receiver == receiver) {
        append(receiver, frame, size);
        append(receiver, swapped_frame, swapped_size);
        swapped_receiver = NULL;
    } else if (n_delivered != break_at) {
        append(receiver, frame, size);
    } else if (break_kind == BREAK_DOUBLE) {
        append(receiver, frame, size);
        append(receiver, frame, size);
    } else if (break_kind == BREAK_SWAP) {
        memcpy(swapped_frame, frame, size);
        swapped_size = size;
        swapped_receiver = receiver;
    }
}

static void fan_out(const struct room *room, const struct connection *except, const uint8_t *frame, size_t size)
{
    for (uint32_t i = 0; i < room->n_members; i++) {
        struct connection *receiver = room->members[i];
        if (receiver == except)
            continue;
        if (__builtin_expect(break_kind != BREAK_NOTHING, 0))
            append_broken(receiver, frame, size);
        else
            append(receiver, frame, size);
    }
}

/* Rooms */

static uint32_t hash_name(const uint8_t *name, size_t size)
{
    uint32_t hash = 2166136261u; /* FNV-1a 32 */
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ name[i]) * 16777619u;
    return hash;
}

static struct room *find_or_create_room(const uint8_t *name, size_t size)
{
    struct room **bucket = &buckets[hash_name(name, size) % N_BUCKETS];
    for (struct room *room = *bucket; room != NULL; room = room->next_in_bucket)
        if (room->name_size == size && memcmp(room->name, name, size) == 0)
            return room;
    struct room *room = or_die(calloc(1, sizeof *room + size));
    memcpy(room->name, name, size);
    room->name_size = size;
    room->next_in_bucket = *bucket;
    room->number = n_rooms;
    *bucket = room;
    rooms = or_die(realloc(rooms, (n_rooms + 1) * sizeof *rooms));
    rooms[n_rooms++] = room;
    return room;
}

static struct room *room_of(uint32_t number)
{
    return number > 0 && number < n_rooms ? rooms[number] : NULL;
}

static bool enter(struct connection *connection, struct room *room)
{
    for (uint8_t i = 0; i < connection->n_joined; i++)
        if (connection->joined[i].room == room->number)
            return true;
    if (connection->n_joined == MAX_JOINED)
        return false;
    if (room->n_members == room->room_for) {
        room->room_for = room->room_for ? 2 * room->room_for : 4;
        room->members = or_die(realloc(room->members, room->room_for * sizeof *room->members));
    }
    connection->joined[connection->n_joined].room = room->number;
    connection->joined[connection->n_joined++].position = room->n_members;
    room->members[room->n_members++] = connection;
    return true;
}

static void leave_all(struct connection *connection)
{
    for (uint8_t i = 0; i < connection->n_joined; i++) {
        struct room *room = rooms[connection->joined[i].room];
        uint32_t position = connection->joined[i].position;
        struct connection *last = room->members[--room->n_members];
        room->members[position] = last;
        for (uint8_t j = 0; j < last->n_joined; j++)
            if (last->joined[j].room == room->number)
                last->joined[j].position = position;
    }
    connection->n_joined = 0;
}

/* Frames */

/* Each on_... returns false if the connection broke the protocol and is to be closed. */

static bool on_hello(struct connection *connection, struct span body)
{
    struct span options = {body.at + HELLO_PREFIX_SIZE, body.end};
    struct span token;
    if (span_size(body) < HELLO_PREFIX_SIZE || !msgpack_find_text(options, "token", &token))
        return false;
    size_t size = span_size(token);
    if (size == 0 || size > MAX_NAME_SIZE || connection->player != NULL)
        return false;
    connection->player = or_die(malloc(size));
    connection->player_size = (uint8_t)size;
    memcpy(connection->player, token.at, size);

    uint8_t welcome[256];
    uint8_t *at = welcome + HEADER_SIZE;
    *at++ = 0x83;
    at = msgpack_put_text(at, "player", 6);
    at = msgpack_put_text(at, connection->player, size);
    at = msgpack_put_text(at, "heartbeat_ms", 12);
    at = msgpack_put_unsigned(at, 30000);
    at = msgpack_put_text(at, "limits", 6);
    *at++ = 0x82;
    at = msgpack_put_text(at, "body_bytes", 10);
    at = msgpack_put_unsigned(at, MAX_INBOUND_BODY - SEND_PREFIX_SIZE);
    at = msgpack_put_text(at, "unacked_sends", 13);
    at = msgpack_put_unsigned(at, 128);
    put_header(welcome, (size_t)(at - welcome) - HEADER_SIZE, FRAME_WELCOME);
    append(connection, welcome, (size_t)(at - welcome));
    return true;
}

static bool on_request(struct connection *connection, struct span body)
{
    struct span options = {body.at + REQUEST_PREFIX_SIZE, body.end};
    struct span channel;
    if (span_size(body) < REQUEST_PREFIX_SIZE || body.at[4] != OPERATION_JOIN || connection->player == NULL)
        return false;
    if (!msgpack_find_text(options, "channel", &channel) || span_size(channel) > 132)
        return false;
    struct room *room = find_or_create_room(channel.at, span_size(channel));
    if (!enter(connection, room))
        return false;

    uint8_t reply[256];
    memcpy(reply + HEADER_SIZE, body.at, REPLY_PREFIX_SIZE);
    uint8_t *at = reply + HEADER_SIZE + REPLY_PREFIX_SIZE;
    *at++ = 0x84;
    at = msgpack_put_text(at, "channel", 7);
    at = msgpack_put_text(at, room->name, room->name_size);
    at = msgpack_put_text(at, "number", 6);
    at = msgpack_put_unsigned(at, room->number);
    at = msgpack_put_text(at, "head", 4);
    at = msgpack_put_unsigned(at, room->last_id);
    at = msgpack_put_text(at, "hash", 4);
    at = msgpack_put_unsigned(at, 0);
    put_header(reply, (size_t)(at - reply) - HEADER_SIZE, FRAME_REPLY);
    append(connection, reply, (size_t)(at - reply));
    return true;
}

static bool on_signal(struct connection *connection, struct span body)
{
    if (span_size(body) < SIGNAL_PREFIX_SIZE || body.at[5] != 0 || connection->player == NULL)
        return false;
    struct room *room = room_of(get_u32(body.at));
    if (room == NULL)
        return false;
    uint8_t frame[HEADER_SIZE + SIGNAL_PREFIX_SIZE + MAX_NAME_SIZE + MAX_INBOUND_BODY];
    size_t text_size = span_size(body) - SIGNAL_PREFIX_SIZE;
    size_t body_size = SIGNAL_PREFIX_SIZE + connection->player_size + text_size;
    uint8_t *at = frame + HEADER_SIZE;
    put_header(frame, body_size, FRAME_SIGNAL);
    memcpy(at, body.at, SIGNAL_PREFIX_SIZE);
    at[5] = connection->player_size;
    memcpy(at + SIGNAL_PREFIX_SIZE, connection->player, connection->player_size);
    memcpy(at + SIGNAL_PREFIX_SIZE + connection->player_size, body.at + SIGNAL_PREFIX_SIZE, text_size);
    fan_out(room, connection, frame, HEADER_SIZE + body_size);
    return true;
}

static bool on_send(struct connection *connection, struct span body)
{
    if (span_size(body) < SEND_PREFIX_SIZE || connection->player == NULL)
        return false;
    struct room *room = room_of(get_u32(body.at + 8));
    if (room == NULL)
        return false;
    uint64_t id = next_id++;

    uint8_t *ack = reserve(connection, HEADER_SIZE + ACK_SIZE);
    put_header(ack, ACK_SIZE, FRAME_ACK);
    memcpy(ack + HEADER_SIZE, body.at, 8);
    put_u64(ack + HEADER_SIZE + 8, id);
    put_u64(ack + HEADER_SIZE + 16, now_ms);

    uint8_t frame[HEADER_SIZE + DELIVER_PREFIX_SIZE + MAX_NAME_SIZE + MAX_INBOUND_BODY];
    size_t text_size = span_size(body) - SEND_PREFIX_SIZE;
    size_t body_size = DELIVER_PREFIX_SIZE + connection->player_size + text_size;
    uint8_t *at = frame + HEADER_SIZE;
    put_header(frame, body_size, FRAME_DELIVER);
    put_u32(at, room->number);
    at[4] = 0;
    at[5] = connection->player_size;
    put_u64(at + 6, id);
    put_u64(at + 14, room->last_id);
    put_u64(at + 22, 0);
    put_u64(at + 30, now_ms);
    memcpy(at + DELIVER_PREFIX_SIZE, connection->player, connection->player_size);
    memcpy(at + DELIVER_PREFIX_SIZE + connection->player_size, body.at + SEND_PREFIX_SIZE, text_size);
    room->last_id = id;
    fan_out(room, NULL, frame, HEADER_SIZE + body_size);
    return true;
}

static bool on_ping(struct connection *connection, struct span body)
{
    if (span_size(body) != PING_SIZE)
        return false;
    uint8_t *pong = reserve(connection, HEADER_SIZE + PING_SIZE);
    put_header(pong, PING_SIZE, FRAME_PONG);
    memcpy(pong + HEADER_SIZE, body.at, PING_SIZE);
    return true;
}

static bool on_frame(struct connection *connection, uint8_t type, struct span body)
{
    switch (type) {
    case FRAME_SIGNAL: return on_signal(connection, body);
    case FRAME_SEND: return on_send(connection, body);
    case FRAME_PING: return on_ping(connection, body);
    case FRAME_REQUEST: return on_request(connection, body);
    case FRAME_HELLO: return on_hello(connection, body);
    default: return type == FRAME_PONG;
    }
}

/* Connections */

static void close_connection(struct connection *connection)
{
    if (connection->gone)
        return;
    connection->gone = true;
    leave_all(connection);
    if (swapped_receiver == connection)
        swapped_receiver = NULL;
    close(connection->fd);
    push(&gone, &n_gone, &gone_capacity, connection);
}

static void free_gone(void)
{
    for (size_t i = 0; i < n_gone; i++) {
        output_release(&gone[i]->output);
        free(gone[i]->rest);
        free(gone[i]->player);
        free(gone[i]);
    }
    n_gone = 0;
}

static void keep_rest(struct connection *connection, const uint8_t *at, size_t size)
{
    if (size == 0) {
        free(connection->rest);
        connection->rest = NULL;
    } else {
        connection->rest = or_die(realloc(connection->rest, size));
        memcpy(connection->rest, at, size);
    }
    connection->rest_size = (uint32_t)size;
}

static void receive(struct connection *connection)
{
    static uint8_t buffer[HEADER_SIZE + MAX_INBOUND_BODY + RECEIVE_SIZE];
    size_t held = connection->rest_size;
    if (held > 0)
        memcpy(buffer, connection->rest, held);
    ssize_t got = recv(connection->fd, buffer + held, RECEIVE_SIZE, 0);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            close_connection(connection);
        return;
    }
    const uint8_t *at = buffer;
    const uint8_t *end = buffer + held + got;
    while (end - at >= HEADER_SIZE) {
        uint32_t header = get_u32(at);
        size_t body_size = header >> 8;
        if (body_size > MAX_INBOUND_BODY) {
            close_connection(connection);
            return;
        }
        const uint8_t *body = at + HEADER_SIZE;
        if ((size_t)(end - body) < body_size)
            break;
        if (!on_frame(connection, (uint8_t)header, (struct span){body, body + body_size})) {
            close_connection(connection);
            return;
        }
        at = body + body_size;
    }
    if (held > 0 || at != end)
        keep_rest(connection, at, (size_t)(end - at));
}

static void watch(struct connection *connection, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(poller, operation, connection->fd, &event) != 0)
        die("epoll_ctl");
}

static void flush(struct connection *connection)
{
    connection->dirty = false;
    if (connection->gone)
        return;
    enum output_state state = output_send(&connection->output, connection->fd);
    if (state == OUTPUT_BROKEN) {
        close_connection(connection);
    } else if (connection->blocked != (state == OUTPUT_BLOCKED)) {
        connection->blocked = state == OUTPUT_BLOCKED;
        watch(connection, EPOLL_CTL_MOD, connection->blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
}

static void flush_dirty(void)
{
    for (size_t i = 0; i < n_dirty; i++)
        if (!dirty[i]->blocked)
            flush(dirty[i]);
        else
            dirty[i]->dirty = false; /* EPOLLOUT will say when */
    n_dirty = 0;
}

static void accept_all(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
                die("accept");
            return;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct connection *connection = or_die(calloc(1, sizeof *connection));
        connection->fd = fd;
        watch(connection, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static int open_listener(const char *host, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
        die("--host");
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 4096) != 0)
        die("listen");
    socklen_t size = sizeof address;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("limit ready tcp=%s:%d\n", host, ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void run(int listener)
{
    struct epoll_event events[MAX_EVENTS];
    struct epoll_event own = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, listener, &own) != 0)
        die("epoll_ctl");
    for (;;) {
        int n = epoll_wait(poller, events, MAX_EVENTS, -1);
        struct timespec now;
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
        now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
        for (int i = 0; i < n; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection == NULL) {
                accept_all(listener);
                continue;
            }
            if (!connection->gone && events[i].events & EPOLLOUT)
                flush(connection);
            if (!connection->gone && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive(connection);
        }
        flush_dirty();
        free_gone();
    }
}

static void usage(void)
{
    fputs("usage: limit_server [--host H] [--port P] [--break drop|double|swap N]\n", stderr);
    exit(2);
}

int main(int argc, char **argv)
{
    const char *host = "127.0.0.1";
    int port = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--host") == 0 && i + 1 < argc) {
            host = argv[++i];
        } else if (strcmp(argv[i], "--port") == 0 && i + 1 < argc) {
            port = atoi(argv[++i]);
        } else if (strcmp(argv[i], "--break") == 0 && i + 2 < argc) {
            const char *kind = argv[++i];
            break_kind = strcmp(kind, "drop") == 0     ? BREAK_DROP
                         : strcmp(kind, "double") == 0 ? BREAK_DOUBLE
                         : strcmp(kind, "swap") == 0   ? BREAK_SWAP
                                                       : BREAK_NOTHING;
            break_at = strtoull(argv[++i], NULL, 10);
            if (break_kind == BREAK_NOTHING || break_at == 0)
                usage();
        } else {
            usage();
        }
    }
    raise_descriptor_limit();
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(EPOLL_CLOEXEC);
    run(open_listener(host, port));
    return 0;
}
