"""Decoding one segment."""

import hashlib
from typing import Final, cast

from isal import igzip_lib
from typing_extensions import Buffer

from lading.errors import DataLossError
from lading.formats import compression
from lading.formats.compression import Compression, CompressionError, Engine
from lading.formats.seek.index import SeekIndex, SeekIndexError, Segment, inflated

_ISAL_ERROR: Final = cast("type[Exception]", igzip_lib.error)


class DamagedSegmentError(DataLossError):
    """The blob's bytes are not what the index was made of."""

    code = "damaged-segment"


def segment(index: SeekIndex, number: int, source: bytes) -> bytes:
    """The bytes of a segment, verified.

    Args:
        index: Of the blob.
        number: Which segment.
        source: The bytes of the blob in the range `SeekIndex.source`.

    Raises:
        DamagedSegmentError: What comes out is not what it was when the whole was verified.

    """
    wanted = index.segments[number]
    try:
        found = _decode(index.compression, wanted, source, index.source(number)[0])
    except (CompressionError, compression.BombError, SeekIndexError) as exc:
        raise DamagedSegmentError(f"segment {number} of blob {index.blob}: {exc.message}") from exc
    if hashlib.sha256(found).digest() != wanted.digest:
        raise DamagedSegmentError(f"segment {number} of blob {index.blob} decodes to other bytes")
    return found


def _decode(kind: Compression, wanted: Segment, source: bytes, begin: int) -> bytes:
    if not wanted.window:
        return _members(kind, source, wanted.length)
    if not wanted.resumed:
        return _raw(wanted, source, wanted.length)
    split = wanted.resumed - begin
    first = _raw(wanted, source[:split], wanted.resumed_at)
    return first + _members(kind, source[split:], wanted.length - wanted.resumed_at)


def _members(kind: Compression, source: bytes, length: int) -> bytes:
    """The first ``length`` bytes of a row of members or frames; the last one may be cut short."""
    parts: list[Buffer] = []
    missing = length
    for chunk in compression.decompressor(kind, quota=length).feed(source):
        parts.append(memoryview(chunk)[:missing])
        missing -= len(memoryview(chunk)[:missing])
    return b"".join(parts)


def _raw(wanted: Segment, source: bytes, length: int) -> bytes:
    """Deflate from between two blocks."""
    made = igzip_lib.IgzipDecompressor(
        flag=igzip_lib.DECOMP_DEFLATE, hist_bits=15, zdict=inflated(wanted.window)
    )
    engine = cast("Engine", made)
    try:
        return engine.decompress(source, length) if length else b""
    except _ISAL_ERROR as exc:
        raise CompressionError(f"the gzip stream is damaged: {exc}") from exc
