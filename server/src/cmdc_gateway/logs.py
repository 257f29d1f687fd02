"""The server's log: one line per entry on stderr, without payloads and secrets."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TextIO, cast

import structlog

_LIBRARIES = ("uvicorn", "uvicorn.error", "asyncio", "httpx", "httpcore", "LiteLLM", "websockets")


class _LossyStream:
    """A stream that drops text which cannot be written: the disk of the log may be full (DUR-5)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def configure(level: str) -> None:
    """Configure logging for the process: readable on a terminal, JSON otherwise. `level` as in the standard library."""
    number = logging.getLevelNamesMapping()[level.upper()]
    readable = sys.stderr.isatty()
    # Plain tracebacks: the other formatters show the values of variables, which may contain keys and prompts.
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *(() if readable else (structlog.processors.format_exc_info,)),
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if readable
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _LossyStream(sys.stderr))),
    )
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", force=True
    )
    for name in _LIBRARIES:  # at lower levels they log URLs and payloads
        logging.getLogger(name).setLevel(logging.WARNING)
