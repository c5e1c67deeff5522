"""A server under churn for a long time: its memory and descriptors must end where they began, and nothing be lost.

`chatcore load` checks every delivery beside the churn; the gauges of /metrics must be back at zero at the end.
`--seconds N --rate R --seed S --json FILE`; exit code 1 if the verdict is bad. See tools/run-soak.
"""

import argparse
import asyncio
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

import aiohttp
import msgspec
import uvloop

from soak.churn import Churn
from soak.verdict import MAX_GROWTH_BYTES, Growth, Sample, growth
from support.servers import ServerProcess

# Short memories, so that even a minute gets beyond them. The file, too: as it grows, so does what SQLite has of it in
# memory, up to the 64 MiB of its cache, which would look like a leak for hours.
CONFIG = """
sessions.resume_grace = "1s"
limits.hello_timeout = "2s"
log.replay_window = "10s"
log.heads = 1000
embedded.max_recent_sends = 2000
embedded.retention_age = "10s"
logging.level = "warning"
"""
LOAD = ["--connections", "40", "--rooms", "4", "--rate", "20", "--private-share", "0.2", "--storm"]
SCRAPE_S = 2.0
RELOAD_EVERY = 3  # scrapes
SETTLE_S = 30.0  # for the last connections to be gone, and their sessions' grace to be over
MAX_SHOWN = 12  # rows of the table, and failures
GAUGES = ["connections", "sessions", "players", "channels", "subscriptions"]


class Report(msgspec.Struct):
    is_good: bool
    problems: list[str]
    growth: Growth
    descriptors_first: int
    descriptors_last: int
    gauges: dict[str, int]
    scenarios: dict[str, int]
    load_exit_code: int
    samples: list[Sample]


class Soak:
    def __init__(self, folder: Path, seconds: float, rate: float, seed: int) -> None:
        self._folder = folder
        self._seconds = seconds
        self._rate = rate
        self._server = ServerProcess(folder / "data", CONFIG)
        self._seed = seed
        self._samples: list[Sample] = []
        self._problems: list[str] = []
        self._reloads = 0

    async def run(self) -> Report:
        await self._server.start()
        try:
            return await self._soak()
        finally:
            await self._server.stop()

    async def _soak(self) -> Report:
        churn = Churn(self._server.port, self._server.token, self._seed)
        await churn.visit()  # what a server opens once, at the first need, is open
        await self._settle()
        first = self._descriptors()
        load = await self._start_load()
        watching = [asyncio.create_task(self._sample(churn)), asyncio.create_task(self._operate())]
        await churn.run(self._seconds, self._rate)
        for task in watching:
            task.cancel()
        for result in await asyncio.gather(*watching, return_exceptions=True):
            if isinstance(result, Exception):
                self._problems.append(f"watching: {result!r}")
        output, _ = await load.communicate()
        if load.returncode:
            self._problems.append(f"chatcore load: exit code {load.returncode}\n{output.decode()}")
        await self._settle(first)
        return self._report(churn, first, load.returncode or 0)

    async def _start_load(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chatcore_server.cli", "load", f"127.0.0.1:{self._server.port}",
            "--data", str(self._server.folder), "--duration", str(max(1, int(self._seconds) - 5)), *LOAD,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    # ---- Watching ----------------------------------------------------------------------------------------------------

    def _descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._server.pid}/fd"))

    def _resident_bytes(self) -> int:
        """Anonymous memory: its own, without files and shared pages."""
        status = Path(f"/proc/{self._server.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024

    async def _sample(self, churn: Churn) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            at = round(loop.time() - start, 1)
            self._samples.append(Sample(at, self._resident_bytes(), self._descriptors(), churn.n_connections))
            await asyncio.sleep(max(0.5, self._seconds / 1000))

    async def _operate(self) -> None:
        """What an operator's machines do: scrape, look whether it is ready, have it read its settings again."""
        while True:
            await self._gauges()
            self._reloads += 1
            if self._reloads % RELOAD_EVERY == 0:
                self._server.send_signal(signal.SIGHUP)
            await asyncio.sleep(SCRAPE_S)

    async def _gauges(self) -> dict[str, int]:
        address = f"http://127.0.0.1:{self._server.http_port}"
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            async with session.get(f"{address}/readyz") as answer:
                await answer.read()
            async with session.get(f"{address}/metrics") as answer:
                text = await answer.text()
        gauges = {}
        for name in GAUGES:
            values = re.findall(rf"^chatcore_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
            assert values, f"/metrics does not tell chatcore_{name}"
            gauges[name] = sum(int(float(value)) for value in values)
        return gauges

    async def _settle(self, descriptors: int | None = None) -> None:
        """Wait until nobody is left and no more descriptors are open, or until SETTLE_S are over: the report tells."""
        end = asyncio.get_running_loop().time() + SETTLE_S
        while asyncio.get_running_loop().time() < end:
            self._last_gauges = await self._gauges()
            if not any(self._last_gauges.values()) and self._descriptors() <= (descriptors or sys.maxsize):
                return
            await asyncio.sleep(0.2)

    # ---- The end -----------------------------------------------------------------------------------------------------

    def _report(self, churn: Churn, first: int, load_exit_code: int) -> Report:
        grown = growth(self._samples)
        last = self._descriptors()
        problems = self._problems + churn.failures[:MAX_SHOWN]
        if not grown.is_flat:
            problems.append(f"resident memory has grown by {grown.bytes:,} bytes; {MAX_GROWTH_BYTES:,} would be noise")
        if last > first:
            problems.append(f"{last} descriptors are open; at the beginning there were {first}")
        problems += [f"{value} {name} are left" for name, value in self._last_gauges.items() if value]
        return Report(
            not problems, problems, grown, first, last, self._last_gauges, dict(churn.counts), load_exit_code,
            self._samples,
        )  # fmt: skip


def show(report: Report) -> None:
    print(f"{'s':>7} {'resident KiB':>14} {'descriptors':>12} {'connections made':>17}")
    step = max(1, len(report.samples) // MAX_SHOWN)
    for sample in report.samples[::step]:
        row = f"{sample.at_s:>7.0f} {sample.resident_bytes // 1024:>14,} {sample.descriptors:>12}"
        print(f"{row} {sample.connections:>17,}")
    grown = report.growth
    print(f"\nmemory: {grown.bytes:+,} bytes over {grown.minutes:.1f} minutes and {grown.connections:,} connections,")
    print(f"        {grown.bytes_per_minute:+,.0f} bytes per minute, {grown.bytes_per_connection:+,.1f} per connection")
    print(f"descriptors: {report.descriptors_first} at the beginning, {report.descriptors_last} at the end")
    print("left:", ", ".join(f"{value} {name}" for name, value in report.gauges.items()))
    print("scenarios:", ", ".join(f"{name} {count}" for name, count in sorted(report.scenarios.items())))
    for problem in report.problems:
        print("PROBLEM:", problem)
    print("flat, and nothing lost" if report.is_good else "NOT GOOD")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, default=20, help="scenarios a second, of one to four connections each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(Soak(Path(folder), options.seconds, options.rate, options.seed).run())
    show(report)
    if options.json:
        options.json.write_bytes(msgspec.json.encode(report))
    return not report.is_good


if __name__ == "__main__":
    sys.exit(main())
