"""eStargz: a gzipped tar whose files can be read one by one (stargz-snapshotter, ``docs/estargz.md``).

The content of every file, in chunks of bounded size, begins a gzip member of its own. Behind the archive stands one more member:
a tar archive with the *TOC*, which says where each chunk is and what its digest must be. The last 51 bytes are an empty member,
the *footer*, whose extra field says where the TOC is. To gzip it is one stream; to tar, the TOC stands behind the end of the
archive. The digest of the TOC is the layer's annotation `TOC_DIGEST`, by which a reader trusts it.

Nothing is added to the archive itself and nothing in it is changed, as BuildKit has it ("lossless"). So it gets no landmark; one
that is in it says what to fetch ahead (`PREFETCH_LANDMARK`, `NO_PREFETCH_LANDMARK`).
"""

import itertools
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec
from typing_extensions import Buffer

from lading.errors import InvalidArgumentError, UnsupportedError
from lading.formats import compression
from lading.formats.compression import Compression, Compressor
from lading.formats.tar import writer as tar
from lading.formats.tar.entry import Entry, EntryType
from lading.formats.tar.parser import TarParser
from lading.oci.digest import DiffID, Digest, Hasher, new_hasher

TOC_DIGEST: Final = "containerd.io/snapshot/stargz/toc.digest"
"""Annotation of a layer: the digest of its TOC."""
UNCOMPRESSED_SIZE: Final = "io.containers.estargz.uncompressed-size"
"""Annotation of a layer: bytes of its tar stream, the TOC included."""
TOC_NAME: Final = "stargz.index.json"
PREFETCH_LANDMARK: Final = ".prefetch.landmark"
"""A file: what stands before it is read when a container starts."""
NO_PREFETCH_LANDMARK: Final = ".no.prefetch.landmark"
"""A file: nothing is to be fetched ahead."""
CHUNK: Final = 4 << 20
"""Bytes of content in a gzip member, at most."""
FOOTER_SIZE: Final = 51
TOC_LIMIT: Final = 256 << 20
"""Bytes of a TOC that a reader takes."""
_VERSION: Final = 1
_NANO: Final = 10**9
_EXTRA: Final = struct.Struct("<H2sH22s")
_HEADER: Final = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
_EMPTY: Final = b"\x01\x00\x00\xff\xff" + bytes(8)
"""A stored block of nothing, and its CRC and length."""
_KINDS: Final = {
    EntryType.FILE: "reg",
    EntryType.HARDLINK: "hardlink",
    EntryType.SYMLINK: "symlink",
    EntryType.CHAR: "char",
    EntryType.BLOCK: "block",
    EntryType.DIRECTORY: "dir",
    EntryType.FIFO: "fifo",
}


class EstargzError(InvalidArgumentError):
    """It is no eStargz, or a malformed one."""

    code = "estargz"


class TocEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the TOC: an entry of the archive with its first chunk, or a further chunk (``type`` ``chunk``).

    ``offset`` is where the gzip member of the chunk begins in the blob, ``inner_offset`` where the chunk begins in what that
    inflates to. A ``chunk_size`` of 0 means the rest of the file.
    """

    name: str
    type: str
    size: int = 0
    modtime: str = ""
    link_name: str = msgspec.field(name="linkName", default="")
    mode: int = 0
    uid: int = 0
    gid: int = 0
    user_name: str = msgspec.field(name="userName", default="")
    group_name: str = msgspec.field(name="groupName", default="")
    offset: int = 0
    inner_offset: int = msgspec.field(name="innerOffset", default=0)
    dev_major: int = msgspec.field(name="devMajor", default=0)
    dev_minor: int = msgspec.field(name="devMinor", default=0)
    xattrs: dict[str, bytes] = {}
    digest: str = ""
    chunk_offset: int = msgspec.field(name="chunkOffset", default=0)
    chunk_size: int = msgspec.field(name="chunkSize", default=0)
    chunk_digest: str = msgspec.field(name="chunkDigest", default="")


class Toc(msgspec.Struct, frozen=True):
    """A TOC, in the order of the archive."""

    version: int
    entries: list[TocEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of a file: ``length`` bytes of it from ``position``. Its gzip member lies in the blob from ``start`` to ``end``."""

    position: int
    length: int
    start: int
    end: int
    inner: int
    digest: Digest

    def cut(self, member: Buffer) -> bytes:
        """The chunk out of what its gzip member inflates to. Raises `EstargzError` if it is not what the TOC promised."""
        data = bytes(memoryview(member)[self.inner : self.inner + self.length])
        if len(data) != self.length or Digest.of(data) != self.digest:
            raise EstargzError(f"a chunk of the layer is not {self.digest}")
        return data


