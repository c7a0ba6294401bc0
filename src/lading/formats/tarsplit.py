"""tar-split: what Docker's classic store remembers of a layer's tar stream, so that the tree gives the same bytes again.

The format of github.com/vbatts/tar-split: JSON objects, one a line, in the order of the stream. A *segment* (type 2) holds bytes
that are not content: headers, padding, the end of the archive. A *file* (type 1) names an entry; if it has a size, its content
follows here, out of the tree, and its CRC-64 (ISO polynomial, big-endian, base64) must be the one that was noted. Docker keeps
the lines gzipped in ``layerdb/<algorithm>/<chain ID>/tar-split.json.gz``.
"""

import base64
import binascii
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
from fastcrc import crc64
from typing_extensions import Buffer

from lading.errors import InvalidArgumentError, UnsupportedError
from lading.formats.tar.entry import Entry, EntryType
from lading.formats.tar.parser import TarParser

_FILE: Final = 1
_SEGMENT: Final = 2
SEGMENT_LIMIT: Final = 1 << 20
"""Most bytes of a segment that the packer makes: Docker's too cuts what follows an archive into such pieces."""
LINE_LIMIT: Final = 64 << 20
"""A line is refused when it is longer: no header and no padding is."""


class TarSplitError(InvalidArgumentError):
    """The lines are malformed, or the tree is not what they were made of."""

    code = "tar-split"


class DuplicatePathError(UnsupportedError):
    """A layer has two contents for a path: the tree keeps the second, so that the first is lost. Docker refuses it too."""

    code = "duplicate-path"


class _Line(msgspec.Struct, frozen=True):
    type: int
    name: str = ""
    name_raw: str = ""
    size: int = 0
    payload: str | None = None
    position: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes to be given out as they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class File:
    """Content to be taken out of the tree. ``name`` is the entry's own, byte-exact through ``surrogateescape``."""

    name: str
    size: int
    crc: int


Piece = Segment | File
_decoder: Final = msgspec.json.Decoder(_Line)


def parse(line: Buffer) -> Piece:
    """One line.

    Raises:
        TarSplitError: It is no such object.

    """
    try:
        found = _decoder.decode(line)
        payload = base64.b64decode(found.payload or "", validate=True)
        raw = base64.b64decode(found.name_raw, validate=True)
    except (msgspec.DecodeError, binascii.Error, UnicodeError) as exc:
        raise TarSplitError(f"malformed tar-split line: {exc}") from exc
    if found.type == _SEGMENT:
        return Segment(payload)
    if found.type != _FILE or found.size < 0 or (found.size and len(payload) != 8):
        raise TarSplitError(f"malformed tar-split line at position {found.position}")
    name = raw.decode("utf-8", "surrogateescape") if raw else found.name
    return File(name, found.size, int.from_bytes(payload, "big"))


