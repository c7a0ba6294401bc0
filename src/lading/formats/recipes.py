"""How a compressed stream was made, so that it can be made again, byte by byte, out of what it holds.

Deflate and zstd leave to the compressor how a content is written down. But compressors are deterministic: the same library,
level and input give the same output. `candidates` names what may have written a stream whose head is given; a candidate is
probed with the first megabyte (`Recipe.begins`), and believed when all that it gives has the stream's digest, which is the
caller's to check.

Known are zlib with every level, ISA-L, which writes our own layers, and libzstd. What Go's libraries and GNU gzip write, no
library here writes again.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from backports import zstd
from isal import isal_zlib
from typing_extensions import Buffer, override

from lading.errors import InvalidArgumentError
from lading.formats.compression import gzip_header

PROBE: Final = 1 << 20
"""Bytes of content that tell candidates apart."""
STEP: Final = 256 * 1024
"""Bytes of content that a `Packer` is fed at a time, but at the end: ISA-L's output depends on it."""
HEAD_MAX: Final = 1024
"""Longest gzip header that is remembered."""
_RAW: Final = -15
_GZIP_LEVELS: Final = (6, 9, 1, 5, 4, 3, 2, 7, 8)
_ZSTD_LEVELS: Final = (3, 1, 2, 4, 5, 6, 7, 8, 9, 11, 15, 19)


class Engine(Protocol):
    """What compression objects have in common."""

    def compress(self, data: Buffer, /) -> bytes: ...
    def flush(self) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A compressor and its parameters."""

    engine: str
    """``zlib``, ``isal``, ``zstd`` or ``none``."""
    level: int
    memory: int = 8
    """zlib's and ISA-L's memory level."""
    head: bytes = b""
    """The gzip header as it was."""
    checksum: bool = False
    """zstd: the frame ends with one."""
    sized: bool = False
    """zstd: the frame says how long its content is."""

    def packer(self, length: int) -> "Packer":
        """Makes the stream of a content of ``length`` bytes."""
        return Packer(self, length)

    def begins(self, content: bytes, stream: bytes, *, length: int) -> bool:
        """Whether ``stream`` begins as this recipe would write it, given the first `PROBE` bytes of ``length``."""
        packer = self.packer(length)
        made = b"".join(
            chunk for at in range(0, len(content), STEP) for chunk in packer.feed(content[at : at + STEP])
        )
        if len(content) == length:
            made += b"".join(packer.finish())
        return stream[: len(made)] == made[: len(stream)]

    def document(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "engine": self.engine,
            "level": self.level,
            "memory": self.memory,
            "head": self.head.hex(),
            "checksum": self.checksum,
            "sized": self.sized,
        }


def load(document: Mapping[str, Any]) -> Recipe:
    """What `Recipe.document` gave. Raises `InvalidArgumentError`."""
    try:
        recipe = Recipe(
            engine=str(document["engine"]),
            level=int(document["level"]),
            memory=int(document["memory"]),
            head=bytes.fromhex(document["head"]),
            checksum=bool(document["checksum"]),
            sized=bool(document["sized"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidArgumentError(f"no recipe: {json.dumps(dict(document))[:200]}") from exc
    if recipe.engine not in ("zlib", "isal", "zstd", "none"):
        raise InvalidArgumentError(f"no such compressor: {recipe.engine!r}")
    return recipe


class Packer:
    """Writes one stream. The content comes in pieces of `STEP` bytes, the last one excepted."""

    def __init__(self, recipe: Recipe, length: int) -> None:
        self._head = recipe.head
        self._gzip = recipe.engine in ("zlib", "isal")
        self._crc = self._length = 0
        self._engine = _engine(recipe, length)

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """Take the next bytes; what comes out. Exhaust the iterator."""
        if self._head:
            yield self._head
            self._head = b""
        if self._gzip:
            self._crc = zlib.crc32(data, self._crc)
            self._length += memoryview(data).nbytes
        if made := self._engine.compress(data):
            yield made

    def finish(self) -> Iterator[bytes]:
        """The rest. RFC 1952 §2.3.1: checksum and length modulo 2^32 end a member."""
        yield self._engine.flush()
        if self._gzip:
            yield struct.pack("<II", self._crc, self._length & 0xFFFFFFFF)


class _Plain(Engine):
    @override
    def compress(self, data: Buffer, /) -> bytes:
        return bytes(data)

    @override
    def flush(self) -> bytes:
        return b""


def _engine(recipe: Recipe, length: int) -> Engine:
    if recipe.engine == "none":
        return _Plain()
    if recipe.engine == "isal":
        packing = isal_zlib.compressobj(recipe.level, isal_zlib.DEFLATED, _RAW, recipe.memory)  # pyright: ignore[reportUnknownMemberType]
        return cast("Engine", packing)
    if recipe.engine == "zlib":
        return zlib.compressobj(recipe.level, zlib.DEFLATED, _RAW, recipe.memory)
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: recipe.level,
        zstd.CompressionParameter.checksum_flag: int(recipe.checksum),
    }
    compressor = zstd.ZstdCompressor(options=options)
    if recipe.sized:
        compressor.set_pledged_input_size(length)
    return compressor


def candidates(stream: bytes) -> list[Recipe]:
    """What may have written a stream with this head, likely ones first. A stream of no known kind may be its own content."""
    if stream[:4] == b"\x28\xb5\x2f\xfd" and len(stream) > 4:
        descriptor = stream[4]
        sized = bool(descriptor >> 6) or bool(descriptor & 0x20)  # RFC 8878 §3.1.1.1.1
        checksum = bool(descriptor & 4)
        return [Recipe(engine="zstd", level=level, checksum=checksum, sized=sized) for level in _ZSTD_LEVELS]
    length = _header_length(stream)
    if not length:
        return [Recipe(engine="none", level=0)]
    if length > HEAD_MAX:
        return []
    head = stream[:length]
    found = [
        Recipe(engine="zlib", level=level, memory=memory, head=head)
        for level in _GZIP_LEVELS
        for memory in (8, 9)
    ]
    ours = [Recipe(engine="isal", level=level, head=head) for level in (2, 1, 3, 0)]
    return [*found[:4], *ours, *found[4:]]


def content_length(stream_tail: bytes, longest: int) -> int:
    """Length of the content of a gzip stream with this tail, if it is at most 511 less than ``longest``; else ``longest``.

    RFC 1952 §2.3.1: the last four bytes are the length modulo 2^32.
    """
    padding = (longest - int.from_bytes(stream_tail[-4:], "little")) & 0xFFFFFFFF
    return longest - padding if padding < 512 else longest


def _header_length(stream: bytes) -> int:
    """Length of the gzip header; 0 if there is none. RFC 1952 §2.3."""
    return gzip_header(stream) if stream.startswith(b"\x1f\x8b\x08") else 0
