"""Measures the whole server beside the bare C server, in the same run: CPU per delivery and memory per idle connection.

    python benchmarks/whole_server.py --json figures.json

One process of each server per repetition, always fresh, limit and chatcore by turns, each on core 0 with the load
generator on core 1. The primary figure is the server's CPU time per delivery from its process CPU clock (all threads;
clock_getcpuclockid), read by the generator at both ends of the measured time. A repetition in which anybody else used
more than a tenth of a core is thrown away and repeated. What is reported is the median and the range of the *paired*
ratios; docs/performance.md says how to read them. Never judges: an exit code other than 0 means that it could not
measure, or that a delivery was wrong.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from our_server import KEPT_DESCRIPTORS, chatcore_server
from processes import Failure, Load, Server, idle_connections, limit_server, run_load

Starter = Callable[[int], AbstractContextManager[Server]]  # for so many connections

SHAPES = [
    Load("10 rooms x 100, 1 talker each", rooms=10, members=100, talkers=1),
    Load("1 room x 1000, 1 talker", rooms=1, members=1000, talkers=1),
    Load("10 rooms x 100, 10 talkers each", rooms=10, members=100, talkers=10),
    Load("1000 connections in pairs", rooms=500, members=2, talkers=2),
    Load("10 rooms x 100, 20,000 deliveries/s", rooms=10, members=100, talkers=1, rate=200),
]
NUMBERS = list(range(1, len(SHAPES) + 1))
LATENCIES = ["p50", "p99"]
PING_CONNECTIONS = 200  # connected and gone again before memory is read: what a server allocates once is not theirs


class Pair(NamedTuple):
    """One repetition: what the generator reported of each server."""

    limit: dict[str, Any]
    ours: dict[str, Any]

    @property
    def ratio(self) -> float:
        return cpu_per_delivery(self.ours) / cpu_per_delivery(self.limit)


def cpu_per_delivery(answer: dict[str, Any]) -> float:
    """The server's CPU time, us."""
    return 1e6 * float(answer["server_cpu_seconds"]) / max(1, int(answer["deliveries"]))


def start_limit(_connections: int) -> AbstractContextManager[Server]:
    return limit_server()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def thread_seconds(pid: int) -> tuple[float, float]:
    """CPU time of a process's first thread and of all its others, so far (schedstat: Linux, scheduler statistics)."""
    seconds = [0.0, 0.0]
    for task in Path(f"/proc/{pid}/task").iterdir():
        seconds[task.name != str(pid)] += int((task / "schedstat").read_text().split()[0]) / 1e9
    return seconds[0], seconds[1]


def measure(start: Starter, load: Load, seconds: float) -> dict[str, Any]:
    """One run against one fresh server. Raises Failure if a delivery was wrong.

    `log_share`: of the server's CPU time, what its threads beside the loop's took. Those are the log's.
    """
    with start(load.connections) as server:
        before = thread_seconds(server.pid)
        answer = run_load(server, [*load.arguments, "--warm=0.4", f"--seconds={seconds}"])
        loop, others = (now - then for now, then in zip(thread_seconds(server.pid), before, strict=True))
        answer["log_share"] = others / (loop + others)
    if not answer["right"]:
        raise Failure(f"{server.name}, {load.mode}, {load.name}: wrong deliveries: {json.dumps(answer)}")
    return answer


def measure_pair(start: Starter, load: Load, seconds: float, others_limit: float) -> Pair | None:
    """One repetition; None if others used more of the machine meanwhile (cores)."""
    pair = Pair(measure(start_limit, load, seconds), measure(start, load, seconds))
    others = max(pair.limit["others_cores"], pair.ours["others_cores"])
    quiet = bool(others <= others_limit)
    say(
        f"{load.mode:8} {load.name:32} limit {cpu_per_delivery(pair.limit):7.3f} us"
        f"  chatcore {cpu_per_delivery(pair.ours):7.3f} us  ratio {pair.ratio:5.2f}  others {others:.2f}"
        f"{'' if quiet else '  thrown away'}"
    )
    return pair if quiet else None