# Writing.


class Writer:
    """Makes an eStargz of a tar stream, push by push. The same stream gives the same bytes. Blocking work, for a data thread.

    Raises (from `feed` and `finish`):
        TarError, TarLimitError: The archive is malformed or hostile.
        UnsupportedError: It holds what a TOC cannot express: a sparse file, a name that is no UTF-8, or a TOC.

    """

    def __init__(self, level: int | None = None, *, chunk: int = CHUNK) -> None:
        self._level = level
        self._chunk = chunk
        self._parser = TarParser()
        self._pending: list[Entry] = []
        self._member: Compressor | None = None
        self._written = 0
        self._stream = 0
        self._hasher = new_hasher()
        self._entries: list[TocEntry] = []
        self._file: _File | None = None
        self.toc_digest: Digest | None = None
        """Once finished."""

    @property
    def uncompressed_size(self) -> int:
        """Bytes of the tar stream so far; once finished, with the TOC."""
        return self._stream

    def diff_id(self) -> DiffID:
        """The digest of the tar stream; once finished, with the TOC, which is the layer's diff ID."""
        return DiffID.from_hasher(self._hasher)

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """Take the next bytes of the tar; what comes out. Exhaust the iterator."""
        view = memoryview(data).cast("B")
        self._pending += self._parser.feed_entries(view)
        while view:
            if self._file is not None and not self._file.waits(self._stream):
                size = min(len(view), self._file.left)
                yield from self._content(view[:size])
            elif self._file is not None:
                size = min(len(view), self._file.start - self._stream)
                yield from self._put(view[:size])
            elif self._pending:
                size = 0
                self._begin(self._pending.pop(0))
            else:
                size = len(view)
                yield from self._put(view)
            view = view[size:]
        while self._file is None and self._pending:
            self._begin(self._pending.pop(0))

    def finish(self) -> Iterator[bytes]:
        """The stream is over: the rest, with TOC and footer. Raises `TruncatedTarError`."""
        self._parser.finish()
        yield from self._close()
        place = self._written
        toc = msgspec.json.encode(Toc(version=_VERSION, entries=self._entries))
        self.toc_digest = Digest.of(toc)
        yield from self._put(tar.header(Entry(name=TOC_NAME, type=EntryType.FILE, mode=0, size=len(toc))))
        yield from self._put(toc)
        yield from self._put(tar.padding(len(toc)) + tar.END)
        yield from self._close()
        yield footer(place)

    # The archive.

    def _begin(self, entry: Entry) -> None:
        """An entry's header is known; its content, if any, is yet to come."""
        line = _line(entry)
        if entry.type is EntryType.FILE and entry.size:
            self._file = _File(line=line, start=entry.offset, left=entry.size)
        else:
            digest = str(Digest.of(b"")) if entry.type is EntryType.FILE else ""
            self._entries.append(msgspec.structs.replace(line, digest=digest))

    def _content(self, view: memoryview) -> Iterator[bytes]:
        file = self._file
        assert file is not None
        while view:
            if file.room == 0:
                yield from self._close()
                file.open_chunk(self._written, self._chunk)
            part = view[: file.room]
            file.take(part)
            yield from self._put(part)
            view = view[len(part) :]
            if file.room == 0:
                self._entries.append(file.close_chunk(self._chunk))
        if file.left == 0:
            self._entries[-file.chunks] = file.with_digest(self._entries[-file.chunks])
            self._file = None

    def _put(self, data: Buffer) -> Iterator[bytes]:
        if self._member is None:
            self._member = compression.compressor(Compression.GZIP, self._level)
        self._hasher.update(data)
        self._stream += memoryview(data).nbytes
        for out in self._member.feed(data):
            self._written += len(out)
            yield out

    def _close(self) -> Iterator[bytes]:
        """End the present gzip member."""
        if self._member is not None:
            rest = self._member.finish()
            self._member = None
            self._written += len(rest)
            yield rest


