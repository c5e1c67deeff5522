"""Lets libFuzzer, through atheris, loose on one target: `run.py TARGET [LIBFUZZER ARGUMENTS]`; see tools/run-fuzz.

atheris: the fuzzer for Python; its libFuzzer also takes the coverage of modules compiled by clang.
"""

import sys

import atheris


def main() -> None:
    # Python's branches count as coverage only where they were instrumented at their import, so all is imported here.
    with atheris.instrument_imports(
        include=["chatcore", "chatcore_server", "jwt", "websockets"], enable_loader_override=False
    ):
        from fuzz.targets import TARGETS

    script, target, *arguments = sys.argv
    # libFuzzer's merge starts itself anew by its first argument, through a shell.
    atheris.Setup([f"{sys.executable} {script} {target}", *arguments], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
