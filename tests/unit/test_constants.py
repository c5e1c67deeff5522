"""The tables of codes and numbers are complete and say the same to C and Python."""

import re
from pathlib import Path

import pytest

from chatcore_ext import constants
from chatcore_ext.error_codes import ErrorCode, ErrorFlag, default_flags, error_text

PROTOCOL_PAGE = Path(__file__).parent.parent.parent / "docs/protocol.md"


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_its_own_name(code: ErrorCode) -> None:
    assert error_text(code) == code.name.removeprefix("ERROR_").lower()


RETRY_BELOW_400 = {  # what passes by itself: a lost connection, a full place
    ErrorCode.ERROR_HELLO_TIMEOUT,
    ErrorCode.ERROR_HEARTBEAT_TIMEOUT,
    ErrorCode.ERROR_SLOW_RECEIVER,
    ErrorCode.ERROR_TOO_MANY_CONNECTIONS,
    ErrorCode.ERROR_TOO_MANY_SESSIONS,
    ErrorCode.ERROR_CHANNEL_FULL,
}


@pytest.mark.parametrize("code", list(ErrorCode))
def test_temporary_errors_say_so(code: ErrorCode) -> None:
    flags = default_flags(code)
    assert bool(flags & ErrorFlag.ERROR_FLAG_RETRY) == (code >= 400 or code in RETRY_BELOW_400)
    assert bool(flags & ErrorFlag.ERROR_FLAG_UNCERTAIN) == (code == ErrorCode.ERROR_OUTCOME_UNKNOWN)
    assert flags < 4


@pytest.mark.parametrize("code", [-1, 0, 99, 199, 500, 65535, 2**31 - 1])
def test_a_code_that_does_not_exist_has_no_name(code: int) -> None:
    assert error_text(code) == ""
    assert default_flags(code) == 0


def test_the_protocol_page_has_every_frame_type() -> None:
    page = PROTOCOL_PAGE.read_text()
    for frame_type in constants.FrameType:
        name = frame_type.name.removeprefix("FRAME_")
        assert re.search(rf"\| `0x{frame_type:02x}` \| {name} \|", page), name


def test_ids_that_are_none() -> None:
    assert constants.NO_ID == 0
    assert constants.UNKNOWN_ID == 2**64 - 1
