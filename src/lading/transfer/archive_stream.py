"""An archive that arrives in pieces, as members with content; packed or not, read once, front to back.

Inflating and parsing happen on data threads, a piece of at most `PIECE` bytes at a time.
"""

import bz2
import lzma
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from typing_extensions import Buffer, override

from lading.errors import InternalError
from lading.formats import compression
from lading.formats.compression import Compression, Decompressor, Engine
from lading.formats.tar.entry import Data, Entry, EntryType, Event
from lading.formats.tar.parser import TarParser
from lading.kit import aio

PIECE: Final = 1024 * 1024
"""Bytes handed to a thread at a time."""
_XZ_MEMORY: Final = 128 * 1024 * 1024
"""Most memory for an xz dictionary; `xz -9` needs 65 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member. ``link`` is the target of a link, else ``None``; ``regular`` files have ``size`` bytes of content."""

    path: str
    size: int = 0
    regular: bool = False
    link: str | None = None
    hard: bool = False


async def pieces(source: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """The bytes of ``source`` in pieces of `PIECE` or a little more, so that thread hops are worth their cost."""
    held = bytearray()
    async for chunk in source:
        held += chunk
        if len(held) >= PIECE:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


async def inflated(source: AsyncIterable[bytes]) -> AsyncGenerator[Buffer]:
    """The bytes of ``source`` unpacked, whatever their compression; inflated as they are asked for."""
    decompressor: Decompressor | None = None
    async with aclosing(pieces(source)) as incoming:
        async for piece in incoming:
            if decompressor is None:
                decompressor = unpacker(piece)
            async for chunk in _on_thread(iter(decompressor.feed(piece))):
                yield chunk
    if decompressor is not None:
        async for chunk in _on_thread(iter(decompressor.finish())):
            yield chunk


def unpacker(first: bytes) -> Decompressor:
    """A decompressor for a stream that begins with ``first``: what layers may use, and xz and bzip2 as well."""
    kind = compression.sniff(first)
    if kind is Compression.XZ:
        return _Rare("xz", lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY))
    return (
        _Rare("bzip2", bz2.BZ2Decompressor) if kind is Compression.BZIP2 else compression.decompressor(kind)
    )


class _Rare(Decompressor):
    """xz and bzip2, which no layer may have but `docker load` and `docker import` take, one stream after another."""

    def __init__(self, name: str, make: Callable[[], Engine]) -> None:
        self.taken = self.given = 0
        self._name = name
        self._make = make
        self._engine = make()

    @override
    def feed(self, data: Buffer) -> Iterator[Buffer]:
        part = bytes(data)
        self.taken += len(part)
        while part or not (self._engine.eof or self._engine.needs_input):
            if self._engine.eof:
                self._engine = self._make()
            try:
                chunk = self._engine.decompress(part, compression.CHUNK)
            except (OSError, lzma.LZMAError) as exc:
                raise compression.CompressionError(
                    f"the {self._name} stream is damaged near byte {self.taken}: {exc}"
                ) from exc
            part = self._engine.unused_data if self._engine.eof else b""
            self.given += len(chunk)
            if chunk:
                yield chunk

    @override
    def finish(self) -> Iterator[Buffer]:
        if not self._engine.eof:
            raise compression.CompressionError(
                f"the {self._name} stream is truncated after {self.taken} bytes"
            )
        return iter(())


def _next(chunks: Iterator[Buffer]) -> Buffer | None:
    return next(chunks, None)


async def _on_thread(chunks: Iterator[Buffer]) -> AsyncIterator[Buffer]:
    """Ask a lazy iterator for its items on a data thread."""
    while (chunk := await aio.run(aio.DATA, _next, chunks)) is not None:
        yield chunk


class ArchiveStream:
    """The members of a tar, in order. Use as an async context; take each member's `data` before the next member."""

    def __init__(self, source: AsyncIterable[bytes]) -> None:
        self._chunks = inflated(source)
        self._parser = TarParser()
        self._events: deque[Event] = deque()
        self._ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._chunks.aclose()

    async def next(self) -> Member | None:
        """The next member, or ``None`` after the last. What was not taken of the one before is skipped.

        Raises:
            InvalidArgumentError: The archive is malformed or ends early.

        """
        while (event := await self._next_event()) is not None:
            if isinstance(event, Entry):
                return _member(event)
        return None

    async def data(self, member: Member) -> AsyncIterator[memoryview]:
        """The content of the member that `next` gave last. A view is valid until the next one is asked for."""
        if not member.size:
            return
        while True:
            event = await self._next_event()
            if not isinstance(event, Data):
                raise InternalError(f"the tar parser left content of {member.path[:160]!r} out")
            yield event.view
            if event.last:
                return

    async def _next_event(self) -> Event | None:
        while not self._events and not self._ended:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                self._ended = True
                self._parser.finish()
            else:
                self._events.extend(await aio.run(aio.DATA, self._parser.feed, chunk))
        return self._events.popleft() if self._events else None


def _member(entry: Entry) -> Member:
    if entry.type in (EntryType.SYMLINK, EntryType.HARDLINK):
        return Member(path=entry.name, link=entry.linkname, hard=entry.type is EntryType.HARDLINK)
    # A sparse member's spans are not its content in order; nobody writes image archives so.
    regular = entry.type is EntryType.FILE and entry.sparse is None
    return Member(path=entry.name, size=entry.size, regular=regular)