def measure_loads(start: Starter, loads: list[Load], arguments: argparse.Namespace) -> dict[Load, list[Pair]]:
    """The repetitions of every load, by turns; fewer of them if the machine is busy or the time is over."""
    end = time.monotonic() + arguments.budget
    pairs: dict[Load, list[Pair]] = {load: [] for load in loads}
    for _ in range(2 * arguments.runs):
        for load in loads:
            if len(pairs[load]) < arguments.runs and time.monotonic() < end:
                pair = measure_pair(start, load, arguments.seconds, arguments.others)
                pairs[load] += [] if pair is None else [pair]
    return pairs


def resident_bytes(pid: int) -> int:
    """Anonymous resident memory of a process: its own, without files and shared pages."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise Failure(f"/proc/{pid}/status tells no RssAnon")


def wait_until_settled(pid: int) -> None:
    """Until a process's memory is the same for half a second; at most 5 s, then it is as it is."""
    history: list[int] = []
    while len(history) < 50 and (len(history) < 5 or len(set(history[-5:])) > 1):
        time.sleep(0.1)
        history.append(resident_bytes(pid))


def slab_bytes() -> int:
    """Kernel memory in slabs, of the whole machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Slab:"))


def measure_memory(start: Starter, connections: int) -> dict[str, float]:
    """Bytes per idle authenticated connection that has joined two channels."""
    with start(connections) as server:
        with idle_connections(server, PING_CONNECTIONS, 2, timeout=60):
            pass
        wait_until_settled(server.pid)
        before, slab_before = resident_bytes(server.pid), slab_bytes()
        began = time.monotonic()
        with idle_connections(server, connections, 2, timeout=180):
            connect_seconds = time.monotonic() - began
            wait_until_settled(server.pid)
            after, slab_after = resident_bytes(server.pid), slab_bytes()
    answer = {
        "connections": connections,
        "user_bytes": (after - before) / connections,
        "kernel_bytes_both_ends": (slab_after - slab_before) / connections,
        "connect_seconds": connect_seconds,
    }
    say(f"memory   {server.name}: {answer['user_bytes']:.0f} B per idle connection, {connections} connections")
    return answer


def most_connections(wanted: int) -> int:
    """As many of the wanted ones as a process may have descriptors for."""
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    if highest != resource.RLIM_INFINITY and wanted > highest - KEPT_DESCRIPTORS:
        wanted = (highest - KEPT_DESCRIPTORS) // 100 * 100
        say(f"ulimit -Hn is {highest}: measuring memory with {wanted} connections")
    return wanted


def median_latency(answers: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(float(answer["latency_us"][name]) for answer in answers) for name in LATENCIES}


def summary(pairs: list[Pair]) -> dict[str, Any]:
    """Medians of a load, and the range of its ratios."""
    ratios = [pair.ratio for pair in pairs]

    def median(value: Callable[[Pair], float]) -> float:
        return statistics.median(value(pair) for pair in pairs)

    return {
        "repetitions": len(pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "limit_us": median(lambda pair: cpu_per_delivery(pair.limit)),
        "chatcore_us": median(lambda pair: cpu_per_delivery(pair.ours)),
        "log_us": median(lambda pair: cpu_per_delivery(pair.ours) * pair.ours["log_share"]),
        "ratio_without_log": median(lambda pair: pair.ratio * (1 - pair.ours["log_share"])),
        "limit_latency_us": median_latency([pair.limit for pair in pairs]),
        "chatcore_latency_us": median_latency([pair.ours for pair in pairs]),
        "deliveries_checked": sum(p.limit["all_deliveries"] + p.ours["all_deliveries"] for p in pairs),
    }


def print_tables(loads: dict[Load, dict[str, Any]], memory: dict[str, dict[str, float]]) -> None:
    """As docs/performance.md shows them."""
    if loads:
        print("| load | limit, us | chatcore, us | ratio | range | repetitions |")
        print("| --- | --- | --- | --- | --- | --- |")
    for load, row in loads.items():
        low, high = row["ratio_range"]
        print(
            f"| {load.mode}: {load.name} | {row['limit_us']:.3f} | {row['chatcore_us']:.3f} | **{row['ratio']:.2f}** "
            f"| {low:.2f}-{high:.2f} | {row['repetitions']} |"
        )
    if durable := {load: row for load, row in loads.items() if load.mode == "messages"}:
        print("\n| what the log costs | per delivery, us | per message, us | ratio without it |")
        print("| --- | --- | --- | --- |")
    for load, row in durable.items():
        print(
            f"| {load.mode}: {load.name} | {row['log_us']:.3f} | {row['log_us'] * load.members:.1f} "
            f"| {row['ratio_without_log']:.2f} |"
        )
    if open_loops := {load: row for load, row in loads.items() if load.rate}:
        print("\n| open loop | limit p50 / p99, ms | chatcore p50 / p99, ms |")
        print("| --- | --- | --- |")
    for load, row in open_loops.items():
        cells = [
            " / ".join(f"{us / 1000:.2f}" for us in row[f"{name}_latency_us"].values())
            for name in ("limit", "chatcore")
        ]
        print(f"| {load.mode}: {load.name} | {cells[0]} | {cells[1]} |")
    if memory:
        print("\n| server | idle connections | user bytes each | kernel bytes, both ends |")
        print("| --- | --- | --- | --- |")
    for name, figures in memory.items():
        print(
            f"| {name} | {figures['connections']:.0f} | {figures['user_bytes']:.0f} "
            f"| {figures['kernel_bytes_both_ends']:.0f} |"
        )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures the whole server beside a bare C server (docs/performance.md)."
    )
    parser.add_argument("--runs", type=int, default=8, help="repetitions of each load (default 8)")
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time of a run (default 1)")
    parser.add_argument("--others", type=float, default=0.1, help="cores that others may use in a run (default 0.1)")
    parser.add_argument("--budget", type=float, default=480, help="seconds for all loads together (default 480)")
    parser.add_argument("--modes", nargs="*", default=["signals", "messages"], choices=["signals", "messages"])
    parser.add_argument("--loads", nargs="*", type=int, default=NUMBERS, choices=NUMBERS, help="which shapes")
    parser.add_argument("--connections", type=int, default=20000, help="for memory; 0 leaves it out (default 20000)")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument(
        "--calibrate", action="store_true", help="the bare C server in chatcore's place: how far two equals come apart"
    )
    parser.add_argument(
        "--steer",
        action="store_true",
        help="in a network namespace whose receiver works on the other core (needs root)",
    )
    return parser.parse_args()


def enter_namespace() -> None:
    """Start this script anew in a network namespace whose loopback hands received packets to the other core.

    Plain loopback charges the receiver's TCP work to the sender; with receive packet steering the ratios spread less.
    """
    if shutil.which("unshare") is None or os.geteuid() != 0:
        raise Failure("--steer needs root and unshare (util-linux)")
    script = (
        "ip link set lo up && mount -t sysfs sysfs /sys && "
        f'echo {1 << 1 | 1:x} > /sys/class/net/lo/queues/rx-0/rps_cpus && exec "$0" "$@"'
    )
    environment = {**os.environ, "CHATCORE_BENCHMARK_STEERED": "1"}
    command = ["unshare", "--net", "--mount", "sh", "-c", script, sys.executable, *sys.argv]
    os.execvpe("unshare", command, environment)


def main() -> None:
    arguments = read_arguments()
    if arguments.steer and "CHATCORE_BENCHMARK_STEERED" not in os.environ:
        enter_namespace()
    start: Starter = start_limit if arguments.calibrate else chatcore_server
    memory: dict[str, dict[str, float]] = {}
    if arguments.connections:
        connections = most_connections(arguments.connections)
        memory["limit"] = measure_memory(start_limit, connections)
        memory["chatcore"] = measure_memory(start, connections)
    shapes = [SHAPES[number - 1] for number in arguments.loads]
    loads = [shape._replace(mode=mode) for mode in arguments.modes for shape in shapes]
    pairs = measure_loads(start, loads, arguments)
    if starved := [f"{load.mode}: {load.name}" for load in loads if not pairs[load]]:
        say(f"no quiet repetition of: {', '.join(starved)}; is something else running?")
    summaries = {load: summary(pairs[load]) for load in loads if pairs[load]}
    print_tables(summaries, memory)
    if arguments.json:
        figures = {
            "steered": arguments.steer,
            "loads": [{**load._asdict(), **row} for load, row in summaries.items()],
            "memory": memory,
            "runs": [{**load._asdict(), **pair._asdict()} for load in loads for pair in pairs[load]],
        }
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if starved:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except (Failure, RuntimeError) as failure:
        sys.exit(f"whole_server: {failure}")
