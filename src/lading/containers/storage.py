"""``--storage-opt``: how much a container's writable layer may hold."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from lading.errors import InvalidArgumentError

_SIZE: Final = "size"
_DAEMON: Final = ("size", "overlay2.size")
"""Names that the daemon's option may have; the second is dockerd's."""
_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


def limit(options: Mapping[str, str] | None, *, default: int = 0) -> int:
    """Bytes that ``HostConfig.StorageOpt`` asks for; 0 for no limit. Raises `InvalidArgumentError`."""
    unknown = [name for name in options or () if name.lower() != _SIZE]
    if unknown:
        raise InvalidArgumentError(
            f"HostConfig.StorageOpt: unknown option {unknown[0]}", hint="size=<bytes> is what there is"
        )
    for text in (options or {}).values():
        return _bytes(text, "HostConfig.StorageOpt: size")
    return default


def default_limit(options: Sequence[str]) -> int:
    """What ``storage-opts`` of the daemon say of containers that do not say. Raises `InvalidArgumentError`."""
    found = 0
    for option in options:
        name, separator, text = option.partition("=")
        if name.strip().lower() not in _DAEMON or not separator:
            raise InvalidArgumentError(
                f"unknown option {option!r} in storage-opts", hint="overlay2.size=<bytes> is what there is"
            )
        found = _bytes(text, f"storage-opts: {name}")
    return found


def _bytes(text: str, what: str) -> int:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise InvalidArgumentError(
            f"{what}: {text[:80]!r} is no size", hint="give a number with k, m, g or t"
        )
    return int(float(match[1]) * (1 << _UNITS[match[2].lower()]))
