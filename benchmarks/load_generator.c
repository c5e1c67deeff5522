/*
 * Drives a chat server with many connections and checks every delivery: a message counts when all of its receivers have
 * it, each exactly once and in its sender's order. Knows a server only by docs/protocol.md and, if told, by its process
 * id, whose CPU clock it reads. One process, one epoll set; it sleeps when there is nothing to do, so the server pays for
 * waking it, as it would for a real client.
 *
 * Closed loop: each talker has --window messages under way and sends the next when one has arrived everywhere. Open loop:
 * messages at a rate, and latency counts from when a message was due, so a late one cannot hide.
 *
 * Prints one line of JSON. Exit code 0: all deliveries right; 1: some were not; 2: it could not do its work.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>

#include "load_options.h"
#include "load_report.h"
#include "output.h"
#include "wire.h"

enum {
    MAX_EVENTS = 1024,
    RECEIVE_SIZE = 262144,
    MAX_FRAME_SIZE = 65536, /* of what a server sends to us; larger than anything that these loads call forth */
    MAX_TOKEN_SIZE = 2048,
    MAX_HANDSHAKES = 64,              /* connections under way at once while the load is set up */
    CONNECTIONS_PER_ADDRESS = 20000,  /* then the next source address: a port is used once per address */
    LINGER_MS = 100,                  /* after the last expected delivery, for repeated ones */
};

struct connection {
    int fd;
    uint32_t index;
    uint32_t room;
    uint32_t number;    /* of its room, as the server told it */
    uint32_t n_replies; /* to its join requests */
    uint32_t rest_size;
    uint8_t *rest; /* the unfinished frame */
    struct output output;
    struct talker *talker;  /* NULL: only listens */
    struct stream *streams; /* one per talker of its room */
    uint64_t last_id;
    uint64_t last_sent_ns;
    bool dirty;
    bool blocked;
    uint8_t name_size;
    char name[MAX_NAME_SIZE];
};

struct under_way {
    uint32_t missing; /* receivers that do not have it yet */
    bool unacked;
};

struct talker {
    struct connection *connection;
    uint64_t sent;   /* also the next message's number */
    uint64_t due;    /* open loop: how many should have been sent by now */
    uint64_t answered;
    struct under_way *under_way; /* by number modulo window; closed loop only */
};

enum phase { PHASE_CONNECT, PHASE_IDLE, PHASE_WARM, PHASE_MEASURE, PHASE_DRAIN };

static struct options options;
static int poller, timer;
static struct sockaddr_in server_address;
static FILE *tokens;
static struct connection *connections;
static struct talker *talkers;
static uint32_t n_talkers, n_receivers; /* receivers: of one message */
static uint32_t n_started, n_ready;
static uint32_t unacked_limit = UINT32_MAX;
static uint64_t ping_after_ns;

static enum phase phase;
static uint64_t now_ns, phase_end_ns, last_progress_ns, last_ping_scan_ns, schedule_start_ns;
static uint64_t n_scheduled;
static struct report report;
static uint64_t n_answered;
static struct connection **dirty;
static uint32_t n_dirty;

/* Sending */

static uint8_t *start_frame(struct connection *connection, uint8_t type, size_t body_size)
{
    if (!connection->dirty) {
        connection->dirty = true;
        dirty[n_dirty++] = connection;
    }
    connection->last_sent_ns = now_ns;
    uint8_t *frame = output_reserve(&connection->output, HEADER_SIZE + body_size);
    put_header(frame, body_size, type);
    return frame + HEADER_SIZE;
}

