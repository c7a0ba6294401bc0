"""A container's log on disk: one file that grows, and older ones that were rotated; written by one, read by many.

A `Codec` says how a message is stored. Rotated files are ``NAME.1`` (newest) to ``NAME.N``, with ``.gz`` behind it if they are
compressed. Nobody who reads misses a message by rotation: a reader is handed every new file while it reads, and what it has not
read stays readable through its descriptors, however often the names change.
"""

import contextlib
import gzip
import os
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import msgspec

from lading.formats import compression
from lading.formats.compression import Compression
from lading.kit import fs
from lading.kit.times import parse_nano

MESSAGE_LIMIT: Final = 16 * 1024
"""Bytes of one message; Docker's."""
_BATCH: Final = 1 << 20
_COMPRESSED: Final = ".gz"


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message. ``log`` ends with a newline unless the line goes on in the next message."""

    log: str = ""
    stream: str = "stdout"
    attrs: dict[str, str] | None = None
    time: str = ""

    @property
    def time_nano(self) -> int:
        """Nanoseconds since the epoch; 0 if the text is no time."""
        return parse_nano(self.time)


class Codec(Protocol):
    """How messages are stored. One object per log; `encode` may remember what a line began with."""

    def encode(self, text: bytes, stream: str, time_nano: int) -> bytes:
        """The record of a message."""
        ...

    def decode(self, data: bytes) -> tuple[list[Message], int]:
        """Messages of the whole records at the beginning of ``data``, and the length of those; damaged ones are left out."""
        ...

    def whole(self, fd: int, end: int) -> int:
        """The end of the last whole record before ``end``, which may lie in the middle of one."""
        ...

    def last(self, fd: int, end: int, count: int) -> tuple[int, int]:
        """Where the last ``count`` records before ``end``, the end of one, begin; and how many there are. Reads no more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a log file is rotated (bytes, 0 for never), how many files there are in all, and whether old ones are packed."""

    max_size: int = 0
    max_file: int = 1
    compress: bool = False


class Splitter:
    """Cuts the bytes of one stream into messages. Sans-I/O."""

    def __init__(self) -> None:
        self._pending = bytearray()

    @property
    def pending(self) -> int:
        """Bytes that are not yet part of a message."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """Messages completed by ``data``."""
        self._pending += data
        made: list[bytes] = []
        start, buffer = 0, self._pending
        while True:
            end = buffer.find(b"\n", start, start + MESSAGE_LIMIT)
            if end >= 0:
                end += 1
            elif len(buffer) - start >= MESSAGE_LIMIT:
                end = start + MESSAGE_LIMIT
            else:
                break
            made.append(bytes(buffer[start:end]))
            start = end
        del buffer[:start]
        return made

    def finish(self) -> list[bytes]:
        """The last message, if the stream did not end with a newline."""
        rest, self._pending = bytes(self._pending), bytearray()
        return [rest] if rest else []


@dataclass(slots=True)
class LogFiles:
    """The files of one log. All calls are blocking and may come from any thread."""

    path: Path
    codec: Codec
    limits: Limits = field(default_factory=Limits)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _readers: "set[Reader]" = field(default_factory=set["Reader"])

    def open(self) -> int:
        """A descriptor for appending; the file is made if it is missing."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o710)
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def names(self) -> list[Path]:
        """The files that exist, oldest first."""
        found = [self.path] if self.path.exists() else []
        number = 1
        while (older := self._numbered(number)) is not None:
            found.append(older)
            number += 1
        return found[::-1]

    def _numbered(self, number: int) -> Path | None:
        plain = self.path.with_name(f"{self.path.name}.{number}")
        packed = plain.with_name(plain.name + _COMPRESSED)
        return packed if packed.exists() else plain if plain.exists() else None

    def rotate(self) -> int:
        """Begin a new file; at most ``max_file`` - 1 old ones stay. A descriptor for appending, as from `open`."""
        with self._lock:
            if self.limits.max_file <= 1:
                self.path.unlink(missing_ok=True)
            else:
                self._shift()
            fd = self.open()
            for reader in self._readers:
                reader.follow(os.dup(fd))
        return fd

    def _shift(self) -> None:
        for number in range(self.limits.max_file - 1, 0, -1):
            older = self._numbered(number)
            if older is None:
                continue
            if number == self.limits.max_file - 1:
                older.unlink()
                continue
            packed = _COMPRESSED if older.name.endswith(_COMPRESSED) else ""
            older.replace(self.path.with_name(f"{self.path.name}.{number + 1}{packed}"))
            older.with_name(older.name.removesuffix(_COMPRESSED)).unlink(missing_ok=True)
        if self.path.exists():
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))

    def compress(self) -> None:
        """Pack the newest rotated file, if that is wanted and was not done. A crash leaves it packed, plain, or both alike."""
        newest = self.path.with_name(f"{self.path.name}.1")
        if not self.limits.compress or not newest.exists():
            return
        packed = newest.with_name(newest.name + _COMPRESSED)
        temporary = newest.with_name(newest.name + ".tmp")
        compressor = compression.compressor(Compression.GZIP)
        with newest.open("rb") as source, temporary.open("wb") as target:
            while data := source.read(_BATCH):
                for chunk in compressor.feed(data):
                    target.write(chunk)
            target.write(compressor.finish())
        with self._lock:
            temporary.replace(packed)
            newest.unlink()

    def reader(self, tail: int = -1) -> "Reader":
        """Reads the last ``tail`` messages, negative for all, and what is written from now on. Close it."""
        with self._lock:
            made = Reader(self, tail)
            self._readers.add(made)
        return made

    def forget(self, reader: "Reader") -> None:
        """The reader is closed."""
        with self._lock:
            self._readers.discard(reader)


