"""Builds the C programs of this folder, at run time, into build/benchmarks. Installs nothing and knows no server."""

import os
import shlex
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
BUILD_FOLDER = SOURCES.parent / "build" / "benchmarks"
FLAGS = ["-std=gnu11", "-O3", "-fno-strict-aliasing", "-Wall", "-Wextra"]


def build(name: str, *flags: str) -> Path:
    """The path of the program or, with the flags for it, shared object `name`, built if a source is newer than it.

    Raises RuntimeError with the compiler's words if it does not compile. The compiler is $CC, by default cc.
    """
    program = BUILD_FOLDER / name
    sources = [(SOURCES / name).with_suffix(".c"), *SOURCES.glob("*.h")]
    if program.exists() and program.stat().st_mtime >= max(source.stat().st_mtime for source in sources):
        return program
    BUILD_FOLDER.mkdir(parents=True, exist_ok=True)
    fresh = program.with_name(f"{name}.{os.getpid()}")  # renamed when whole: two runs may build at once
    command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS, *flags, "-o", str(fresh), str(sources[0])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as missing:
        raise RuntimeError(
            f"the benchmarks need a C compiler: {command[0]} is not there; install gcc or set CC"
        ) from missing
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr}")
    fresh.rename(program)
    return program
