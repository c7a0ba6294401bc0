"""The daemon's log: structlog to standard error, one event per line, text or JSON."""

import logging
import sys
from typing import Any, Final, Literal

import structlog

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}


def configure(level: str, form: Literal["text", "json"] = "text") -> None:
    """Set up logging for this process; may be called again to change the level."""
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Values are shown as repr: a line break from a client cannot forge a line of the log (hostile-input.md A2).
        processors += [
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=_LEVELS[level], stream=sys.stderr, force=True, format="level=%(levelname)s %(message)s"
    )
    for noisy in ("asyncio", "aiohttp", "hpack", "hyperframe", "h2"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
