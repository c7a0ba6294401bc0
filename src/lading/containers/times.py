"""Times as Docker writes them: RFC 3339 in UTC with up to nine decimals, trailing zeros dropped."""

import functools
import re
import time
from datetime import UTC, datetime
from typing import Final

from lading.errors import InvalidArgumentError

ZERO: Final = "0001-01-01T00:00:00Z"
"""What Go shows for a time that is not set."""
_TEXT: Final = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?\d*(Z|[+-]\d{2}:?\d{2})")


@functools.lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def format_nano(nano: int) -> str:
    """RFC 3339 text of nanoseconds since the epoch; 0 is `ZERO`."""
    if not nano:
        return ZERO
    seconds, rest = divmod(nano, 10**9)
    decimals = f".{rest:09}".rstrip("0") if rest else ""
    return f"{_second(seconds)}{decimals}Z"


def parse_nano(text: str) -> int:
    """Nanoseconds since the epoch of RFC 3339 text; 0 for `ZERO` and for text that is no time."""
    match = _TEXT.fullmatch(text)
    if not match or text == ZERO:
        return 0
    zone = "+00:00" if match[3] == "Z" else match[3]
    try:
        moment = datetime.fromisoformat(match[1] + zone)
    except ValueError:
        return 0
    return int(moment.timestamp()) * 10**9 + int((match[2] or "").ljust(9, "0"))


def parse_query(text: str) -> int:
    """Nanoseconds of ``since``/``until``: seconds with decimals, or RFC 3339; 0 if empty or zero.

    Raises `InvalidArgumentError`.
    """
    if not text or text == "0":
        return 0
    if match := re.fullmatch(r"(-?\d{1,12})(?:\.(\d{1,9}))?", text):
        return int(match[1]) * 10**9 + int((match[2] or "").ljust(9, "0"))
    if nano := parse_nano(text):
        return nano
    raise InvalidArgumentError(
        f"invalid time {text[:80]!r}", hint="give seconds since the epoch, or RFC 3339"
    )


def ago(nano: int, *, now: int) -> str:
    """A duration in words, as in ``docker ps``: ``Less than a second``, ``5 minutes``, ``About an hour`` …"""
    seconds = max(0, now - nano) // 10**9
    minutes, hours = seconds // 60, round(seconds / 3600)
    for limit, words in (
        (seconds < 1, "Less than a second"),
        (seconds == 1, "1 second"),
        (seconds < 60, f"{seconds} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 14, f"{hours // 24} days"),
        (hours < 24 * 60, f"{hours // 24 // 7} weeks"),
        (hours < 24 * 365 * 2, f"{hours // 24 // 30} months"),
    ):
        if limit:
            return words
    return f"{hours // 24 // 365} years"


def now_text() -> str:
    """The present moment."""
    return format_nano(time.time_ns())


def utc(nano: int) -> datetime:
    """A `datetime` of nanoseconds since the epoch."""
    return datetime.fromtimestamp(nano / 1e9, UTC)


def now_nano() -> int:
    """The present moment, in nanoseconds since the epoch."""
    return time.time_ns()