static void send_hello(struct connection *connection)
{
    char token[MAX_TOKEN_SIZE + 2];
    size_t size;
    if (tokens == NULL) {
        size = (size_t)sprintf(token, "p%06" PRIu32, connection->index);
    } else {
        if (fgets(token, sizeof token, tokens) == NULL)
            die("--tokens has fewer than %" PRIu32 " lines", report.n_connections);
        size = strcspn(token, "\r\n");
    }
    uint8_t options_map[MAX_TOKEN_SIZE + 16];
    uint8_t *end = options_map;
    *end++ = 0x81;
    end = msgpack_put_text(end, "token", 5);
    end = msgpack_put_text(end, token, size);
    uint8_t *body = start_frame(connection, FRAME_HELLO, HELLO_PREFIX_SIZE + (size_t)(end - options_map));
    memcpy(body, "chat\1\0\0\0", HELLO_PREFIX_SIZE);
    memcpy(body + HELLO_PREFIX_SIZE, options_map, (size_t)(end - options_map));
}

/* Channel 0 is the room of the load; in the others nobody talks. */
static void send_join(struct connection *connection, uint32_t channel)
{
    char name[MAX_NAME_SIZE];
    uint8_t map[128];
    int size = sprintf(name, "room:load-%" PRIu32 "-%" PRIu32, channel, connection->room);
    uint8_t *end = map;
    *end++ = 0x81;
    end = msgpack_put_text(end, "channel", 7);
    end = msgpack_put_text(end, name, (size_t)size);
    uint8_t *body = start_frame(connection, FRAME_REQUEST, REQUEST_PREFIX_SIZE + (size_t)(end - map));
    put_u32(body, channel);
    body[4] = OPERATION_JOIN;
    memcpy(body + REQUEST_PREFIX_SIZE, map, (size_t)(end - map));
}

static void send_message(struct talker *talker, uint64_t due_ns)
{
    struct connection *connection = talker->connection;
    uint8_t *at;
    if (options.durable) {
        at = start_frame(connection, FRAME_SEND, SEND_PREFIX_SIZE + options.body_size);
        put_u64(at, talker->sent + 1);
        put_u32(at + 8, connection->number);
        at[12] = 0;
        at += SEND_PREFIX_SIZE;
    } else {
        at = start_frame(connection, FRAME_SIGNAL, SIGNAL_PREFIX_SIZE + options.body_size);
        put_u32(at, connection->number);
        at[4] = SIGNAL_APPLICATION;
        at[5] = 0;
        at += SIGNAL_PREFIX_SIZE;
    }
    put_u64(at, talker->sent++);
    put_u64(at + 8, due_ns);
    put_u32(at + 16, connection->index);
    memset(at + MIN_BODY_SIZE, 'x', options.body_size - MIN_BODY_SIZE);
    report.n_messages++;
}

static void fill_window(struct talker *talker)
{
    for (;;) {
        struct under_way *slot = &talker->under_way[talker->sent % options.window];
        if (slot->missing > 0 || slot->unacked)
            return;
        *slot = (struct under_way){n_receivers, options.durable};
        send_message(talker, now_ns);
    }
}

static uint64_t due_ns(uint64_t index)
{
    return schedule_start_ns + (uint64_t)((double)index * 1e9 / options.rate);
}

static void send_due(struct talker *talker)
{
    while (talker->sent < talker->due && talker->sent - talker->answered < unacked_limit)
        send_message(talker, due_ns(talker->sent * n_talkers + (uint64_t)(talker - talkers)));
}

