"""Compression of layers: recognised by magic, undone and done in steps of bounded size.

What the first bytes say decides; a media type only declares (hostile-input.md T17). gzip is inflated by ISA-L and zstd by
libzstd; both run outside the interpreter lock, so these objects belong on a data thread. Output comes in chunks of at
most 256 KiB, which the allocator recycles. Several gzip members or zstd frames in a row are one
stream (RFC 1952 §2.2, RFC 8878 §3); anything else behind the first is refused.
"""

import zlib
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, Protocol, cast

from backports import zstd
from isal import igzip_lib, isal_zlib
from typing_extensions import Buffer, override

from lading.errors import InvalidArgumentError, ResourceExhaustedError, UnsupportedError

CHUNK: Final = 1 << 18
"""Most bytes that come out in one piece."""
MAGIC_LENGTH: Final = 6
"""Bytes that `sniff` wants to see, if the stream has as many."""
BOMB_FLOOR: Final = 1 << 30
BOMB_RATIO: Final = 200
ZSTD_WINDOW_LOG: Final = 27
"""128 MiB: the largest window that the zstd command takes without being asked to."""

_STEP: Final = 1 << 18
_SMALL_STEP: Final = 1 << 9
_HEADER_MAX: Final = 1 << 18
"""Bytes of a gzip header: its extra field has 64 KiB at most, name and comment are of any length."""
_FLAG_CRC, _FLAG_EXTRA, _FLAG_NAME, _FLAG_COMMENT = 2, 4, 8, 16
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ISAL_ERROR: Final = cast("type[Exception]", igzip_lib.error)


class Compression(Enum):
    """How a stream is compressed."""

    NONE = ""
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    """Recognised only in order to be refused by name."""
    BZIP2 = "bzip2"
    """Recognised only in order to be refused by name."""


class CompressionError(InvalidArgumentError):
    """The compressed stream is damaged, truncated, or followed by something else."""

    code = "invalid-compression"


class BombError(ResourceExhaustedError):
    """The stream inflates to more than is allowed (hostile-input.md T15)."""

    code = "decompression-limit"


class UnsupportedCompressionError(UnsupportedError):
    """A compression that layers do not use; no program is ever run to undo it."""

    code = "unsupported-compression"


def sniff(prefix: Buffer) -> Compression:
    """The compression of a stream that begins with ``prefix`` (at least `MAGIC_LENGTH` bytes, or all there are)."""
    start = bytes(memoryview(prefix).cast("B")[:MAGIC_LENGTH])
    if start.startswith(_GZIP):
        return Compression.GZIP
    if start.startswith(_ZSTD) or _is_skippable(start):
        return Compression.ZSTD
    if start.startswith(b"\xfd7zXZ\0"):
        return Compression.XZ
    if start.startswith(b"BZh"):
        return Compression.BZIP2
    return Compression.NONE


def gzip_header(start: bytes) -> int:
    """Length of the gzip header that ``start`` begins with; 0 if it goes on beyond. RFC 1952 §2.3."""
    if len(start) < 10:
        return 0
    flags, at = start[3], 10
    if flags & _FLAG_EXTRA:
        if len(start) < at + 2:
            return 0
        at += 2 + int.from_bytes(start[at : at + 2], "little")
    for flag in (_FLAG_NAME, _FLAG_COMMENT):
        if flags & flag:
            end = start.find(b"\0", at)
            if end < 0:
                return 0
            at = end + 1
    at += 2 if flags & _FLAG_CRC else 0
    return at if at <= len(start) else 0


class Decompressor(Protocol):
    """Undoes a compression, push by push."""

    taken: int
    """Bytes fed so far."""
    given: int
    """Bytes that came out so far."""

    def feed(self, data: Buffer) -> Iterator[Buffer]:
        """Take the next bytes; what comes out, in chunks. Exhaust the iterator before the next call.

        Chunks may be views of ``data``.

        Raises:
            CompressionError: The stream is damaged.
            BombError: More came out than is allowed.
            UnsupportedCompressionError: The stream is compressed in a way that is not offered.

        """
        ...

    def finish(self) -> Iterator[Buffer]:
        """No more bytes follow: the rest, if any. Exhaust the iterator.

        Raises:
            CompressionError: The stream is truncated.

        """
        ...


class Compressor(Protocol):
    """Does a compression, push by push. The same input and level give the same output; no time or name is recorded."""

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """Take the next bytes; what comes out, perhaps nothing. Exhaust the iterator."""
        ...

    def finish(self) -> bytes:
        """No more bytes follow: the rest."""
        ...


def decompressor(
    compression: Compression | None = None,
    *,
    compressed_size: int = 0,
    quota: int | None = None,
    ended: Callable[[int], None] | None = None,
) -> Decompressor:
    """A decompressor for one stream.

    Args:
        compression: What `sniff` said, or ``None`` to find out from the first bytes that are fed.
        compressed_size: Length of the whole input if known; it allows a known-large layer to inflate early on.
        quota: Most bytes that may come out, whatever the ratio.
        ended: Called after each gzip member or zstd frame, with the bytes taken so far; only if ``compression`` is given.

    Raises:
        UnsupportedCompressionError: ``compression`` is recognised but not offered.

    """
    allowance = _Allowance(compressed_size, quota)
    if compression is None:
        return _Sniffing(allowance)
    return _decompressor(compression, allowance, ended)


