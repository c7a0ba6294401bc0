"""A shell pattern on the value of a variable: ``*``, ``?`` and escapes, no brackets; neither wildcard stands for a newline.

What a regular expression does with ``*a*a*a*b`` takes time by a power of the text's length, and a Dockerfile may come from a
stranger. Here the pattern is divided at its stars. Each piece is taken where it first stands after the one before it; the last
one where it last stands, if the match is to be long. That finds the match that trying everything would, and in one pass.
"""

import re
from typing import Self

from lading.formats.dockerfile.errors import DockerfileError

_Piece = tuple[str | None, ...]
"""What stands between stars: characters, and ``None`` for any."""


class Glob:
    """A pattern. With ``greedy`` it matches as much as it can, else as little."""

    def __init__(self, pattern: str, *, greedy: bool) -> None:
        """Raises `DockerfileError` for an escape that means nothing."""
        self._set(_pieces(pattern), greedy)

    def _set(self, pieces: list[_Piece], greedy: bool) -> None:
        self._raw = pieces
        self._greedy = greedy
        self._pieces = [_Finder(piece) for piece in pieces]

    def turned(self) -> Self:
        """The pattern for a text that is read from its end."""
        made = object.__new__(type(self))
        made._set([piece[::-1] for piece in reversed(self._raw)], self._greedy)
        return made

    def end_at(self, text: str, start: int) -> int | None:
        """Where the match ends that begins at ``start``; ``None`` if there is none."""
        first, *others = self._pieces
        if first.first(text, start, start + first.length) != start:
            return None
        place = start + first.length
        for number, piece in enumerate(others, 1):
            newline = text.find("\n", place)
            end = (len(text) if newline < 0 else newline) + piece.length
            last = self._greedy and number == len(others)
            found = piece.last(text, place, end) if last else piece.first(text, place, end)
            if found < 0:
                return None
            place = found + piece.length
        return place

    def cut(self, text: str, *, everywhere: bool) -> list[str]:
        """What is left of a text between matches: of the first, or of all. An empty match right after another one is none."""
        parts: list[str] = []
        place = kept = 0
        before = -1
        while place <= len(text) and (start := self._pieces[0].first(text, place, len(text))) >= 0:
            end = self.end_at(text, start)
            if end is None:  # whatever comes later in this line lacks the same piece
                newline = text.find("\n", start)
                if newline < 0:
                    break
                place = newline + 1
            elif start == end == before:
                place = start + 1
            else:
                parts.append(text[kept:start])
                kept = before = end
                place = end if end > start else start + 1
                if not everywhere:
                    break
        return [*parts, text[kept:]]


class _Finder:
    """Finds one piece within a part of a text; -1 if it is not there."""

    def __init__(self, piece: _Piece) -> None:
        self.length = len(piece)
        self._plain = None if None in piece else "".join(char or "" for char in piece)
        self._regex = re.compile("".join("." if char is None else re.escape(char) for char in piece))

    def first(self, text: str, start: int, end: int) -> int:
        if self._plain is not None:
            return text.find(self._plain, start, end)
        found = self._regex.search(text, start, end)
        return found.start() if found else -1

    def last(self, text: str, start: int, end: int) -> int:
        if self._plain is not None:
            return text.rfind(self._plain, start, end)
        places = range(min(end, len(text)) - self.length, start - 1, -1)
        return next((place for place in places if self._regex.match(text, place)), -1)


def _pieces(pattern: str) -> list[_Piece]:
    pieces: list[list[str | None]] = [[]]
    place = 0
    while place < len(pattern):
        char = pattern[place]
        place += 1
        if char == "*":
            pieces.append([])
        elif char == "?":
            pieces[-1].append(None)
        elif char == "\\":
            escaped = pattern[place : place + 1]
            if escaped in ("}", "/"):
                continue
            if escaped not in ("*", "?", "\\"):
                raise DockerfileError(
                    f"invalid pattern ({pattern}) in substitution: invalid escape '\\{escaped}'"
                )
            pieces[-1].append(escaped)
            place += 1
        else:
            pieces[-1].append(char)
    return [tuple(piece) for piece in pieces]
