"""What a seek index says, and its form on the disk.

A stream is cut into segments of some 4 MiB. For each the index says where its compressed bytes lie, what the decoder has to know
before them, and the digest of what comes out. The digests were taken while the whole stream was verified, so whoever
decodes one segment knows as much about it as whoever decodes all.

**Form**, little-endian: the header (`_HEADER`), the digest of the blob as text, the segments (`_SEGMENT` each), their windows
one after the other, each deflated (RFC 1951), and the SHA-256 of all that. It is a cache: a reader that finds anything wrong
throws it away.
"""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple, cast

from lading.errors import DataLossError
from lading.formats.compression import Compression
from lading.oci.digest import Digest

SPACING: Final = 4 << 20
"""Bytes of the stream from which on a segment ends at the next place that allows it."""
LARGEST: Final = 8 * SPACING
"""Most bytes of one segment. Streams that cannot be cut so fine have no index."""
WINDOW: Final = 32768
"""Most bytes that a deflate decoder looks back (RFC 1951 §2)."""

_MAGIC: Final = b"LDGSEEK\x01"
_HEADER: Final = struct.Struct("<8sBHIQQ")
"""Magic and version, compression, length of the blob's digest, number of segments, lengths of blob and stream."""
_SEGMENT: Final = struct.Struct("<QIQIH32s")
"""Source, length, resumed source and offset, length of the deflated window, SHA-256."""
_KINDS: Final = (Compression.NONE, Compression.GZIP, Compression.ZSTD)
_SUM: Final = 32


class SeekIndexError(DataLossError):
    """These bytes are no seek index, or a damaged one."""

    code = "damaged-seek-index"


class Segment(NamedTuple):
    """One piece of the stream."""

    source: int
    """Offset in the blob of its first byte."""
    length: int
    """Bytes that come out."""
    resumed: int
    """gzip: offset in the blob of the first member that begins inside; 0 for none, and where the segment begins with one."""
    resumed_at: int
    """Offset in the segment of what that member holds."""
    window: bytes
    """What came before, deflated; empty if nothing has to be known of it."""
    digest: bytes
    """SHA-256 of what comes out."""


class SeekIndex:
    """The segments of one blob's stream."""

    def __init__(
        self, *, blob: Digest, compression: Compression, source_length: int, segments: Sequence[Segment]
    ) -> None:
        self.blob = blob
        self.compression = compression
        self.source_length = source_length
        self.segments = tuple(segments)
        ends = [0]
        for segment in segments:
            ends.append(ends[-1] + segment.length)
        self.offsets: Final[Sequence[int]] = ends
        """Where each segment begins in the stream; at last, where the stream ends."""

    @property
    def length(self) -> int:
        """Bytes of the stream."""
        return self.offsets[-1]

    def source(self, number: int) -> tuple[int, int]:
        """The range of the blob (begin, end) that a segment is decoded from."""
        segment = self.segments[number]
        last = number + 1 == len(self.segments)
        end = self.source_length if last else self.segments[number + 1].source
        return segment.source, end

    def is_possible(self, number: int) -> bool:
        """Whether a segment lies in the blob and before the next one, is no larger than one can be, and resumes inside itself."""
        segment, (begin, end) = self.segments[number], self.source(number)
        ordered = begin <= end <= self.source_length
        resumes = not segment.resumed or begin <= segment.resumed <= end
        return ordered and resumes and segment.resumed_at <= segment.length <= LARGEST

    def encode(self) -> bytes:
        """The form on the disk."""
        blob = self.blob.encode("ascii")
        kind = _KINDS.index(self.compression)
        parts = [
            _HEADER.pack(_MAGIC, kind, len(blob), len(self.segments), self.source_length, self.length),
            blob,
        ]
        parts += [
            _SEGMENT.pack(*segment[:4], len(segment.window), segment.digest) for segment in self.segments
        ]
        parts += [segment.window for segment in self.segments]
        body = b"".join(parts)
        return body + hashlib.sha256(body).digest()


def decode(data: bytes) -> SeekIndex:
    """An index from its form on the disk.

    Raises:
        SeekIndexError: It is damaged, or of another version.

    """
    body, checksum = data[:-_SUM], data[-_SUM:]
    if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != checksum:
        raise SeekIndexError("the seek index is damaged")
    try:
        header = cast("tuple[bytes, int, int, int, int, int]", _HEADER.unpack_from(body))
        _, kind, named, count, source_length, length = header
        begin = _HEADER.size + named
        index = SeekIndex(
            blob=Digest(body[_HEADER.size : begin].decode("ascii")),
            compression=_KINDS[kind],
            source_length=source_length,
            segments=_segments(body, begin, count),
        )
    except (struct.error, IndexError, UnicodeDecodeError) as exc:
        raise SeekIndexError("the seek index is damaged") from exc
    if index.length != length or not all(map(index.is_possible, range(count))):
        raise SeekIndexError("the seek index contradicts itself")
    return index


def _segments(body: bytes, begin: int, count: int) -> list[Segment]:
    found: list[Segment] = []
    window = begin + count * _SEGMENT.size
    for at in range(begin, window, _SEGMENT.size):
        row = cast("tuple[int, int, int, int, int, bytes]", _SEGMENT.unpack_from(body, at))
        size, digest = row[4:]
        found.append(Segment(*row[:4], body[window : window + size], digest))
        window += size
    return found


def deflated(window: bytes) -> bytes:
    """A window as the index keeps it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(window) + packer.flush()


def inflated(window: bytes) -> bytes:
    """A window as the decoder wants it. Raises `SeekIndexError`."""
    try:
        return zlib.decompressobj(-15).decompress(window, WINDOW)
    except zlib.error as exc:
        raise SeekIndexError("a window of the seek index is damaged") from exc