static void send_scheduled(void)
{
    while (due_ns(n_scheduled) <= now_ns) {
        struct talker *talker = &talkers[n_scheduled++ % n_talkers];
        talker->due++;
        send_due(talker);
    }
    uint64_t next = due_ns(n_scheduled);
    struct itimerspec spec = {.it_value = {(time_t)(next / 1000000000), (long)(next % 1000000000)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &spec, NULL);
}

static void proceed(struct talker *talker)
{
    if (phase == PHASE_DRAIN)
        return;
    if (options.rate > 0)
        send_due(talker);
    else
        fill_window(talker);
}

static void watch(struct connection *connection, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(poller, operation, connection->fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
}

static void flush(struct connection *connection)
{
    enum output_state state = output_send(&connection->output, connection->fd);
    if (state == OUTPUT_BROKEN)
        die("connection %" PRIu32 ": %s", connection->index, strerror(errno));
    if (connection->blocked != (state == OUTPUT_BLOCKED)) {
        connection->blocked = state == OUTPUT_BLOCKED;
        watch(connection, EPOLL_CTL_MOD, connection->blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
}

static void flush_dirty(void)
{
    for (uint32_t i = 0; i < n_dirty; i++) {
        dirty[i]->dirty = false;
        if (!dirty[i]->blocked)
            flush(dirty[i]);
    }
    n_dirty = 0;
}

/* Receiving */

static void die_of_error(const struct connection *connection, const char *frame, struct span error)
{
    uint8_t name_size = span_size(error) >= ERROR_PREFIX_SIZE ? error.at[7] : 0;
    if (span_size(error) < (size_t)ERROR_PREFIX_SIZE + name_size)
        die("connection %" PRIu32 ": %s with a malformed error", connection->index, frame);
    die("connection %" PRIu32 ": %s: %u %.*s: %.*s", connection->index, frame, get_u16(error.at), name_size,
        (const char *)error.at + ERROR_PREFIX_SIZE, (int)span_size(error) - ERROR_PREFIX_SIZE - name_size,
        (const char *)error.at + ERROR_PREFIX_SIZE + name_size);
}

static void on_welcome(struct connection *connection, struct span map)
{
    struct span player, limits;
    uint64_t body_bytes, unacked_sends, heartbeat_ms;
    if (!msgpack_find_text(map, "player", &player) || span_size(player) > MAX_NAME_SIZE)
        die("WELCOME names no player");
    connection->name_size = (uint8_t)span_size(player);
    memcpy(connection->name, player.at, span_size(player));
    if (!msgpack_find(map, "limits", &limits) || !msgpack_find_unsigned(limits, "body_bytes", &body_bytes) ||
        !msgpack_find_unsigned(limits, "unacked_sends", &unacked_sends))
        die("WELCOME tells no limits");
    if (options.durable && (options.body_size > body_bytes || options.window > unacked_sends))
        die("--body or --window is beyond the server's limits (%" PRIu64 ", %" PRIu64 ")", body_bytes, unacked_sends);
    if (options.durable)
        unacked_limit = (uint32_t)unacked_sends;
    if (msgpack_find_unsigned(map, "heartbeat_ms", &heartbeat_ms))
        ping_after_ns = heartbeat_ms * 800000; /* a fifth of it is left for a late scan */
    for (uint32_t channel = 0; channel < options.n_channels; channel++)
        send_join(connection, channel);
}

static void on_reply(struct connection *connection, struct span body)
{
    uint64_t number, head;
    struct span map = {body.at + REPLY_PREFIX_SIZE, body.end};
    if (span_size(body) < REPLY_PREFIX_SIZE || !msgpack_find_unsigned(map, "number", &number))
        die("the answer to join tells no number");
    if (get_u32(body.at) == 0) {
        connection->number = (uint32_t)number;
        connection->last_id = msgpack_find_unsigned(map, "head", &head) ? head : UINT64_MAX;
    }
    if (++connection->n_replies == options.n_channels)
        n_ready++;
}

static struct talker *talker_of(const struct connection *receiver, struct span sender, struct span body)
{
    if (span_size(body) != options.body_size)
        return NULL;
    uint32_t index = get_u32(body.at + 16) - receiver->room * options.n_members;
    if (index >= options.n_talkers)
        return NULL;
    struct talker *talker = &talkers[receiver->room * options.n_talkers + index];
    const struct connection *said = talker->connection;
    bool same = span_size(sender) == said->name_size && memcmp(sender.at, said->name, said->name_size) == 0;
    return same ? talker : NULL;
}

static void on_delivery(struct connection *receiver, uint32_t number, struct span sender, struct span body)
{
    struct talker *talker = number == receiver->number ? talker_of(receiver, sender, body) : NULL;
    if (talker == NULL) {
        report.n_wrong++;
        return;
    }
    uint64_t message = get_u64(body.at);
    last_progress_ns = now_ns;
    if (!stream_note(&receiver->streams[(talker - talkers) % options.n_talkers], &report.tally, message))
        return;
    if (phase == PHASE_MEASURE)
        histogram_add(&report.latency, now_ns - get_u64(body.at + 8));
    if (options.rate > 0)
        return;
    struct under_way *slot = &talker->under_way[message % options.window];
    if (--slot->missing == 0 && !slot->unacked)
        proceed(talker);
}

static void on_signal(struct connection *connection, struct span body)
{
    if (span_size(body) < SIGNAL_PREFIX_SIZE || span_size(body) - SIGNAL_PREFIX_SIZE < body.at[5])
        die("malformed SIGNAL");
    const uint8_t *sender = body.at + SIGNAL_PREFIX_SIZE;
    const uint8_t *text = sender + body.at[5];
    on_delivery(connection, get_u32(body.at), (struct span){sender, text}, (struct span){text, body.end});
}

static void on_deliver(struct connection *connection, struct span body)
{
    if (span_size(body) < DELIVER_PREFIX_SIZE || span_size(body) - DELIVER_PREFIX_SIZE < body.at[5])
        die("malformed DELIVER");
    const uint8_t *sender = body.at + DELIVER_PREFIX_SIZE;
    const uint8_t *text = sender + body.at[5];
    uint64_t prev = get_u64(body.at + 14);
    if (prev != connection->last_id && prev != UINT64_MAX && connection->last_id != UINT64_MAX)
        report.n_holes++;
    connection->last_id = get_u64(body.at + 6);
    on_delivery(connection, get_u32(body.at), (struct span){sender, text}, (struct span){text, body.end});
}

static void on_ack(struct connection *connection, struct span body)
{
    struct talker *talker = connection->talker;
    if (span_size(body) != ACK_SIZE || talker == NULL || get_u64(body.at) - 1 >= talker->sent)
        die("an ACK for nothing");
    talker->answered++;
    n_answered++;
    if (options.rate == 0) {
        struct under_way *slot = &talker->under_way[(get_u64(body.at) - 1) % options.window];
        slot->unacked = false;
        if (slot->missing > 0)
            return;
    }
    proceed(talker);
}

static void on_frame(struct connection *connection, uint8_t type, struct span body)
{
    switch (type) {
    case FRAME_SIGNAL: on_signal(connection, body); break;
    case FRAME_DELIVER: on_deliver(connection, body); break;
    case FRAME_ACK: on_ack(connection, body); break;
    case FRAME_WELCOME: on_welcome(connection, body); break;
    case FRAME_REPLY: on_reply(connection, body); break;
    case FRAME_PING: memcpy(start_frame(connection, FRAME_PONG, span_size(body)), body.at, span_size(body)); break;
    case FRAME_REFUSED:
        if (report.n_refused++ == 0 && span_size(body) >= 8 + ERROR_PREFIX_SIZE)
            fprintf(stderr, "load_generator: first refusal: code %u\n", get_u16(body.at + 8));
        break;
    case FRAME_GAP: report.n_gaps++; break;
    case FRAME_CLOSE: die_of_error(connection, "CLOSE", body); break;
    case FRAME_FAILED: die_of_error(connection, "FAILED", (struct span){body.at + 4, body.end}); break;
    case FRAME_GOAWAY: die("the server says GOAWAY"); break;
    default: break; /* PONG, EVENT, and what a client must ignore */
    }
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
    static uint8_t buffer[HEADER_SIZE + MAX_FRAME_SIZE + RECEIVE_SIZE];
    size_t held = connection->rest_size;
    if (held > 0)
        memcpy(buffer, connection->rest, held);
    ssize_t got = recv(connection->fd, buffer + held, RECEIVE_SIZE, 0);
    if (got <= 0) {
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        die("connection %" PRIu32 ": %s", connection->index, got == 0 ? "closed by the server" : strerror(errno));
    }
    now_ns = clock_ns(CLOCK_MONOTONIC);
    const uint8_t *at = buffer;
    const uint8_t *end = buffer + held + got;
    while (end - at >= HEADER_SIZE) {
        uint32_t header = get_u32(at);
        const uint8_t *body = at + HEADER_SIZE;
        if (header >> 8 > MAX_FRAME_SIZE)
            die("a frame of %" PRIu32 " bytes", header >> 8);
        if ((size_t)(end - body) < header >> 8)
            break;
        at = body + (header >> 8);
        on_frame(connection, (uint8_t)header, (struct span){body, at});
    }
    if (held > 0 || at != end)
        keep_rest(connection, at, (size_t)(end - at));
}

/* The course of a run */

static void open_connection(uint32_t index)
{
    struct connection *connection = &connections[index];
    connection->index = index;
    connection->room = index / options.n_members;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        die("connection %" PRIu32 ": %s (ulimit -n?)", index, strerror(errno));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (index >= CONNECTIONS_PER_ADDRESS) {
        struct sockaddr_in source = {.sin_family = AF_INET};
        source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + index / CONNECTIONS_PER_ADDRESS);
        setsockopt(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int));
        if (bind(connection->fd, (struct sockaddr *)&source, sizeof source) != 0)
            die("bind: %s", strerror(errno));
    }
    if (connect(connection->fd, (struct sockaddr *)&server_address, sizeof server_address) != 0 && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    connection->blocked = true; /* until EPOLLOUT says that it is connected */
    watch(connection, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
    send_hello(connection);
    uint32_t place = index % options.n_members;
    if (place < options.n_talkers && !options.idle) {
        connection->talker = &talkers[connection->room * options.n_talkers + place];
        connection->talker->connection = connection;
    }
}

static uint64_t after(double seconds)
{
    return now_ns + (uint64_t)(seconds * 1e9);
}

static void start_load(void)
{
    phase = PHASE_WARM;
    phase_end_ns = after(options.warm_seconds);
    schedule_start_ns = last_progress_ns = now_ns;
    if (options.rate > 0)
        send_scheduled();
    else
        for (uint32_t i = 0; i < n_talkers; i++)
            fill_window(&talkers[i]);
}

static bool all_arrived(void)
{
    return report.tally.delivered == report.n_messages * n_receivers && (!options.durable || n_answered == report.n_messages);
}

/* Moves to the next phase when its time has come; false when the run is over. */
static bool advance(void)
{
    bool stalled = now_ns - last_progress_ns > (uint64_t)(options.stall_seconds * 1e9);
    switch (phase) {
    case PHASE_CONNECT:
        while (n_started < report.n_connections && n_started - n_ready < MAX_HANDSHAKES)
            open_connection(n_started++);
        if (n_ready == report.n_connections && !options.idle)
            start_load();
        if (n_ready == report.n_connections && options.idle) {
            phase = PHASE_IDLE;
            printf("{\"idle\": %" PRIu32 "}\n", n_ready);
            fflush(stdout);
        }
        break;
    case PHASE_WARM:
        if (now_ns >= phase_end_ns) {
            report.first = take_mark(options.server_pid, report.tally.delivered, report.n_messages);
            phase = PHASE_MEASURE;
            phase_end_ns = after(options.seconds);
        }
        break;
    case PHASE_MEASURE:
        if (now_ns >= phase_end_ns || stalled) {
            report.second = take_mark(options.server_pid, report.tally.delivered, report.n_messages);
            phase = PHASE_DRAIN;
        }
        break;
    case PHASE_DRAIN:
        return !stalled && !(all_arrived() && now_ns - last_progress_ns > LINGER_MS * (uint64_t)1000000);
    case PHASE_IDLE:
        break;
    }
    if (options.rate > 0 && (phase == PHASE_WARM || phase == PHASE_MEASURE))
        send_scheduled();
    return true;
}

static void ping_silent(void)
{
    if (now_ns - last_ping_scan_ns < 1000000000 || ping_after_ns == 0)
        return;
    last_ping_scan_ns = now_ns;
    for (uint32_t i = 0; i < n_started; i++)
        if (connections[i].name_size > 0 && now_ns - connections[i].last_sent_ns > ping_after_ns)
            memset(start_frame(&connections[i], FRAME_PING, PING_SIZE), 0, PING_SIZE);
}

static void run(void)
{
    static struct epoll_event events[MAX_EVENTS];
    now_ns = clock_ns(CLOCK_MONOTONIC);
    while (advance()) {
        ping_silent();
        flush_dirty();
        int n = epoll_wait(poller, events, MAX_EVENTS, 50);
        now_ns = clock_ns(CLOCK_MONOTONIC);
        for (int i = 0; i < n; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection == NULL) {
                uint8_t input[64];
                if (options.idle && read(STDIN_FILENO, input, sizeof input) <= 0)
                    return;
                continue; /* the timer: send_scheduled sets it anew */
            }
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive(connection);
            if (events[i].events & EPOLLOUT)
                flush(connection);
        }
    }
}

static void prepare(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    report.n_connections = options.n_rooms * options.n_members;
    report.has_server = options.server_pid != 0;
    n_talkers = options.n_rooms * options.n_talkers;
    n_receivers = options.n_members - (options.durable ? 0 : 1);
    if (report.n_connections + 16 > limit.rlim_max)
        die("%" PRIu32 " connections, but ulimit -n is %ju", report.n_connections, (uintmax_t)limit.rlim_max);
    if (options.tokens != NULL && (tokens = fopen(options.tokens, "r")) == NULL)
        die("%s: %s", options.tokens, strerror(errno));
    server_address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    if (inet_pton(AF_INET, options.host, &server_address.sin_addr) != 1)
        die("--host is an IPv4 address");

    connections = or_die(calloc(report.n_connections, sizeof *connections));
    talkers = or_die(calloc(n_talkers, sizeof *talkers));
    dirty = or_die(calloc(report.n_connections, sizeof *dirty));
    struct stream *streams = or_die(calloc((size_t)report.n_connections * options.n_talkers, sizeof *streams));
    struct under_way *slots = or_die(calloc((size_t)n_talkers * options.window, sizeof *slots));
    for (uint32_t i = 0; i < report.n_connections; i++)
        connections[i].streams = streams + (size_t)i * options.n_talkers;
    for (uint32_t i = 0; i < n_talkers; i++)
        talkers[i].under_way = slots + (size_t)i * options.window;

    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN | (options.idle ? 0 : (uint32_t)EPOLLET), .data.ptr = NULL};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, options.idle ? STDIN_FILENO : timer, &event) != 0)
        die("--idle needs a pipe or a terminal as standard input");
}

static void count_losses(void)
{
    for (uint32_t i = 0; i < report.n_connections; i++) {
        const struct talker *first = &talkers[connections[i].room * options.n_talkers];
        for (uint32_t t = 0; t < options.n_talkers; t++)
            if (options.durable || connections[i].talker != first + t)
                stream_end(&connections[i].streams[t], &report.tally, first[t].sent);
    }
}

int main(int argc, char **argv)
{
    options = read_options(argc, argv);
    prepare();
    run();
    if (options.idle)
        return 0;
    count_losses();
    bool right = n_faults(&report) == 0 && all_arrived();
    print_report(&report, right);
    return right ? 0 : 1;
}
