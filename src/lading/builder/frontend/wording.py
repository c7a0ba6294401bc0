"""Values in the words that Go's ``fmt`` has for them: histories are compared by them."""

from collections.abc import Iterable
from typing import Final

_ESCAPES: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
}


def quoted(text: str) -> str:
    """``%q`` of a string."""
    return '"' + "".join(_escaped(char, '"') for char in text) + '"'


def quoted_list(texts: Iterable[str]) -> str:
    """``%q`` of a list of strings."""
    return f"[{' '.join(quoted(text) for text in texts)}]"


def plain_list(texts: Iterable[str]) -> str:
    """``%v`` of a list of strings."""
    return f"[{' '.join(texts)}]"


def quoted_number(number: int) -> str:
    """``%q`` of a number: the character with this code."""
    char = chr(number) if 0 <= number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF else "\ufffd"
    return f"'{_escaped(char, chr(39))}'"


def _escaped(char: str, quote: str) -> str:
    if char == quote:
        return "\\" + char
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def duration(nano: int) -> str:
    """``time.Duration.String``: ``1h2m3.5s``, ``1.5ms``, ``0s``."""
    if nano == 0:
        return "0s"
    sign, rest = ("-", -nano) if nano < 0 else ("", nano)
    for unit, size, limit in (("ns", 1, 1000), ("µs", 1000, 1_000_000), ("ms", 1_000_000, 1_000_000_000)):
        if rest < limit:
            return f"{sign}{_decimal(rest, size)}{unit}"
    seconds, fraction = divmod(rest, 1_000_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = _decimal(seconds * 1_000_000_000 + fraction, 1_000_000_000) + "s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return sign + (f"{hours}h{text}" if hours else text)


def _decimal(value: int, size: int) -> str:
    whole, part = divmod(value, size)
    digits = str(part).rjust(len(str(size)) - 1, "0").rstrip("0") if size > 1 else ""
    return f"{whole}.{digits}" if digits else str(whole)
