"""``WWW-Authenticate`` challenges (RFC 7235 §4.1, RFC 6750 §3); sans-I/O."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_LIMIT: Final = 8192
_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105  the grammar of a token
_BLANKS: Final = re.compile(r"[ \t,]*")
_SCHEME: Final = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,)|$)")
_PARAMETER: Final = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*(?=,|$)')
_TOKEN68: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*[ \t]*(?=,|$)")
_ESCAPE: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: scheme and parameter names in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse(values: Iterable[str]) -> list[Challenge]:
    """All challenges of all ``WWW-Authenticate`` fields, in order; what cannot be understood is left out."""
    found: list[Challenge] = []
    for value in values:
        found += _parse_one(value[:_LIMIT])
    return found


def _parse_one(value: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = _skip(value, 0)
    while position < len(value):
        match = _SCHEME.match(value, position)
        if match is None:
            return found
        position = match.end()
        parameters: dict[str, str] = {}
        if token68 := _TOKEN68.match(value, position):
            position = token68.end()
        while parameter := _PARAMETER.match(value, _skip(value, position)):
            name = parameter[1].lower()
            text = parameter[3] if parameter[2] is None else _ESCAPE.sub(r"\1", parameter[2])
            parameters.setdefault(name, text)
            position = parameter.end()
        found.append(Challenge(match[1].lower(), parameters))
        position = _skip(value, position)
    return found


def _skip(value: str, position: int) -> int:
    match = _BLANKS.match(value, position)
    return match.end() if match else position
