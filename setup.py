"""Builds the compiled modules; everything static is in pyproject.toml.

CHATCORE_BUILD selects the kind of build: `release` (default), `debug` (bounds checks, invariants, counters that tests
read), `coverage` (debug with line tracing), `sanitize` (debug with AddressSanitizer and UndefinedBehaviorSanitizer) or
`fuzz` (the same with libFuzzer's coverage counters, which takes clang: tools/run-fuzz).
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

BUILD = os.environ.get("CHATCORE_BUILD", "release")
CHECKED = BUILD != "release"
CPUS = os.cpu_count() or 1

C_FLAGS = {
    "release": ["-O3", "-g0"],
    "debug": ["-O1", "-g"],
    "coverage": ["-O1", "-g"],
    "sanitize": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
    "fuzz": [
        "-O1",
        "-gline-tables-only",
        "-fsanitize=address,undefined,fuzzer-no-link",
        "-fno-sanitize-recover=undefined",
        "-fno-omit-frame-pointer",
    ],
}
LINK_FLAGS = {"sanitize": ["-fsanitize=address,undefined"]}
DEFINITIONS = [("CHATCORE_DEBUG", "1" if CHECKED else "0")]
if BUILD == "coverage":
    DEFINITIONS.append(("CYTHON_TRACE_NOGIL", "1"))

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKED,
    "wraparound": False,
    "initializedcheck": CHECKED,
    "nonecheck": CHECKED,
    "cdivision": True,
    "overflowcheck": False,
    "linetrace": BUILD == "coverage",
    # Extension types hold pointers: a pickle of one could only be wrong.
    "auto_pickle": False,
    "autotestdict": False,
    "embedsignature": False,
}


def extension(source: Path) -> Extension:
    return Extension(
        f"chatcore_ext.{source.stem}",
        [str(source)],
        depends=["setup.py"],  # its flags
        define_macros=DEFINITIONS,
        extra_compile_args=[*C_FLAGS[BUILD], "-Wall", "-Wno-unused-function"],
        extra_link_args=LINK_FLAGS.get(BUILD, []),
    )


setup(
    ext_modules=cythonize(
        [extension(source) for source in sorted(Path("_ext/chatcore_ext").glob("*.pyx"))],
        include_path=["_ext"],
        compiler_directives=DIRECTIVES,
        # The coverage plugin looks for the C beside the source. Elsewhere, each kind has a folder of its own.
        build_dir=None if BUILD == "coverage" else f"build/cython-{BUILD}",
        nthreads=CPUS,
    ),
    options={"build_ext": {"parallel": CPUS}},
)
