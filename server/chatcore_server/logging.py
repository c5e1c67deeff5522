"""Logs on standard error: readable on a terminal, one JSON object a line otherwise. Never one line per message.

Standard output belongs to the ready line alone.
"""

import logging
import sys
from typing import TextIO

import msgspec
import structlog

Logger = structlog.typing.FilteringBoundLogger


def get_logger() -> Logger:
    logger: Logger = structlog.get_logger()
    return logger


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """Once, before anything is logged."""
    stream = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if stream.isatty():
        final: list[structlog.typing.Processor] = [structlog.dev.ConsoleRenderer()]
    else:
        final = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(
                serializer=lambda event, **_: msgspec.json.encode(event, enc_hook=str).decode()
            ),
        ]
    structlog.configure(
        processors=shared + final,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    # What libraries log by the standard module goes the same way, in plain words.
    logging.basicConfig(level=logging.WARNING, stream=stream, format="%(levelname)s %(name)s %(message)s", force=True)
