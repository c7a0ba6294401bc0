"""Signals by name or number, and exit codes of failed starts."""

import re
import signal
from typing import Final

from lading.errors import InvalidArgumentError

COMMAND_NOT_INVOKABLE: Final = 126
COMMAND_NOT_FOUND: Final = 127
START_FAILED: Final = 128


def parse(text: str) -> int:
    """``SIGTERM``, ``TERM``, ``15`` or ``RTMIN+3`` as a number. Raises `InvalidArgumentError`."""
    name = text.strip().upper()
    if name.isascii() and name.isdigit() and len(name) <= 2:
        number = int(name)
        if 1 <= number <= 64:
            return number
        raise InvalidArgumentError(f"invalid signal: {text}", subject=text)
    name = name.removeprefix("SIG")
    base, plus, offset = name.partition("+")
    if plus and base == "RTMIN" and offset.isdigit() and int(offset) <= 15:
        return int(signal.SIGRTMIN) + int(offset)
    base, minus, offset = name.partition("-")
    if minus and base == "RTMAX" and offset.isdigit() and int(offset) <= 14:
        return int(signal.SIGRTMAX) - int(offset)
    found = signal.Signals.__members__.get(f"SIG{name}")
    if found is None:
        raise InvalidArgumentError(f"invalid signal: {text[:40]}", subject=text[:40])
    return int(found)


def parse_stop(text: str) -> int | None:
    """As `parse`, for the signal that is to stop a container: Docker takes any number; ``None`` for one that none is here."""
    found = re.fullmatch("([+-]?)0*([0-9]{1,19})", text)
    number = int(found[1] + found[2]) if found else 0
    if not 0 < abs(number) < 1 << 63:
        return parse(text)
    return number if 0 < number <= signal.SIGRTMAX else None


def start_exit_code(words: str) -> int:
    """The exit code that the runtime's words about a failed start stand for."""
    lowered = words.lower()
    if "executable file not found" in lowered or "no such file or directory" in lowered:
        return COMMAND_NOT_FOUND
    if "permission denied" in lowered or "is a directory" in lowered:
        return COMMAND_NOT_INVOKABLE
    return START_FAILED
