"""The journal: moves what a container writes from its FIFOs into its log, exactly once, across ``kill -9`` (ADR 0080).

::

    shim ──> FIFO ──splice(2)──> spool file ──read──> json log, and whoever is attached
                                     └── checkpoint: how far the spool is in the log

* A byte is in the FIFO or in the spool, never in both or in neither: ``splice`` moves it within one system call, and a killed
  process does not leave a system call half-way.
* The log is a function of the spool. After each batch the checkpoint notes how many spool bytes the log holds and how long the
  log then is. A start after a crash cuts the log to the noted length and goes on from the noted byte.
* The spool does not grow: once a file of it is over `SPOOL_LIMIT` and all of it is in the log, the next file begins.

The FIFO itself outlives the daemon because a `keeper` holds it open; all else are files. Everything here is blocking; one thread
at a time.
"""

import os
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from lading.containers.logfile import LogFiles, Splitter
from lading.kit import fs

SPOOL_LIMIT: Final = 1 << 20
_SPLICE: Final = 1 << 20
_READ: Final = 1 << 20
_SLOT: Final = 128
_RECORD: Final = struct.Struct("<QQQQQQQQ")
"""sequence, log inode, log length, and per stream (generation, offset); the last is reserved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Bytes of one stream, as written by the container."""

    stream: str
    data: bytes


class Sink(Protocol):
    """Where messages go besides the log. After a crash the last batch may come twice. Blocking."""

    def reach(self) -> None:
        """See to it that a new run's messages can arrive. Raises `LadingError` if they cannot."""
        ...

    def send(self, message: bytes, stream: str, time_nano: int) -> None:
        """Take a message, without waiting for where it goes; what cannot be kept until then is dropped and counted."""
        ...

    def close(self) -> None:
        """The run is over; a moment is given to what is still on its way. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class _Mark:
    """What the checkpoint says."""

    sequence: int = 0
    inode: int = 0
    length: int = 0
    positions: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))


class _Checkpoint:
    """Two slots written in turn, each with a checksum: at least one is whole whenever the process ends."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.mark = max((self._slot(0), self._slot(1)), key=lambda mark: mark.sequence)

    def _slot(self, number: int) -> _Mark:
        data = os.pread(self._fd, _RECORD.size + 4, number * _SLOT)
        if len(data) < _RECORD.size + 4 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
            return _Mark()
        sequence, inode, length, *rest = _RECORD.unpack(data[:-4])
        return _Mark(sequence, inode, length, ((rest[0], rest[1]), (rest[2], rest[3])))

    def write(self, mark: _Mark) -> None:
        self.mark = replace(mark, sequence=self.mark.sequence + 1)
        positions = [number for pair in self.mark.positions for number in pair]
        data = _RECORD.pack(self.mark.sequence, mark.inode, mark.length, *positions, 0)
        data += zlib.crc32(data).to_bytes(4, "little")
        os.pwrite(self._fd, data, self.mark.sequence % 2 * _SLOT)

    def close(self) -> None:
        os.close(self._fd)


