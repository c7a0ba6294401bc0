"""Small values as Go reads them: durations, sizes, truth, numbers, and comma-separated fields."""

import csv
import re
from typing import Final

from lading.formats.dockerfile.errors import DockerfileError

_UNITS: Final = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "μs": 1000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_OVERFLOW: Final = 1 << 63
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([^0-9.]*)")
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_TRUTHS: Final = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


def duration(text: str) -> int:
    """Nanoseconds of a Go duration such as ``1m30s``. Raises `DockerfileError`."""
    body = text.lstrip("+-") if text[:1] in ("+", "-") else text
    if body == "0":
        return 0
    total, place = 0, 0
    while match := _PART.match(body, place):
        unit = match[2]
        if unit not in _UNITS:
            what = f'unknown unit "{unit}"' if unit else "missing unit"
            raise DockerfileError(f'time: {what} in duration "{text}"')
        part = float(match[1]) * _UNITS[unit]
        if part >= _OVERFLOW or total + round(part) >= _OVERFLOW:
            raise DockerfileError(f'time: invalid duration "{text}"')
        total += round(part)
        place = match.end()
    if not place or place != len(body):
        raise DockerfileError(f'time: invalid duration "{text}"')
    return -total if text.startswith("-") else total


def size(text: str) -> int:
    """Bytes of a size such as ``64m`` or ``1.5GiB``, always in powers of 1024. Raises `DockerfileError`."""
    match = _SIZE.fullmatch(text)
    found = float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " ") if match else _OVERFLOW
    if found >= _OVERFLOW:
        raise DockerfileError(f"invalid size: '{text}'")
    return int(found)


def truth(text: str) -> bool | None:
    """A boolean as Go's ``strconv.ParseBool`` takes it; ``None`` if it is none."""
    return _TRUTHS.get(text)


def number(text: str, *, base: int = 10, bits: int = 32) -> int | None:
    """An unsigned number; ``None`` if it is none or does not fit."""
    digits = "[0-7]+" if base == 8 else "[0-9]+"
    value = int(text, base) if re.fullmatch(digits, text) and len(text) <= 30 else -1
    return value if 0 <= value < 1 << bits else None


def fields(text: str) -> list[str]:
    """Comma-separated fields, where quotes keep commas (RFC 4180). Raises `DockerfileError`."""
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as exc:
        raise DockerfileError(str(exc)) from exc
    return rows[0] if rows else []
