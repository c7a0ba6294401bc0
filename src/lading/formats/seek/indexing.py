"""Making a seek index while a stream is decoded from its beginning to its end.

An `Indexer` is a `lading.formats.compression.Decompressor` that remembers on the way where it could begin again.
"""

import hashlib
from collections.abc import Iterator

from typing_extensions import Buffer, override

from lading.formats import compression
from lading.formats.compression import Compression, CompressionError, Decompressor
from lading.formats.seek.blocks import Blocks, Stop
from lading.formats.seek.index import LARGEST, SPACING, SeekIndex, Segment, deflated
from lading.oci.digest import Digest


class _Cutter:
    """The segments so far, and the one that is being taken."""

    def __init__(self, spacing: int) -> None:
        self.spacing = spacing
        self.segments: list[Segment] = []
        self.largest = 0
        self._begin(0, b"")

    def _begin(self, source: int, window: bytes) -> None:
        self._source, self._window = source, window
        self._resumed = self._resumed_at = 0
        self._hasher = hashlib.sha256()
        self.length = 0

    def take(self, chunk: Buffer) -> None:
        self._hasher.update(chunk)
        self.length += memoryview(chunk).nbytes

    def full(self) -> bool:
        return self.length >= self.spacing

    def cut(self, source: int, window: bytes = b"") -> None:
        """End a segment; the next one begins there."""
        if self.length:
            self.largest = max(self.largest, self.length)
            self.segments.append(
                Segment(
                    self._source,
                    self.length,
                    self._resumed,
                    self._resumed_at,
                    deflated(self._window) if self._window else b"",
                    self._hasher.digest(),
                )
            )
            self._begin(source, window)
        elif not self._window:
            self._source = source

    def resume(self, source: int) -> None:
        """A gzip member begins inside a segment that began within another."""
        if self._window:
            if not self._resumed:
                self._resumed, self._resumed_at = source, self.length
        elif not self.length:
            self._source = source


class Indexer(Decompressor):
    """Decodes a whole stream and indexes it.

    Args:
        kind: What `lading.formats.compression.sniff` says of it.
        quota: Most bytes that may come out.
        spacing: Bytes from which on a segment may end.

    Raises:
        UnsupportedError: Of the constructor: this machine cannot index gzip.

    """

    def __init__(self, kind: Compression, *, quota: int | None = None, spacing: int = SPACING) -> None:
        self.taken = self.given = 0
        self._kind = kind
        self._quota = quota
        self._cutter = _Cutter(spacing)
        self._member: Blocks | None = Blocks() if kind is Compression.GZIP else None
        self._begun = 0
        self._inner = (
            None
            if kind is Compression.GZIP
            else compression.decompressor(kind, quota=quota, ended=self._frame_ended)
        )

    @override
    def feed(self, data: Buffer) -> Iterator[Buffer]:
        if self._inner is None:
            yield from self._feed_gzip(memoryview(data).cast("B"))
            return
        for chunk in self._inner.feed(data):
            yield from self._cut_plain(chunk) if self._kind is Compression.NONE else self._give(chunk)
        self.taken = self._inner.taken

    @override
    def finish(self) -> Iterator[Buffer]:
        if self._inner is not None:
            yield from self._inner.finish()
        elif self._member is not None:
            raise CompressionError(f"the gzip stream is truncated after {self.taken} bytes")
        self._cutter.cut(self.taken)

    def index(self, blob: Digest) -> SeekIndex | None:
        """After `finish`: the index, or ``None`` if the stream has too few places where decoding can begin."""
        if self._cutter.largest > LARGEST or len(self._cutter.segments) < 2:
            return None
        return SeekIndex(
            blob=blob,
            compression=self._kind,
            source_length=self.taken,
            segments=self._cutter.segments,
        )

    def _give(self, chunk: Buffer) -> Iterator[Buffer]:
        self.given += memoryview(chunk).nbytes
        if self._quota is not None and self.given > self._quota:
            raise compression.BombError(f"the layer is larger than the {self._quota} bytes allowed")
        self._cutter.take(chunk)
        yield chunk

    def _cut_plain(self, chunk: Buffer) -> Iterator[Buffer]:
        view = memoryview(chunk).cast("B")
        while view:
            part = view[: self._cutter.spacing - self._cutter.length]
            view = view[len(part) :]
            yield from self._give(part)
            if self._cutter.full():
                self._cutter.cut(self.given)

    def _frame_ended(self, source: int) -> None:
        if self._cutter.full():
            self._cutter.cut(source)

    def _feed_gzip(self, view: memoryview) -> Iterator[Buffer]:
        while view:
            if self._member is None:
                self._member = self._next_member()
            for found in self._member.feed(view):
                if not isinstance(found, Stop):
                    yield from self._give(bytes(found))
                    continue
                self._stopped(self._member, found)
                if found.member:
                    self._member = None
                    break
            end = self.taken + len(view) if self._member is not None else self._begun
            view = view[end - self.taken :]
            self.taken = end

    def _next_member(self) -> Blocks:
        if self._cutter.full():
            self._cutter.cut(self._begun)
        else:
            self._cutter.resume(self._begun)
        return Blocks()

    def _stopped(self, member: Blocks, stop: Stop) -> None:
        if stop.member:
            self._begun += stop.taken
        elif self._cutter.full() and not stop.bits:
            # Stored blocks begin at whole bytes, so a decoder has to begin at one.
            self._cutter.cut(self._begun + stop.taken, member.window())