class _File:
    """A file whose content is being written."""

    def __init__(self, *, line: TocEntry, start: int, left: int) -> None:
        self.start = start
        self.left = left
        self.room = 0
        """Bytes that the present chunk still takes."""
        self.chunks = 0
        self._line = line
        self._size = left
        self._whole = new_hasher()
        self._hasher: Hasher = new_hasher()
        self._place = self._position = 0

    def waits(self, stream: int) -> bool:
        """Whether the stream is still before its content."""
        return stream < self.start

    def open_chunk(self, place: int, most: int) -> None:
        self._place = place
        self._position = self._size - self.left
        self._hasher = new_hasher()
        self.room = min(most, self.left)
        self.chunks += 1

    def take(self, part: memoryview) -> None:
        self._whole.update(part)
        self._hasher.update(part)
        self.room -= len(part)
        self.left -= len(part)

    def close_chunk(self, most: int) -> TocEntry:
        length = self._size - self.left - self._position
        line = self._line if self.chunks == 1 else TocEntry(name=self._line.name, type="chunk")
        return msgspec.structs.replace(
            line,
            offset=self._place,
            chunk_offset=self._position,
            chunk_size=length if length == most else 0,
            chunk_digest=str(Digest.from_hasher(self._hasher)),
        )

    def with_digest(self, line: TocEntry) -> TocEntry:
        return msgspec.structs.replace(line, digest=str(Digest.from_hasher(self._whole)))


def _line(entry: Entry) -> TocEntry:
    if entry.sparse is not None:
        raise UnsupportedError(
            f"eStargz cannot hold the sparse file {entry.name[:160]!r}", hint="use gzip or zstd"
        )
    if entry.name.strip("/").removeprefix("./") == TOC_NAME:
        raise UnsupportedError(f"the layer has a file {TOC_NAME}, as an eStargz of it would", hint="use gzip")
    try:
        (entry.name + entry.linkname).encode()
    except UnicodeEncodeError as exc:
        raise UnsupportedError(
            f"eStargz cannot hold the name {entry.name[:160]!r}, which is no UTF-8", hint="use gzip or zstd"
        ) from exc
    return TocEntry(
        name=entry.name,
        type=_KINDS[entry.type],
        size=entry.size,
        modtime=_time(entry.mtime),
        link_name=entry.linkname,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        dev_major=entry.devmajor,
        dev_minor=entry.devminor,
        xattrs=dict(entry.xattrs),
    )


