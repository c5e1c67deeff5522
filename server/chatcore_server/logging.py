"""Logs on standard error: readable on a terminal, one JSON object a line otherwise. Never one line per message.

Standard output belongs to the ready line alone.
"""

import contextlib
import logging
import sys
from typing import TextIO

import msgspec
import structlog


class _Lines:
    """Where lines are printed. One that cannot be is lost: what has no room or no reader for its log serves on, and a
    call that logs never raises.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = exception = critical = msg


Logger = structlog.typing.FilteringBoundLogger


def get_logger() -> Logger:
    logger: Logger = structlog.get_logger()
    return logger


def get_answering_logger() -> Logger:
    """For what somebody has just asked for: they are told whatever the level is, also by the line that changes it."""
    unfiltered = structlog.make_filtering_bound_logger(logging.NOTSET)
    logger: Logger = structlog.wrap_logger(None, wrapper_class=unfiltered)
    return logger


def configure_logging(level: str = "info", form: str = "auto", stream: TextIO | None = None) -> None:
    """`form`: auto, text or json. May be called again: what is logged from then on goes by the new level."""
    stream = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    is_text = form == "text" or (form == "auto" and stream.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(_as_text(stream) if is_text else _as_json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _Lines(stream),
        # A cached logger would keep its level for ever. Making one for each line is cheap beside writing the line.
        cache_logger_on_first_use=False,
    )
    # What libraries log by the standard module goes the same way, in plain words.
    library_level = max(number, logging.WARNING)
    logging.basicConfig(level=library_level, stream=stream, format="%(levelname)s %(name)s %(message)s", force=True)


def _as_text(stream: TextIO) -> list[structlog.typing.Processor]:
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty())]


def _as_json() -> list[structlog.typing.Processor]:
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(
            serializer=lambda event, **_: msgspec.json.encode(event, enc_hook=str).decode()
        ),
    ]