def compressor(compression: Compression, level: int | None = None) -> Compressor:
    """A compressor for one stream.

    Args:
        compression: `Compression.GZIP`, `Compression.ZSTD` or `Compression.NONE`.
        level: gzip 1 to 3 (ISA-L; 2 by default, some five times as fast as zlib's 6) or 4 to 9 (zlib); zstd 1 to 19
            (3 by default).

    Raises:
        UnsupportedCompressionError: Another compression.
        InvalidArgumentError: No such level.

    """
    if compression is Compression.NONE:
        return _Plain()
    if compression is Compression.GZIP:
        return _Compressor(_deflate(_level(level, 2, 9)))
    if compression is Compression.ZSTD:
        options: dict[int, int] = {
            zstd.CompressionParameter.compression_level: _level(level, 3, 19),
            zstd.CompressionParameter.checksum_flag: 1,
        }
        return _Compressor(zstd.ZstdCompressor(options=options))
    raise _unsupported(compression)


class Engine(Protocol):
    """What the decompressors of igzip_lib, zstd, bz2 and lzma have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: Buffer, /, max_length: int = -1) -> bytes: ...


class _Allowance:
    """How much may come out: the larger of 1 GiB and 200 times the input, and never more than the quota."""

    def __init__(self, compressed_size: int, quota: int | None) -> None:
        self._size = compressed_size
        self._quota = quota

    def check(self, taken: int, given: int) -> None:
        if self._quota is not None and given > self._quota:
            raise BombError(f"the layer is larger than the {self._quota} bytes allowed")
        if given > BOMB_FLOOR and given > BOMB_RATIO * max(taken, self._size):
            raise BombError(f"the layer inflates to more than {BOMB_RATIO} times its compressed size")


class _Identity(Decompressor):
    def __init__(self, allowance: _Allowance) -> None:
        self.taken = self.given = 0
        self._allowance = allowance

    @override
    def feed(self, data: Buffer) -> Iterator[Buffer]:
        view = memoryview(data).cast("B")
        self.taken += len(view)
        self.given = self.taken
        self._allowance.check(self.taken, self.given)
        if view:
            yield view

    @override
    def finish(self) -> Iterator[Buffer]:
        return iter(())


class _Members(Decompressor):
    """A row of gzip members or zstd frames."""

    def __init__(
        self,
        name: str,
        magic: bytes,
        engine: Callable[[], Engine],
        allowance: _Allowance,
        *,
        skippable: bool,
        ended: Callable[[int], None] | None,
    ) -> None:
        self.taken = self.given = 0
        self._name = name
        self._magic = magic
        self._make = engine
        self._allowance = allowance
        self._skippable = skippable
        self._ended = ended
        self._engine: Engine | None = None
        self._head = b""  # first bytes of the next member, too few to tell what it is
        self._skip = 0
        self._seen = False
        self._step = _STEP

    @override
    def feed(self, data: Buffer) -> Iterator[Buffer]:
        view = memoryview(data).cast("B")
        at, end = 0, len(view)
        base = self.taken
        while at < end:
            if self._skip:
                passed = min(self._skip, end - at)
                self._skip -= passed
                at += passed
            elif self._engine is None:
                held = len(self._head)
                at += self._open(view[at : at + (8 - held if self._skippable else 10 + held)])
            else:
                part = view[at : at + self._step]
                at += len(part)
                self.taken = base + at
                yield from self._drain(self._engine, part)
                at -= self._close(base + at)
            self.taken = base + at

    @override
    def finish(self) -> Iterator[Buffer]:
        if self._engine is not None or self._head or self._skip or not self._seen:
            raise CompressionError(f"the {self._name} stream is truncated after {self.taken} bytes")
        return iter(())

    def _open(self, part: memoryview) -> int:
        """Begin a member with the next bytes; how many of them were taken."""
        held = len(self._head)
        head = self._head + bytes(part)
        if self._skippable and len(head) < len(_ZSTD):
            pass
        elif self._skippable and _is_skippable(head):
            if len(head) == 8:
                self._skip = int.from_bytes(head[4:], "little")
                return self._opened(8 - held)
        else:
            if not head.startswith(self._magic[: len(head)]):
                where = "is followed by something else" if self._seen else "has no header"
                raise CompressionError(f"the {self._name} stream {where} at byte {self.taken}")
            # ISA-L takes some headers wrongly that come in pieces.
            length = len(self._magic) if self._skippable else gzip_header(head)
            if 0 < length <= len(head):
                self._engine = self._make()
                self._call(self._engine, head[:length])
                return self._opened(length - held)
            if len(head) > _HEADER_MAX:
                raise CompressionError(f"the {self._name} stream has too long a header at byte {self.taken}")
        self._head = head
        return len(head) - held

    def _opened(self, taken: int) -> int:
        self._head = b""
        self._seen = True
        return taken

    def _drain(self, engine: Engine, part: Buffer) -> Iterator[bytes]:
        while True:
            chunk = self._call(engine, part)
            if chunk:
                self.given += len(chunk)
                self._allowance.check(self.taken, self.given)
                yield chunk
            if engine.eof or engine.needs_input:
                return
            part = b""

    def _call(self, engine: Engine, part: Buffer) -> bytes:
        try:
            return engine.decompress(part, CHUNK)
        except (_ISAL_ERROR, zstd.ZstdError) as exc:
            raise CompressionError(
                f"the {self._name} stream is damaged near byte {self.taken}: {exc}"
            ) from exc

    def _close(self, taken: int) -> int:
        """After a step: if the member has ended, how many bytes of the step belong to what follows."""
        engine = self._engine
        if engine is None or not engine.eof:
            # Unused bytes are copied at the end of each member. Small steps after an end, doubled from there, keep
            # the cost of a stream of tiny members proportional to its length.
            self._step = min(2 * self._step, _STEP)
            return 0
        self._engine = None
        self._step = _SMALL_STEP
        unused = len(engine.unused_data)
        if self._ended is not None:
            self._ended(taken - unused)
        return unused


class _Sniffing(Decompressor):
    """Holds the first bytes back until they tell the compression."""

    def __init__(self, allowance: _Allowance) -> None:
        self._allowance = allowance
        self._head = b""
        self._inner: Decompressor | None = None

    @property
    def taken(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] # read-only to all but its owner
        return self._inner.taken if self._inner else len(self._head)

    @property
    def given(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._inner.given if self._inner else 0

    @override
    def feed(self, data: Buffer) -> Iterator[Buffer]:
        if self._inner is None:
            view = memoryview(data).cast("B")
            wanted = MAGIC_LENGTH - len(self._head)
            self._head += bytes(view[:wanted])
            if len(self._head) < MAGIC_LENGTH:
                return
            yield from self._begin()
            data = view[wanted:]
        assert self._inner is not None
        yield from self._inner.feed(data)

    @override
    def finish(self) -> Iterator[Buffer]:
        if self._inner is None:
            yield from self._begin()
        assert self._inner is not None
        yield from self._inner.finish()

    def _begin(self) -> Iterator[Buffer]:
        self._inner = _decompressor(sniff(self._head), self._allowance)
        return self._inner.feed(self._head)


class _Stream(Protocol):
    def compress(self, data: Buffer, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Compressor(Compressor):
    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._held = bytearray()

    @override
    def feed(self, data: Buffer) -> Iterator[bytes]:
        # ISA-L's output depends on where its input is cut; so cut it at fixed places, whatever the caller does.
        view = memoryview(data).cast("B")
        at = 0
        while at < len(view):
            part = view[at : at + CHUNK - len(self._held)]
            at += len(part)
            if self._held or len(part) < CHUNK:
                self._held += part
                if len(self._held) < CHUNK:
                    return
                part, self._held = self._held, bytearray()
            chunk = self._stream.compress(part)
            if chunk:
                yield chunk

    @override
    def finish(self) -> bytes:
        return self._stream.compress(self._held) + self._stream.flush()


class _Plain(Compressor):
    @override
    def feed(self, data: Buffer) -> Iterator[bytes]:
        view = memoryview(data).cast("B")
        for at in range(0, len(view), CHUNK):
            yield bytes(view[at : at + CHUNK])

    @override
    def finish(self) -> bytes:
        return b""


def _decompressor(
    compression: Compression, allowance: _Allowance, ended: Callable[[int], None] | None = None
) -> Decompressor:
    if compression is Compression.NONE:
        return _Identity(allowance)
    if compression is Compression.GZIP:
        return _Members("gzip", _GZIP, _inflate, allowance, skippable=False, ended=ended)
    if compression is Compression.ZSTD:
        return _Members("zstd", _ZSTD, _unzstd, allowance, skippable=True, ended=ended)
    raise _unsupported(compression)


def _unsupported(compression: Compression) -> UnsupportedCompressionError:
    return UnsupportedCompressionError(
        f"{compression.value} compression of layers is not supported",
        hint="OCI layers are plain, gzip or zstd; recompress the layer",
    )


def _inflate() -> Engine:
    return cast("Engine", igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP))


def _unzstd() -> Engine:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})


def _deflate(level: int) -> _Stream:
    wbits = 31  # a gzip header without name or time
    if level <= 3:
        return cast("_Stream", isal_zlib.compressobj(level, isal_zlib.DEFLATED, wbits))  # pyright: ignore[reportUnknownMemberType]
    return zlib.compressobj(level, zlib.DEFLATED, wbits)


def _level(level: int | None, default: int, highest: int) -> int:
    if level is None:
        return default
    if not 1 <= level <= highest:
        raise InvalidArgumentError(f"compression level {level} is not between 1 and {highest}")
    return level


def _is_skippable(start: bytes) -> bool:
    # RFC 8878 §3.1.2: 0x184D2A50 to 0x184D2A5F, little-endian.
    return len(start) >= 4 and 0x50 <= start[0] <= 0x5F and start[1:4] == b"\x2a\x4d\x18"
