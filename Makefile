# The two commands of the README are `make run` and `make test`; the rest is for work on chatcore itself.
# What each does lies in tools/, so that CI and people run the same scripts.
.DEFAULT_GOAL := help
.PHONY: help run test check ci lint types wheel debug asan coverage bench compare instructions measure fuzz soak clean

help:            ## this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

run:             ## set up, build, and start a server on loopback with the embedded default
	@tools/run-server

test:            ## set up, build the wheel, and pass all tests against the installed wheel
	@tools/run-tests

check: lint types ## everything that reads the code without running it

lint:            ## ruff and cython-lint
	@tools/check-style

types:           ## mypy --strict, and mypy.stubtest against the built modules
	@tools/check-types

wheel:           ## build sdist and wheel into dist/
	@tools/build-wheel

debug:           ## the tests against a build with bounds checks and invariants
	@tools/run-tests debug

asan:            ## the unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@tools/run-tests sanitize

coverage:        ## line coverage, Cython lines included; the report goes to htmlcov/
	@tools/run-tests coverage

bench:           ## the micro benchmarks; docs/performance.md has the whole-server ones
	@tools/run-benchmarks

compare:         ## the last `make bench` beside the stored baseline; fails where something got slower
	@.venv-release/bin/python tools/bench_compare.py build/benchmarks.json

instructions:    ## the instructions of the compiled hot paths beside the stored counts; needs valgrind
	@tools/count-instructions

measure:         ## the whole server beside a bare C server, for docs/performance.md; under ten minutes
	@tools/measure-server

fuzz:            ## ten minutes of fuzzing over all targets, from the kept corpus on; takes clang. docs/fuzzing.md
	@tools/run-fuzz

soak:            ## an hour of players who come and go: memory and descriptors stay flat, and nothing is lost
	@tools/run-soak

ci:              ## what CI runs
	@bash .ci/run

clean:           ## remove environments and everything built
	@rm -rf .venv .venv-* build dist htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