@dataclass(slots=True)
class _Segment:
    """A file and how far it was read."""

    fd: int
    offset: int = 0


class Reader:
    """Reads one log, from its last messages on. Blocking; one thread at a time."""

    def __init__(self, files: LogFiles, tail: int) -> None:
        """For `LogFiles.reader`, which holds the lock."""
        self._files = files
        self._segments: deque[_Segment] = deque()
        self._rest = b""
        left = tail
        for name in reversed(files.names()):
            segment = _Segment(_open(name))
            self._segments.appendleft(segment)
            if tail >= 0:
                found, segment.offset = self._start(segment.fd, left, newest=name == files.path)
                left -= found
                if left <= 0:
                    break
        # The newest file may not be there yet; whoever makes it does so by `open`, under its name.
        self._named = bool(self._segments) and files.path.exists()

    def _start(self, fd: int, count: int, *, newest: bool) -> tuple[int, int]:
        end = os.fstat(fd).st_size
        if newest:
            end = self._files.codec.whole(fd, end)
        offset, found = self._files.codec.last(fd, end, count)
        return found, offset

    def follow(self, fd: int) -> None:
        """A new file has begun; the reader owns ``fd``."""
        self._segments.append(_Segment(fd))
        self._named = True

    def poll(self) -> list[Message]:
        """The next messages; none if there are none yet."""
        if not self._named and self._files.path.exists():
            self._segments.append(_Segment(_open(self._files.path)))
            self._named = True
        while self._segments:
            segment = self._segments[0]
            data = os.pread(segment.fd, _BATCH, segment.offset)
            segment.offset += len(data)
            if data:
                messages, used = self._files.codec.decode(self._rest + data)
                self._rest = (self._rest + data)[used:]
                if messages:
                    return messages
            elif len(self._segments) == 1:
                break
            elif not os.pread(
                segment.fd, 1, segment.offset
            ):  # nothing came since the next file was announced
                os.close(self._segments.popleft().fd)
                self._rest = b""
        return []

    def close(self) -> None:
        """Let go. Idempotent."""
        self._files.forget(self)
        while self._segments:
            os.close(self._segments.popleft().fd)


def _open(name: Path) -> int:
    """A descriptor of the content, unpacked if need be."""
    if not name.name.endswith(_COMPRESSED):
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    with tempfile.TemporaryFile(dir=name.parent) as plain:
        # A damaged file gives what can be unpacked of it.
        with gzip.open(name, "rb") as packed, contextlib.suppress(OSError, EOFError):
            shutil.copyfileobj(packed, plain, _BATCH)
        plain.flush()
        return os.dup(plain.fileno())


def write_all(fd: int, records: Sequence[bytes]) -> None:
    """Append records."""
    fs.write_all(fd, b"".join(records))
