"""Errors of the wire as exceptions: every code has its class, and unknown codes go by their flags."""

import pytest

from chatcore import errors
from chatcore.errors import (
    AuthenticationError,
    ChatError,
    ConnectionLost,
    ProtocolError,
    RequestError,
    TemporaryError,
    error_from_body,
    error_from_code,
)
from chatcore_ext.error_codes import ErrorCode, default_flags, error_text
from chatcore_ext.frame import FrameError, encode_error

FAMILIES = {1: ProtocolError, 2: AuthenticationError, 3: RequestError, 4: TemporaryError}


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_is_of_its_family(code: ErrorCode) -> None:
    error = error_from_code(code, "why")
    assert isinstance(error, FAMILIES[code // 100])
    assert (error.code, error.name, error.message) == (code, error_text(code), "why")
    assert str(error) == f"{error.name}: why"
    assert error.retry == bool(default_flags(code) & 1)
    assert error.uncertain == bool(default_flags(code) & 2)


def test_every_class_has_its_own_code() -> None:
    bases = {ChatError, ConnectionLost, *FAMILIES.values()}
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ChatError) and kind not in bases
    ]
    assert len({int(kind.code) for kind in kinds}) == len(kinds) > 15
    for kind in kinds:
        assert type(error_from_code(kind.code)) is kind
        assert kind().code == kind.code
        assert error_text(kind.code).replace("_", "") == kind.__name__.lower()


def test_the_flags_of_the_wire_count() -> None:
    error = error_from_body(encode_error(ErrorCode.ERROR_BLOCKED, 3, 1234, "später".encode()))
    assert (error.retry, error.uncertain, error.retry_after_ms, error.message) == (True, True, 1234, "später")


@pytest.mark.parametrize(("code", "kind", "retry"), [(199, ProtocolError, False), (399, RequestError, False)])
def test_a_code_that_is_not_known(code: int, kind: type[ChatError], retry: bool) -> None:
    error = error_from_code(code)
    assert type(error) is kind
    assert error.retry is retry
    assert error.name == f"error_{code}"


def test_an_unknown_temporary_error_is_worth_a_retry() -> None:
    assert error_from_code(499).retry
    assert not error_from_code(499, flags=0).retry
    assert type(error_from_code(700)) is ChatError
    assert type(error_from_code(0)) is ChatError


def test_a_malformed_body() -> None:
    with pytest.raises(FrameError):
        error_from_body(b"\1\2\3")
