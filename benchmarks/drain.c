/*
 * The receivers of the fan-out benchmark: reads whatever comes on many sockets and throws it away. Standard input is a
 * UNIX stream socket. Over it come the sockets (SCM_RIGHTS, a few with each byte 'a') and questions (byte 'q' and a u64
 * in the machine's order: how many bytes); a question is answered with one byte when so many bytes have been read since
 * the last answer, with 'k' if it were exactly so many and 'm' if more.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_EVENTS = 1024, MAX_PASSED = 253 };

static int poller;
static uint64_t n_read, n_wanted;

static void take_sockets(struct msghdr *message)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
        size_t n = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int socket;
            memcpy(&socket, CMSG_DATA(part) + i * sizeof socket, sizeof socket);
            struct epoll_event event = {.events = EPOLLIN, .data.fd = socket};
            epoll_ctl(poller, EPOLL_CTL_ADD, socket, &event);
        }
    }
}

static void take_command(void)
{
    char command;
    char space[CMSG_SPACE(MAX_PASSED * sizeof(int))];
    struct iovec byte = {&command, 1};
    struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    if (recvmsg(STDIN_FILENO, &message, 0) != 1)
        exit(0);
    take_sockets(&message);
    if (command == 'q' && recv(STDIN_FILENO, &n_wanted, sizeof n_wanted, MSG_WAITALL) != sizeof n_wanted)
        exit(2);
}

static void read_away(int socket)
{
    static char bytes[65536];
    ssize_t got = recv(socket, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got > 0)
        n_read += (uint64_t)got;
    else if (got == 0)
        close(socket);
}

int main(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event own = {.events = EPOLLIN, .data.fd = STDIN_FILENO};
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &own);
    for (;;) {
        struct epoll_event events[MAX_EVENTS];
        int n = epoll_wait(poller, events, MAX_EVENTS, -1);
        for (int i = 0; i < n; i++)
            if (events[i].data.fd == STDIN_FILENO)
                take_command();
            else
                read_away(events[i].data.fd);
        if (n_wanted > 0 && n_read >= n_wanted) {
            if (write(STDIN_FILENO, n_read == n_wanted ? "k" : "m", 1) != 1)
                return 2;
            n_read = n_wanted = 0;
        }
    }
}
