"""What this process holds, for tests that memory is given back: C allocations that tracemalloc does not see."""

import os


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
