/*
 * What the load generator reads at both ends of the measured time, and the line of JSON that comes of it. Reads clocks and
 * counters only; it decides nothing.
 */
#ifndef CHATCORE_BENCHMARKS_LOAD_REPORT_H
#define CHATCORE_BENCHMARKS_LOAD_REPORT_H

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "delivery_check.h"
#include "histogram.h"

struct mark {
    uint64_t time_ns;
    uint64_t deliveries;
    uint64_t messages;
    uint64_t server_ns; /* CPU of all threads of the server's process */
    uint64_t own_ns;    /* CPU of this process */
    uint64_t others_ns; /* CPU of all other processes, in steps of a clock tick */
};

struct report {
    struct mark first, second;
    bool has_server;
    uint32_t n_connections;
    uint64_t n_messages; /* of the whole run, as the tally */
    struct tally tally;
    uint64_t n_wrong;   /* a body, sender or channel that nobody sent */
    uint64_t n_refused; /* REFUSED frames */
    uint64_t n_gaps;    /* GAP frames */
    uint64_t n_holes;   /* messages whose prev is not the id before it */
    struct histogram latency;
};

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load_generator: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) != 0)
        die("the server's CPU clock is gone: %s", strerror(errno));
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* utime, stime, cutime and cstime of a process (proc(5), /proc/pid/stat): its CPU time and that of children that ended. */
static uint64_t read_ticks(const char *pid)
{
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 0; /* it has just ended */
    size_t size = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[size] = '\0';
    const char *rest = strrchr(line, ')'); /* a name may hold anything, but nothing after it a parenthesis */
    uint64_t time[4];
    const char *format = ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64;
    if (rest == NULL || sscanf(rest, format, &time[0], &time[1], &time[2], &time[3]) != 4)
        return 0;
    return time[0] + time[1] + time[2] + time[3];
}

/*
 * CPU time of all processes but the two. Not what /proc/stat lacks of idle time: that includes interrupts that found a
 * core idle, which are the load's own doing.
 */
static uint64_t read_others_ns(int server_pid)
{
    DIR *processes = opendir("/proc");
    if (processes == NULL)
        die("/proc: %s", strerror(errno));
    uint64_t ticks = 0;
    for (struct dirent *entry; (entry = readdir(processes)) != NULL;) {
        int pid = atoi(entry->d_name);
        if (pid > 0 && pid != server_pid && pid != getpid())
            ticks += read_ticks(entry->d_name);
    }
    closedir(processes);
    return ticks * (1000000000 / (uint64_t)sysconf(_SC_CLK_TCK));
}

/* server_pid 0: there is no process to look at. */
static struct mark take_mark(int server_pid, uint64_t deliveries, uint64_t messages)
{
    struct mark mark = {.deliveries = deliveries, .messages = messages, .others_ns = read_others_ns(server_pid)};
    clockid_t clock;
    if (server_pid != 0) {
        if (clock_getcpuclockid(server_pid, &clock) != 0)
            die("--server-pid %d: no such process", server_pid);
        mark.server_ns = clock_ns(clock);
    }
    mark.own_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    mark.time_ns = clock_ns(CLOCK_MONOTONIC);
    return mark;
}

static uint64_t n_faults(const struct report *report)
{
    const struct tally *tally = &report->tally;
    return tally->lost + tally->duplicated + tally->out_of_order + report->n_wrong + report->n_refused + report->n_gaps + report->n_holes;
}

static void print_count(const char *name, uint64_t count)
{
    printf("\"%s\": %" PRIu64 ", ", name, count);
}

static void print_measured(const struct report *report)
{
    const struct mark *first = &report->first;
    const struct mark *second = &report->second;
    double seconds = (double)(second->time_ns - first->time_ns) / 1e9;
    double server = (double)(second->server_ns - first->server_ns) / 1e9;
    double own = (double)(second->own_ns - first->own_ns) / 1e9;
    double others = (double)(int64_t)(second->others_ns - first->others_ns) / 1e9;
    print_count("deliveries", second->deliveries - first->deliveries);
    print_count("messages", second->messages - first->messages);
    printf("\"seconds\": %.6f, \"generator_cpu_seconds\": %.6f, ", seconds, own);
    if (report->has_server)
        printf("\"server_cpu_seconds\": %.6f, \"others_cores\": %.3f, ", server, others / seconds);
}

static void print_latency(const struct histogram *latency)
{
    static const struct {
        const char *name;
        double share;
    } shares[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}};
    printf("\"latency_us\": {");
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
        printf("%s\"%s\": %.1f", i > 0 ? ", " : "", shares[i].name, (double)histogram_percentile(latency, shares[i].share) / 1e3);
    printf("}");
}

static void print_report(const struct report *report, bool right)
{
    printf("{\"right\": %s, ", right ? "true" : "false");
    print_count("connections", report->n_connections);
    print_measured(report);
    print_count("all_deliveries", report->tally.delivered);
    print_count("all_messages", report->n_messages);
    print_count("lost", report->tally.lost);
    print_count("duplicated", report->tally.duplicated);
    print_count("out_of_order", report->tally.out_of_order);
    print_count("wrong", report->n_wrong);
    print_count("refused", report->n_refused);
    print_count("gaps", report->n_gaps);
    print_count("holes", report->n_holes);
    print_latency(&report->latency);
    printf("}\n");
}

#endif
