"""Patterns that name files: those of ``.dockerignore``, of ``--exclude``, and the wildcards of COPY and ADD.

Ignore patterns are matched in order and the last that fits decides; ``!`` takes back; what fits a directory fits all that is in
it. ``*`` and ``?`` stop at a ``/``, ``**`` does not (moby's patternmatcher, Go's ``path.Match``).
"""

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from lading.formats.dockerfile.directives import BOM
from lading.formats.dockerfile.errors import DockerfileError


def clean(path: str) -> str:
    """The shortest equal path (Go's ``path.Clean``); ``.`` for nothing."""
    return re.sub(r"^/+", "/", posixpath.normpath(path)) if path else "."


def read_ignore(data: bytes) -> list[str]:
    """The patterns of a ``.dockerignore``, ready to be sent to a client."""
    patterns: list[str] = []
    for line in data.removeprefix(BOM).decode("utf-8", "surrogateescape").split("\n"):
        pattern = "" if line.startswith("#") else line.strip()
        if not pattern:
            continue
        inverted = pattern.startswith("!")
        if inverted:
            pattern = pattern[1:].strip()
        if pattern:
            pattern = clean(pattern)
            pattern = pattern[1:] if len(pattern) > 1 and pattern.startswith("/") else pattern
        patterns.append("!" + pattern if inverted else pattern)
    return patterns


@dataclass(frozen=True)
class Pattern:
    """One pattern; ``text`` is clean and without its ``!``."""

    text: str
    inverted: bool = False

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """It as a regular expression for a whole path."""
        return re.compile(_translated(self.text), re.DOTALL)

    def matches(self, path: str) -> bool:
        """Whether it fits this very path."""
        return self.regex.fullmatch(path) is not None


def _translated(pattern: str) -> str:
    if (
        pattern.startswith("**")
        and not pattern.startswith("**/")
        and not re.search(r"[*?\[\]\\]", pattern[2:])
    ):
        return ".*" + re.escape(pattern[2:])
    parts: list[str] = []
    place = 0
    while place < len(pattern):
        char = pattern[place]
        place += 1
        if pattern.startswith("**", place - 1):
            place += 1
            place += pattern.startswith("/", place)
            parts.append(".*" if place == len(pattern) else "(?:.*/)?")
        elif char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[":
            part, place = _class(pattern, place)
            parts.append(part)
        elif char == "\\" and place < len(pattern):
            parts.append(re.escape(pattern[place]))
            place += 1
        else:
            parts.append(re.escape(char))
    return "".join(parts)


def _class(pattern: str, place: int) -> tuple[str, int]:
    """A ``[…]`` whose bracket stands before ``place``, and the place after it. Raises `DockerfileError`."""
    parts: list[str] = []
    negated = pattern.startswith("^", place)
    place += negated
    while not pattern.startswith("]", place) or not parts:
        low, place = _member(pattern, place)
        high = low
        if pattern.startswith("-", place):
            high, place = _member(pattern, place + 1)
        parts.append(f"{re.escape(low)}-{re.escape(high)}" if low <= high else "")
    members = "".join(parts)
    if negated:
        return f"[^{members}]" if members else ".", place + 1
    return f"[{members}]" if members else "(?!)", place + 1


def _member(pattern: str, place: int) -> tuple[str, int]:
    char = pattern[place : place + 1]
    if char == "\\":
        place += 1
        char = pattern[place : place + 1]
    elif char in ("-", "]"):
        char = ""
    if not char:
        raise DockerfileError(f'syntax error in pattern "{pattern}"')
    return char, place + 1


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(_translated(pattern), re.DOTALL)


def match(pattern: str, path: str) -> bool:
    """Go's ``path.Match``: the whole path, and ``*`` not beyond a ``/``. Raises `DockerfileError` for a bad pattern."""
    return _compiled(re.sub(r"\*+", "*", pattern)).fullmatch(path) is not None


def has_wildcard(text: str) -> bool:
    """Whether there is a wildcard that no backslash escapes."""
    return re.search(r"(?<!\\)(?:\\\\)*[*?\[]", text) is not None


class Matcher:
    """Patterns together.

    Raises `DockerfileError` for a pattern that is none.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns: Sequence[Pattern] = [one for text in patterns if (one := _pattern(text)) is not None]
        self.inverts = any(one.inverted for one in self.patterns)

    def matches(self, path: str) -> bool:
        """Whether a path, relative and clean, is matched, by itself or through a directory above it."""
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        matched = False
        for pattern in self.patterns:
            if pattern.inverted == matched and any(pattern.matches(one) for one in reversed(above)):
                matched = not pattern.inverted
        return matched

    def may_reach(self, directory: str) -> bool:
        """Whether something below a directory may be matched."""
        return any(_leads(pattern.text, directory) for pattern in self.patterns)

    def may_hold(self, directory: str) -> bool:
        """Whether something below a matched directory may be taken back: a walk has to go on there."""
        prefix = directory + "/"
        return any(
            pattern.inverted and (pattern.text.startswith(prefix) or has_wildcard(pattern.text))
            for pattern in self.patterns
        )


def _leads(pattern: str, directory: str) -> bool:
    """Whether a pattern's first parts fit a directory."""
    wanted, given = pattern.split("/"), directory.split("/")
    for place, part in enumerate(given):
        if place >= len(wanted):
            return False
        if "**" in wanted[place]:
            return True
        if not _compiled(wanted[place]).fullmatch(part):
            return False
    return len(wanted) > len(given)


def _pattern(text: str) -> Pattern | None:
    text = text.strip()
    if not text:
        return None
    text = clean(text)
    inverted = text.startswith("!")
    if inverted:
        text = text[1:]
        if not text:
            raise DockerfileError('illegal exclusion pattern: "!"')
    pattern = Pattern(text=text, inverted=inverted)
    try:
        _ = pattern.regex
    except (DockerfileError, re.error) as exc:
        raise DockerfileError(f'syntax error in pattern "{text}"') from exc
    return pattern
