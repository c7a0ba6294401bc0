"""Parser directives: ``# key=value`` comments that stand before everything else, each once.

``syntax`` names the frontend, ``escape`` the escape character, ``check`` steers the build checks. The syntax is also found in
other kinds of files: as ``// syntax=…``, or as a key of a JSON document.
"""

import json
import re
from dataclasses import dataclass
from typing import Final, cast

from lading.formats.dockerfile.errors import DockerfileError, Lines

KEYS: Final = frozenset({"syntax", "escape", "check"})
BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Directive:
    """A directive as it stands."""

    key: str
    value: str
    lines: Lines

    @property
    def word(self) -> str:
        """The value up to its first space: for ``syntax``, the frontend without its arguments."""
        return self.value.partition(" ")[0]


class DirectiveReader:
    """Takes lines from the top of a file; after the first that is no directive there are no more."""

    def __init__(self, *, mark: str = "#", before: int = 0) -> None:
        self._pattern = re.compile(rf"{mark}\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*\Z", re.ASCII)
        self._line = before
        self._seen: set[str] = set()
        self._done = False

    def take(self, line: str) -> Directive | None:
        """The directive in this line. Raises `DockerfileError` for one that stands there twice."""
        self._line += 1
        match = None if self._done else self._pattern.match(line)
        key = match[1].lower() if match else ""
        if match is None or key not in KEYS:
            self._done = True
            return None
        lines = Lines(self._line, self._line)
        if key in self._seen:
            raise DockerfileError(f"only one {key} parser directive can be used", lines=lines)
        self._seen.add(key)
        return Directive(key, match[2], lines)


def directive(key: str, data: bytes) -> Directive | None:
    """The directive ``key`` of a Dockerfile."""
    before, text = _body(data)
    return _find(key, text, DirectiveReader(before=before))


def detect_syntax(data: bytes) -> Directive | None:
    """Which frontend a file of any format asks for."""
    before, text = _body(data)
    for mark in ("#", "//"):
        found = _find("syntax", text, DirectiveReader(mark=mark, before=before))
        if found:
            return found
    return _in_json(text, before)


def _body(data: bytes) -> tuple[int, str]:
    """How many lines are passed over (one that starts with ``#!``), and the rest."""
    text = data.removeprefix(BOM).decode("utf-8", "surrogateescape")
    if text.startswith("#!"):
        return 1, text.partition("\n")[2]
    return 0, text


def _find(key: str, text: str, reader: DirectiveReader) -> Directive | None:
    for line in text.split("\n"):
        try:
            found = reader.take(line.removesuffix("\r"))
        except DockerfileError:
            return None
        if found is None or found.key == key:
            return found
    return None


def _in_json(text: str, before: int) -> Directive | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        document = cast("object", json.loads(text))
    except (ValueError, RecursionError):
        return None
    value = cast("dict[str, object]", document).get("syntax") if isinstance(document, dict) else None
    return Directive("syntax", value, Lines(before, before)) if isinstance(value, str) else None
