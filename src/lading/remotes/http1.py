"""HTTP/1.1 as a client needs it, strictly (RFC 9112); sans-I/O.

A reply whose end two readers could place differently is refused (hostile-input.md R5): lengths are ASCII digits only, and a
reply has either a length or chunks.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from lading.remotes.errors import ProtocolError

HEAD_LIMIT: Final = 64 << 10
"""Bytes of a status line and its header fields."""
NO_LENGTH: Final = -1
"""The body ends with the connection."""
CHUNKED: Final = -2
"""The body is chunked."""

_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n\0]*)?")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DIGITS: Final = re.compile(r"[0-9]{1,19}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_UPLOADED: Final = re.compile(r"(?:bytes=)?([0-9]{1,19})-([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class Head:
    """Status and header fields of a reply; names in lower case, in order."""

    status: int
    fields: tuple[tuple[str, str], ...]
    minor: int = 1

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for key, value in self.fields if key == name]

    def get(self, name: str) -> str:
        """The first value of a field, or empty."""
        return next((value for key, value in self.fields if key == name), "")

    @property
    def keeps_alive(self) -> bool:
        """Whether the peer means to keep the connection."""
        said = ",".join(self.all("connection")).lower()
        return "close" not in said if self.minor else "keep-alive" in said


def parse_head(data: bytes) -> Head:
    """Read a status line and header fields, without the blank line that ends them. Raises `ProtocolError`."""
    lines = data.split(b"\r\n")
    match = _STATUS.fullmatch(lines[0])
    if match is None:
        raise ProtocolError(f"not an HTTP reply: {lines[0][:60]!r}")
    fields: list[tuple[str, str]] = []
    for line in lines[1:]:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not _TOKEN.fullmatch(name) or "\0" in value or "\n" in value or "\r" in value:
            raise ProtocolError(f"malformed header field {line[:60]!r}")
        fields.append((name.lower(), value.strip(" \t")))
    return Head(int(match[2]), tuple(fields), int(match[1]))


def body_length(head: Head, method: str) -> int:
    """How long the reply's body is: bytes, `NO_LENGTH` or `CHUNKED`. Raises `ProtocolError`."""
    encodings = head.all("transfer-encoding")
    lengths = head.all("content-length")
    if encodings and lengths:
        raise ProtocolError("the reply has both Content-Length and Transfer-Encoding")
    if any(value.lower() not in {"", "identity"} for value in head.all("content-encoding")):
        raise ProtocolError(
            f"the reply is encoded as {head.get('content-encoding')[:40]!r} though none was asked for"
        )
    length = NO_LENGTH
    if encodings:
        if [value.lower() for value in encodings] != ["chunked"]:
            raise ProtocolError(f"unknown Transfer-Encoding {encodings[0][:40]!r}")
        length = CHUNKED
    elif lengths:
        if len(set(lengths)) != 1:
            raise ProtocolError("the reply has two different lengths")
        length = parse_decimal(lengths[0], "Content-Length")
    if method == "HEAD" or head.status in {204, 304} or head.status < 200:
        return 0
    return length


def parse_decimal(text: str, what: str) -> int:
    """ASCII digits, and nothing else that `int` would take. Raises `ProtocolError`."""
    if not _DIGITS.fullmatch(text):
        raise ProtocolError(f"malformed {what} {text[:40]!r}")
    return int(text)


def parse_chunk_size(line: bytes) -> int:
    """The size that a chunk's first line announces. Raises `ProtocolError`."""
    match = _CHUNK.fullmatch(line)
    if match is None:
        raise ProtocolError(f"malformed chunk size {line[:40]!r}")
    return int(match[1], 16)


def parse_content_range(text: str) -> tuple[int, int, int | None]:
    """First byte, last byte and total size (None if unknown) of a 206 reply. Raises `ProtocolError`."""
    match = _RANGE.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise ProtocolError(f"malformed Content-Range {text[:60]!r}")
    return int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])


def parse_uploaded(text: str) -> int:
    """How many bytes an upload holds, by its ``Range`` field ("0-0" is what an empty upload says, too)."""
    match = _UPLOADED.fullmatch(text)
    if match is None or int(match[1]) != 0:
        raise ProtocolError(f"malformed Range {text[:60]!r} of an upload")
    last = int(match[2])
    return last + 1 if last else 0


def encode_request(method: str, target: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """A request's head. Raises `ProtocolError` for what would not be one request, such as a value with a line break."""
    lines = [f"{method} {target} HTTP/1.1"]
    if any(not 0x21 <= ord(c) <= 0x7E for c in target):
        raise ProtocolError("a request target has a blank or a character outside ASCII")
    for name, value in fields:
        if not _TOKEN.fullmatch(name) or any(c in value for c in "\r\n\0"):
            raise ProtocolError(f"header field {name[:40]!r} has a line break")
        lines.append(f"{name}: {value}")
    try:
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    except UnicodeEncodeError as exc:
        raise ProtocolError("a header field has a character outside Latin-1") from exc
