"""Times as Docker's clients write and read them, in whole nanoseconds since the epoch: no digit is lost on the way."""

import functools
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Final

from lading.errors import InvalidArgumentError

ZERO: Final = "0001-01-01T00:00:00Z"
"""What Go shows for a time that is not set."""
SECOND: Final = 10**9

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST: Final = -62_135_596_800
_LATEST: Final = 253_402_300_799
_STAMP: Final = re.compile(r"(-?[0-9]{1,12})(?:\.([0-9]{1,9}))?")
_RFC3339: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[Tt]([0-9]{2}(?::[0-9]{2}(?::[0-9]{2})?)?)(?:\.([0-9]{1,9})[0-9]*)?)?([Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)
_UNITS: Final = {
    "h": 3600 * SECOND,
    "m": 60 * SECOND,
    "s": SECOND,
    "ms": 10**6,
    "us": 1000,
    "µs": 1000,
    "ns": 1,
}
_DURATION_PART: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(ns|us|µs|ms|s|m|h)")


@functools.lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


def format_nano(nano: int) -> str:
    """As `format_moment`, but 0 is no time: `ZERO`."""
    return format_moment(nano) if nano else ZERO


def format_moment(nano: int) -> str:
    """RFC 3339 in UTC with up to nine decimals, trailing zeros dropped, as Go's RFC3339Nano.

    The format has the years 1 to 9999; what is outside of them is shown as the nearest second in them.
    """
    seconds, rest = divmod(min(max(nano, _EARLIEST * SECOND), _LATEST * SECOND), SECOND)
    decimals = f".{rest:09}".rstrip("0") if rest else ""
    return f"{_second(seconds)}{decimals}Z"


def parse_rfc3339(text: str) -> int:
    """The time of RFC 3339 text, whose clock and zone (UTC) may be left out. Raises `InvalidArgumentError`."""
    match = _RFC3339.fullmatch(text)
    if match is not None:
        zone = "+00:00" if match[4] in (None, "Z", "z") else match[4]
        clock = (match[2] or "00").ljust(2, "0")
        clock += ":00" * (2 - clock.count(":"))
        try:
            moment = datetime.fromisoformat(f"{match[1]}T{clock}{zone}") - _EPOCH
        except ValueError:
            pass  # a date that does not exist: refused below like any other text
        else:
            return (moment.days * 86_400 + moment.seconds) * SECOND + int((match[3] or "").ljust(9, "0"))
    raise InvalidArgumentError(f"invalid time {text[:80]!r}", hint="use RFC 3339: 2026-01-31T12:00:00Z")


def parse_nano(text: str) -> int:
    """As `parse_rfc3339`, but 0 for `ZERO` and for whatever is no time: for text that only informs."""
    try:
        return 0 if text == ZERO else parse_rfc3339(text)
    except InvalidArgumentError:
        return 0


def parse_query(text: str, default: int = 0) -> int:
    """A ``since`` or ``until``: seconds with up to nine decimals, or RFC 3339; ``default`` if empty or zero.

    Raises `InvalidArgumentError`.
    """
    if not text or text == "0":
        return default
    if stamp := _STAMP.fullmatch(text):
        return int(stamp[1]) * SECOND + int((stamp[2] or "").ljust(9, "0"))
    try:
        return parse_rfc3339(text)
    except InvalidArgumentError as exc:
        raise InvalidArgumentError(
            exc.message, hint="give seconds since the epoch, or RFC 3339", subject=text[:80]
        ) from exc


def parse_duration(text: str) -> int:
    """The nanoseconds of a Go duration such as ``1h30m`` or ``10ms``. Raises `InvalidArgumentError`."""
    rest = text.removeprefix("-").removeprefix("+")
    nano, position = 0, 0
    while part := _DURATION_PART.match(rest, position):
        nano += round(float(part[1]) * _UNITS[part[2]])
        position = part.end()
    if not position or position != len(rest):
        raise InvalidArgumentError(f"invalid duration {text[:80]!r}", hint="use e.g. 90s, 10m or 1h30m")
    return -nano if text.startswith("-") else nano


def parse_moment(text: str, now: int) -> int:
    """A point in time as `parse_query`, or a Go duration before ``now``. Raises `InvalidArgumentError`."""
    try:
        if _STAMP.fullmatch(text) or re.match(r"[0-9]{4}-", text):
            return parse_query(text)
        return now - parse_duration(text)
    except InvalidArgumentError as exc:
        raise InvalidArgumentError(
            f'failed to parse value as time or duration: "{text[:80]}"', hint=exc.hint, subject=exc.subject
        ) from exc


def ago(nano: int, *, now: int) -> str:
    """A duration in words, as in ``docker ps``: ``Less than a second``, ``5 minutes``, ``About an hour`` …"""
    seconds = max(0, now - nano) // SECOND
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


def of_datetime(moment: datetime) -> int:
    """Nanoseconds since the epoch of an aware `datetime`, exact to its microsecond."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * SECOND + delta.microseconds * 1000


def now_nano() -> int:
    """The present moment."""
    return time.time_ns()