class _Stream:
    """One stream: the FIFO's read end, and the spool file that is now being filled."""

    def __init__(self, name: str, fifo: Path, directory: Path, generation: int, offset: int) -> None:
        self.name = name
        self._directory = directory
        self.fifo = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.ended = False
        self.splitter = Splitter()
        self.generation, self.read_to = generation, offset
        self.logged_to = offset
        self._open()

    def _path(self) -> Path:
        return self._directory / f"{self.name}.{self.generation}"

    def _open(self) -> None:
        self._spool = os.open(self._path(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.size = os.lseek(self._spool, 0, os.SEEK_END)

    def pull(self) -> None:
        """Move what the FIFO holds into the spool."""
        if self.ended:
            return
        try:
            moved = os.splice(
                self.fifo, self._spool, _SPLICE, offset_dst=self.size, flags=os.SPLICE_F_NONBLOCK
            )
        except BlockingIOError:
            return
        self.size += moved
        self.ended = moved == 0

    def read(self) -> bytes:
        """The next bytes of the spool that were not read."""
        data = os.pread(self._spool, min(_READ, self.size - self.read_to), self.read_to)
        self.read_to += len(data)
        return data

    def next_generation(self) -> Path | None:
        """Begin a new spool file if this one is large and all of it is logged; returns the old one's path."""
        if self.size < SPOOL_LIMIT or self.logged_to < self.size:
            return None
        old = self._path()
        os.close(self._spool)
        self.generation, self.read_to, self.logged_to = self.generation + 1, 0, 0
        self._open()
        return old

    def close(self) -> None:
        os.close(self._spool)
        os.close(self.fifo)


class Journal:
    """The journal of one run of a container.

    Args:
        directory: Where spool and checkpoint are; must not outlive a reboot.
        fifos: Stream name to FIFO, ``stdout`` first.
        log: The log's files; ``None`` for the log driver ``none``.
        sink: Who else is told of every message; closed with the journal.
        clock: Nanoseconds since the epoch.

    """

    def __init__(
        self,
        directory: Path,
        fifos: dict[str, Path],
        *,
        log: LogFiles | None,
        sink: Sink | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._files = log
        self._sink = sink
        self._clock = clock
        self._checkpoint = _Checkpoint(directory / "checkpoint")
        mark = self._checkpoint.mark
        self._log = -1
        self._length = 0
        self._inode = 0
        self._open_log(mark)
        self._streams = [
            _Stream(name, fifo, directory, *mark.positions[number])
            for number, (name, fifo) in enumerate(fifos.items())
        ]
        self._batched = 0
        self.dropped = 0
        """Messages that could not be written to the log because the disk was full."""
        self._mark()

    @property
    def fds(self) -> list[int]:
        """FIFOs that may still bring data."""
        return [stream.fifo for stream in self._streams if not stream.ended]

    @property
    def ended(self) -> bool:
        """Whether every stream has come to its end and all of it is in the log."""
        return all(s.ended and s.logged_to == s.size for s in self._streams)

    def step(self) -> list[Chunk]:
        """Take what is there. Returns the bytes that are new, for whoever is attached; they are in the log, or on its way."""
        chunks: list[Chunk] = []
        lines: list[tuple[_Stream, int, bytes]] = []
        for stream in self._streams:
            stream.pull()
            data = stream.read()
            if data:
                chunks.append(Chunk(stream=stream.name, data=data))
            messages = stream.splitter.feed(data)
            if stream.ended and stream.read_to == stream.size:
                messages += stream.splitter.finish()
            lines += [(stream, len(message), message) for message in messages]
        self._append(lines)
        for stream in self._streams:
            if old := stream.next_generation():
                self._mark()
                old.unlink(missing_ok=True)
        return chunks

    def close(self) -> None:
        """Let go of the files. What is not logged stays in FIFO and spool for the next `Journal`."""
        for stream in self._streams:
            stream.close()
        self._checkpoint.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        if self._sink is not None:
            self._sink.close()

    def _append(self, lines: Sequence[tuple[_Stream, int, bytes]]) -> None:
        batch = bytearray()
        for stream, taken, message in lines:
            now = self._clock()
            if self._sink is not None:
                self._sink.send(message, stream.name, now)
            if self._files is not None and self._log >= 0:
                line = self._files.codec.encode(message, stream.name, now)
                most = self._files.limits.max_size
                if most and self._length + len(batch) >= most:
                    self._flush(batch)
                    self._rotate(self._files)
                batch += line
                self._batched += 1
            stream.logged_to += taken
        if lines:
            self._flush(batch)

    def _flush(self, batch: bytearray) -> None:
        """Write and note it. A full disk must not stop the container: its messages are counted and dropped instead."""
        if batch:
            try:
                fs.write_all(self._log, batch)
                self._length += len(batch)
            except OSError:
                os.ftruncate(self._log, self._length)
                self.dropped += self._batched
            batch.clear()
        self._batched = 0
        self._mark()

    def _mark(self) -> None:
        positions = [(stream.generation, stream.logged_to) for stream in self._streams]
        positions += [(0, 0)] * (2 - len(positions))
        self._checkpoint.write(
            _Mark(inode=self._inode, length=self._length, positions=(positions[0], positions[1]))
        )

    def _open_log(self, mark: _Mark) -> None:
        if self._files is None:
            return
        self._log = self._files.open()
        found = os.fstat(self._log)
        self._inode, self._length = found.st_ino, found.st_size
        if mark.sequence:  # a rotation leaves an empty log, of which nothing was noted yet
            self._length = min(mark.length, found.st_size) if mark.inode == found.st_ino else 0
            os.ftruncate(self._log, self._length)

    def _rotate(self, files: LogFiles) -> None:
        os.close(self._log)
        self._log = -1
        self._log = files.rotate()
        found = os.fstat(self._log)
        self._inode, self._length = found.st_ino, found.st_size
        self._mark()
        files.compress()
