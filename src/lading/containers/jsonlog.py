r"""The container's log on disk: Docker's ``json-file`` format, written, rotated and read.

One line per message: ``{"log":"text\n","stream":"stdout","time":"2024-05-06T07:08:09.123456789Z"}``. A line over 16 KiB is split
over several messages, of which only the last ends with a newline. Bytes that are no UTF-8 become U+FFFD. Rotated files are
``NAME.1`` (newest) to ``NAME.N``.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from lading.errors import InvalidArgumentError
from lading.kit.times import format_nano, parse_nano

MESSAGE_LIMIT: Final = 16 * 1024
"""Bytes of one message; Docker's."""
_BLOCK: Final = 64 * 1024
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Message(msgspec.Struct, frozen=True):
    """One message of a log file."""

    log: str = ""
    stream: str = "stdout"
    time: str = ""

    @property
    def time_nano(self) -> int:
        """Nanoseconds since the epoch; 0 if the text is no time."""
        return parse_nano(self.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a log file is rotated (bytes, 0 for never) and how many files there are in all."""

    max_size: int = 0
    max_file: int = 1

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> "Limits":
        """``max-size`` and ``max-file`` of a log configuration. Raises `InvalidArgumentError`."""
        size, files = 0, 1
        if text := options.get("max-size"):
            match = _SIZE.fullmatch(text.strip())
            size = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
            if size <= 0 and text.strip() != "-1":
                raise InvalidArgumentError(f"invalid log opt max-size: '{text}'")
        if text := options.get("max-file"):
            if not re.fullmatch(r"[1-9]\d{0,5}", text):
                raise InvalidArgumentError(f"invalid log opt max-file: '{text}'", hint="it is at least 1")
            files = int(text)
        if files > 1 and not size:
            raise InvalidArgumentError("max-file needs max-size in log options")
        return cls(max_size=size, max_file=files)


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


def encode(text: bytes, stream: str, time_nano: int) -> bytes:
    """One line of a log file."""
    message = Message(log=text.decode("utf-8", "replace"), stream=stream, time=format_nano(time_nano))
    return msgspec.json.encode(message) + b"\n"


def files(path: Path) -> list[Path]:
    """The log file and its rotated ones that exist, oldest first; blocking."""
    found = [path] if path.exists() else []
    number = 1
    while (older := path.with_name(f"{path.name}.{number}")).exists():
        found.append(older)
        number += 1
    return found[::-1]


def rotate(path: Path, keep: int) -> None:
    """Shift the files by one number, so that ``path`` is free; at most ``keep`` - 1 old ones stay. Blocking."""
    if keep <= 1:
        path.unlink(missing_ok=True)
        return
    for number in range(keep - 2, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    if path.exists():
        path.replace(path.with_name(f"{path.name}.1"))


def decode_lines(data: bytes) -> Iterator[Message]:
    """Messages of whole lines; a line that is damaged is skipped."""
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line, type=Message)
        except msgspec.MsgspecError:
            continue


def tail(path: Path, count: int) -> tuple[list[Message], int]:
    """The last ``count`` messages of a log and its rotated files, and the offset in ``path`` up to which was read; blocking.

    Only as much is read, from the end, as the messages need. ``count`` < 0 means all.
    """
    collected: list[bytes] = []
    lines, offset = 0, 0
    for file in reversed(files(path)):
        with file.open("rb") as handle:
            end = handle.seek(0, os.SEEK_END)
            if file == path:
                end = offset = _whole(handle.fileno(), end)
            position = end
            while position > 0 and (count < 0 or lines <= count):
                step = min(_BLOCK, position)
                position -= step
                block = os.pread(handle.fileno(), step, position)
                collected.append(block)
                lines += block.count(b"\n")
        if 0 <= count < lines:
            break
    messages = list(decode_lines(b"".join(reversed(collected))))
    return (messages if count < 0 else messages[len(messages) - min(count, len(messages)) :]), offset


def _whole(fd: int, end: int) -> int:
    """The end of the last whole line before ``end``."""
    while end > 0:
        step = min(_BLOCK, end)
        block = os.pread(fd, step, end - step)
        cut = block.rfind(b"\n")
        if cut >= 0:
            return end - step + cut + 1
        end -= step
    return 0


class Follower:
    """Reads a log from an offset on while it grows and is rotated. Blocking calls."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self._offset = offset
        self._file = path.open("rb") if path.exists() else None
        self._rest = b""

    def poll(self) -> list[Message]:
        """Messages that arrived since the last call."""
        made: list[Message] = []
        if self._file is None:
            if not self._path.exists():
                return []
            self._file = self._path.open("rb")
        made += self._drain()
        if self._replaced():
            made += self._drain()
            self._file.close()
            self._file, self._offset, self._rest = None, 0, b""
            made += self.poll()
        return made

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _drain(self) -> list[Message]:
        assert self._file is not None
        made: list[Message] = []
        while data := os.pread(self._file.fileno(), 1 << 20, self._offset):
            self._offset += len(data)
            whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
            if newline:
                made += decode_lines(whole)
            else:
                self._rest = whole + self._rest
        return made

    def _replaced(self) -> bool:
        assert self._file is not None
        try:
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False
