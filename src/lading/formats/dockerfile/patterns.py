"""Patterns that name files: those of ``.dockerignore``, of ``--exclude``, and the wildcards of COPY and ADD.

Ignore patterns are matched in order and the last that fits decides; ``!`` takes back; what fits a directory fits all that is in
it. ``*`` and ``?`` stop at a ``/``, ``**`` does not (moby's patternmatcher, Go's ``path.Match``).
"""

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from lading.formats.dockerfile.directives import BOM
from lading.formats.dockerfile.errors import DockerfileError

PATTERN_LIMIT: Final = 4096
"""Characters of a pattern; a path has no more."""
Match = Callable[[str], bool]
_STAR: Final = "[^/]*"
_DEEP: Final = "(?:.*/)?"
"""``**/``: any directories, or none."""
_REST: Final = ".*"
_WILD: Final = frozenset({_STAR, _DEEP, _REST})
_END: Final = r"\Z"


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
    def matches(self) -> Match:
        """Whether it fits this very path. Raises `DockerfileError` for a pattern that is none."""
        return _matching(self.text)


def _matching(pattern: str) -> Match:
    """A function that says whether a whole path fits, in time by the product of both lengths at most."""
    if len(pattern) > PATTERN_LIMIT:
        raise DockerfileError(f"a pattern has over {PATTERN_LIMIT} characters: {pattern[:64]}…")
    tokens = _tokens(pattern)
    text, open_ = _regex(tokens)
    if open_ > 1:
        return Automaton(tokens).matches
    regex = re.compile(text, re.DOTALL)
    return lambda path: regex.fullmatch(path) is not None


def _tokens(pattern: str) -> list[str]:
    """A pattern as regular expressions: one for each character, and `_STAR`, `_DEEP`, `_REST`."""
    if (
        pattern.startswith("**")
        and not pattern.startswith("**/")
        and not re.search(r"[*?\[\]\\]", pattern[2:])
    ):
        return [_REST, *map(re.escape, pattern[2:])]
    tokens: list[str] = []
    place = 0
    while place < len(pattern):
        char = pattern[place]
        place += 1
        if pattern.startswith("**", place - 1):
            place += 1
            place += pattern.startswith("/", place)
            tokens.append(_REST if place == len(pattern) else _DEEP)
        elif char == "*":
            tokens.append(_STAR)
        elif char == "?":
            tokens.append("[^/]")
        elif char == "[":
            part, place = _class(pattern, place)
            tokens.append(part)
        elif char == "\\" and place < len(pattern):
            tokens.append(re.escape(pattern[place]))
            place += 1
        else:
            tokens.append(re.escape(char))
    return tokens


def _regex(tokens: Sequence[str]) -> tuple[str, int]:
    """All tokens as one regular expression, and how many of its wildcards are tried at more than one length.

    What follows a star may be taken where it first stands, for good, if another star follows it, or the end, or if a ``/`` is
    in it: a star stops there. That is an atomic group, which saves trying all lengths of all stars.
    """
    parts: list[str] = []
    open_ = place = 0
    while place < len(tokens):
        token = tokens[place]
        place += 1
        if token != _STAR:
            open_ += token in _WILD and place < len(tokens)
            parts.append(token)
            continue
        start = place
        while place < len(tokens) and tokens[place] not in _WILD:
            place += 1
        segment = tokens[start:place]
        text = "".join(segment)
        settled = "/" in segment or all(one in (_STAR, _REST) for one in tokens[place : place + 1])
        if settled and not any(one != "/" and re.fullmatch(one, "/") for one in segment):
            parts.append(f"(?>[^/]*?{text}{'' if place < len(tokens) else _END})")
        else:
            open_ += 1
            parts.append(_STAR + text)
    return "".join(parts), open_


class Automaton:
    """Tokens as states, of which many are taken at a time: bit ``n`` of a number is set if the first ``n`` tokens fit so far."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._singles: list[tuple[int, re.Pattern[str]]] = []
        self._any = self._star = self._slash = self._skip = self._skip_two = 0
        place = 0
        for token in tokens:
            here = 1 << place
            if token == _DEEP:  # a state to pass by, and one to stay in up to a slash
                self._skip |= here
                self._skip_two |= here
                self._any |= here << 1
                self._slash |= here << 1
                place += 2
                continue
            if token in _WILD:
                self._skip |= here
                self._any |= here if token == _REST else 0
                self._star |= here if token == _STAR else 0
            else:
                self._singles.append((here, re.compile(token, re.DOTALL)))
            place += 1
        self._final = 1 << place
        self._known: dict[str, int] = {}

    def matches(self, path: str) -> bool:
        """Whether a whole path fits."""
        states = self._closed(1)
        for char in path:
            stay = self._any | (self._star if char != "/" else 0)
            states = self._closed(states & stay | (states & self._taking(char)) << 1)
        return bool(states & self._final)

    def _taking(self, char: str) -> int:
        """The states that this character leads out of."""
        if char not in self._known:
            found = self._slash if char == "/" else 0
            for state, regex in self._singles:
                found |= state if regex.fullmatch(char) else 0
            self._known[char] = found
        return self._known[char]

    def _closed(self, states: int) -> int:
        """With those that need no character."""
        while True:
            more = states | (states & self._skip) << 1 | (states & self._skip_two) << 2
            if more == states:
                return states
            states = more


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


_compiled = lru_cache(maxsize=256)(_matching)


def match(pattern: str, path: str) -> bool:
    """Go's ``path.Match``: the whole path, and ``*`` not beyond a ``/``. Raises `DockerfileError` for a bad pattern."""
    return _compiled(re.sub(r"\*+", "*", pattern))(path)


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
        if not _compiled(wanted[place])(part):
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
        _ = pattern.matches
    except (DockerfileError, re.error) as exc:
        raise DockerfileError(f'syntax error in pattern "{text}"') from exc
    return pattern