def _time(nanoseconds: int) -> str:
    """To the second; nothing for the epoch, as the reference writer has it."""
    seconds = (nanoseconds + _NANO // 2) // _NANO
    if not 0 < seconds < 253402300800:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def footer(toc: int) -> bytes:
    """The footer of a blob whose TOC begins at ``toc``."""
    return _HEADER + _EXTRA.pack(26, b"SG", 22, f"{toc:016x}STARGZ".encode()) + _EMPTY


# Reading.


def parse_footer(data: bytes) -> int:
    """Where the TOC begins, by the last `FOOTER_SIZE` bytes of a blob. Raises `EstargzError`."""
    if len(data) != FOOTER_SIZE or data[:4] != _HEADER[:4]:
        raise EstargzError("the blob has no eStargz footer")
    length, name, size, text = _EXTRA.unpack_from(data, len(_HEADER))
    if (length, name, size) != (26, b"SG", 22) or text[16:] != b"STARGZ":
        raise EstargzError("the blob has no eStargz footer")
    try:
        return int(text[:16].decode("ascii"), 16)
    except ValueError as exc:
        raise EstargzError("the eStargz footer names no place") from exc


def parse_toc(data: bytes, *, expected: Digest | None = None, limit: int = TOC_LIMIT) -> Toc:
    """The TOC out of the gzip member that holds it, which must have the digest ``expected``.

    Raises `EstargzError`; `BombError` if it inflates to more than ``limit`` bytes.
    """
    inflated = bytearray()
    decompressor = compression.decompressor(compressed_size=len(data), quota=limit)
    for part in decompressor.feed(data):
        inflated += part
    for part in decompressor.finish():
        inflated += part
    entries = TarParser().feed_entries(inflated)
    if len(entries) != 1 or entries[0].name != TOC_NAME:
        raise EstargzError(f"the eStargz has no {TOC_NAME}")
    start = entries[0].offset
    raw = bytes(inflated[start : start + entries[0].size])
    if expected is not None and Digest.of(raw) != expected:
        raise EstargzError(f"the TOC is not {expected}")
    try:
        toc = msgspec.json.decode(raw, type=Toc)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise EstargzError(f"the TOC is malformed: {exc}") from exc
    if toc.version != _VERSION:
        raise EstargzError(f"the TOC is of version {toc.version}")
    return toc


def chunks(toc: Toc, *, end: int) -> Mapping[str, Sequence[Chunk]]:
    """The chunks of every regular file that has content, by its name; ``end`` is where the TOC begins.

    Raises:
        EstargzError: Chunks overlap, leave a hole, or lie outside the blob.

    """
    starts = sorted({each.offset for each in toc.entries if each.chunk_digest} | {end})
    ends = dict(itertools.pairwise(starts))
    found: dict[str, list[Chunk]] = {}
    sizes: dict[str, int] = {}
    for each in toc.entries:
        if each.type == "reg":
            sizes[each.name] = each.size
            found[each.name] = []
        if not each.chunk_digest:
            continue
        whole = sizes.get(each.name)
        if each.type not in ("reg", "chunk") or whole is None or each.offset not in ends:
            raise EstargzError(f"the TOC has a chunk of {each.name[:160]!r} that cannot be")
        parts = found[each.name]
        position = parts[-1].position + parts[-1].length if parts else 0
        length = each.chunk_size or whole - each.chunk_offset
        if each.chunk_offset != position or length <= 0 or position + length > whole or each.inner_offset < 0:
            raise EstargzError(f"the chunks of {each.name[:160]!r} do not fit its size")
        parts.append(
            Chunk(
                position=position,
                length=length,
                start=each.offset,
                end=ends[each.offset],
                inner=each.inner_offset,
                digest=Digest(each.chunk_digest),
            )
        )
    for name, parts in found.items():
        if sum(part.length for part in parts) != sizes[name]:
            raise EstargzError(f"the chunks of {name[:160]!r} do not fit its size")
    return {name: parts for name, parts in found.items() if parts}


def inflated(chunk: Chunk, member: Buffer) -> bytes:
    """A chunk out of the bytes of its gzip member. Raises `EstargzError` if it is not what the TOC promised."""
    engine = zlib.decompressobj(wbits=31)
    try:
        data = engine.decompress(bytes(member), chunk.inner + chunk.length)
    except zlib.error as exc:
        raise EstargzError(f"a gzip member of the layer is damaged: {exc}") from exc
    return chunk.cut(data)