class LineReader:
    """Cuts a stream of inflated bytes into pieces."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: Buffer) -> Iterator[Piece]:
        """The pieces that are whole now. Raises `TarSplitError`."""
        self._held += memoryview(data).cast("B")
        *lines, rest = self._held.split(b"\n")
        self._held = rest
        if len(rest) > LINE_LIMIT:
            raise TarSplitError(f"a tar-split line is over {LINE_LIMIT} bytes")
        for line in lines:
            if line:
                yield parse(line)

    def finish(self) -> Iterator[Piece]:
        """The last piece, if no newline ended it. Raises `TarSplitError`."""
        if self._held.strip():
            yield parse(self._held)


class Packer:
    """Makes the lines of a tar stream as it passes. What it gives is not yet compressed.

    ``size`` is what Docker calls the size of the layer: the bytes of its files and symbolic links, each once.
    """

    def __init__(self) -> None:
        self.size = 0
        self._parser = TarParser()
        self._position = 0
        self._segment = bytearray()
        self._content: Entry | None = None
        self._left = 0
        self._crc: int | None = None
        self._stream = 0
        self._pending: list[Entry] = []
        self._seen: dict[str, int] = {}
        self._inline = False  # the content goes into a segment

    def feed(self, data: Buffer) -> bytes:
        """Take the next bytes of the stream; the lines that are known now.

        Raises:
            TarError, TarLimitError: The archive is malformed or hostile.
            DuplicatePathError: It holds what tar-split cannot express.

        """
        view = memoryview(data).cast("B")
        lines: list[bytes] = []
        self._pending += self._parser.feed_entries(view)
        at = 0
        while at < len(view):
            if self._left:
                at += self._take_content(view[at : at + self._left], lines)
            elif self._pending:
                at += self._take_header(view[at:], lines)
            else:
                self._segment += view[at:]
                self._stream += len(view) - at
                at = len(view)
        if self._parser.ended and len(self._segment) >= SEGMENT_LIMIT:
            self._flush(lines)
        while self._pending and self._pending[0].offset == self._stream:
            self._begin(lines)
        return b"".join(lines)

    def finish(self) -> bytes:
        """The stream is over: the rest. Raises `TruncatedTarError`."""
        self._parser.finish()
        lines: list[bytes] = []
        self._flush(lines)
        return b"".join(lines)

    def _take_header(self, view: memoryview, lines: list[bytes]) -> int:
        """Bytes up to where the next entry's content begins."""
        length = min(self._pending[0].offset - self._stream, len(view))
        self._segment += view[:length]
        self._stream += length
        if self._stream == self._pending[0].offset:
            self._begin(lines)
        return length

    def _begin(self, lines: list[bytes]) -> None:
        entry = self._pending.pop(0)
        path = posixpath.normpath(entry.name)
        if self._seen.get(path):
            raise DuplicatePathError(
                f"the layer has two files {path[:160]!r}, which the classic image store cannot keep",
                hint="use the containerd image store: lading store use containerd",
                subject=path,
            )
        # A name must not come twice among the lines either; the second time its content, if any, is kept as a segment. So is what
        # the archive stores of a sparse file: the tree shows it with its holes, and dockerd takes segments as they are.
        self._inline = path in self._seen or entry.sparse is not None
        self._seen[path] = 0 if self._inline else entry.size
        if not self._inline:
            self._flush(lines)
        if entry.type is EntryType.SYMLINK:
            self.size += len(entry.linkname.encode("utf-8", "surrogateescape"))
        self.size += entry.real_size
        self._content, self._left, self._crc = entry, entry.size, None
        if not self._left:
            self._end(lines)

    def _take_content(self, view: memoryview, lines: list[bytes]) -> int:
        if self._inline:
            self._segment += view
            if len(self._segment) >= SEGMENT_LIMIT:
                self._flush(lines)
        self._crc = crc64.go_iso(view, self._crc) if self._crc is not None else crc64.go_iso(view)
        self._left -= len(view)
        self._stream += len(view)
        if not self._left:
            self._end(lines)
        return len(view)

    def _end(self, lines: list[bytes]) -> None:
        entry = self._content
        assert entry is not None
        self._content = None
        if self._inline:
            return
        line: dict[str, object] = {"type": _FILE}
        try:
            entry.name.encode()
            line["name"] = entry.name
        except UnicodeEncodeError:
            line["name_raw"] = base64.b64encode(entry.name.encode("utf-8", "surrogateescape")).decode()
        if entry.size:
            line["size"] = entry.size
        crc = None if self._crc is None else base64.b64encode(self._crc.to_bytes(8, "big")).decode()
        self._add(lines, line | {"payload": crc})

    def _flush(self, lines: list[bytes]) -> None:
        if self._segment:
            self._add(lines, {"type": _SEGMENT, "payload": base64.b64encode(self._segment).decode()})
            self._segment = bytearray()

    def _add(self, lines: list[bytes], line: dict[str, object]) -> None:
        lines.append(msgspec.json.encode(line | {"position": self._position}) + b"\n")
        self._position += 1
