"""The fuzzer's kept inputs pass through their targets without the fuzzer, in every kind of build: none rots."""

import pytest

from fuzz.targets import CORPUS, TARGETS, kept_inputs


@pytest.mark.parametrize("target", TARGETS)
def test_kept_inputs(target: str) -> None:
    inputs = kept_inputs(target)
    assert len(inputs) > 10
    for path in inputs:
        try:
            TARGETS[target](path.read_bytes())
        except BaseException as error:
            error.add_note(f"by {path}")
            raise


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_are_an_input(target: str) -> None:
    for data in (b"", b"\0", b"\xff" * 40, bytes(range(256))):
        TARGETS[target](data)


def test_the_corpus_is_that_of_the_targets_and_small() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.glob("*/*")) < 400 * 1024
