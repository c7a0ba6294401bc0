"""Times as Docker's clients write them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from lading.errors import InvalidArgumentError

_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_FRACTION: Final = re.compile(r"(\.[0-9]{1,9})[0-9]*")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration(text: str) -> timedelta:
    """A Go duration such as ``1h30m`` or ``10ms``. Raises `InvalidArgumentError`."""
    rest = text.removeprefix("-").removeprefix("+")
    seconds, position = 0.0, 0
    while position < len(rest):
        part = _DURATION_PART.match(rest, position)
        if part is None:
            break
        seconds += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if not rest or position != len(rest):
        raise InvalidArgumentError(
            f"invalid duration {text!r}", hint="use e.g. 90s, 10m or 1h30m", subject=text
        )
    return timedelta(seconds=-seconds if text.startswith("-") else seconds)


def parse_moment(text: str, now: datetime) -> datetime:
    """A point in time: RFC 3339, its shortened forms, seconds since the epoch, or a Go duration before ``now``."""
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
        return _EPOCH + timedelta(seconds=float(text))
    if re.match(r"[0-9]{4}-", text):
        try:
            moment = datetime.fromisoformat(_FRACTION.sub(lambda m: m[1][:7], text))
        except ValueError as exc:
            raise InvalidArgumentError(
                f"invalid time {text!r}", hint="use RFC 3339, e.g. 2026-01-31T12:00:00Z", subject=text
            ) from exc
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return now - parse_duration(text)


def format_rfc3339(moment: datetime) -> str:
    """RFC 3339 in UTC with as many fraction digits as needed, as Go's RFC3339Nano."""
    utc = moment.astimezone(UTC)
    fraction = f".{utc.microsecond:06d}".rstrip("0").rstrip(".")
    return utc.strftime("%Y-%m-%dT%H:%M:%S") + fraction + "Z"


def to_nano(moment: datetime) -> int:
    """Nanoseconds since the epoch, exact to the microsecond."""
    delta = moment.astimezone(UTC) - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 10**9 + delta.microseconds * 1000


def from_nano(nano: int) -> datetime:
    """The UTC time of nanoseconds since the epoch, cut to the microsecond."""
    return _EPOCH + timedelta(microseconds=nano // 1000)


def format_nano(nano: int) -> str:
    """RFC 3339 in UTC of nanoseconds since the epoch, with all its digits, as Go's RFC3339Nano."""
    seconds, rest = divmod(nano, 10**9)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S") + fraction + "Z"
