"""Docker's ``local`` log: protobuf records, each between its length written twice, so that it can be read backwards.

A record is ``length entry length``, lengths as 32 bits, big-endian. The entry is moby's ``plugins/logdriver/entry.proto``::

    1 source: string   2 time_nano: varint   3 line: bytes, without its newline   4 partial: bool
    5 partial_log_metadata { 1 last: bool   2 id: string   3 ordinal: varint }

A line over 16 KiB is split over entries with ``partial``, which share an ID; the last of them has ``last``.
"""

import os
import secrets
import struct
from collections.abc import Iterator
from typing import Final

from typing_extensions import override

from lading.containers.logfile import Codec, Message
from lading.kit.times import format_nano

_LENGTH: Final = struct.Struct(">I")
_ENTRY_LIMIT: Final = 1 << 20
"""More than any entry has; a longer one is damage."""
_VARINT, _BYTES = 0, 2


class LocalCodec(Codec):
    """The records of one log."""

    def __init__(self) -> None:
        self._lines: dict[str, tuple[str, int]] = {}

    @override
    def encode(self, text: bytes, stream: str, time_nano: int) -> bytes:
        ends = text.endswith(b"\n")
        identity, ordinal = self._lines.pop(stream, ("", 0))
        entry = _text(1, stream.encode()) + _number(2, time_nano) + _text(3, text.removesuffix(b"\n"))
        if identity or not ends:
            identity, ordinal = identity or secrets.token_hex(32), ordinal + 1
            if not ends:
                self._lines[stream] = identity, ordinal
            about = (_number(1, 1) if ends else b"") + _text(2, identity.encode()) + _number(3, ordinal)
            entry += _number(4, 1) + _text(5, about)
        length = _LENGTH.pack(len(entry))
        return length + entry + length

    @override
    def decode(self, data: bytes) -> tuple[list[Message], int]:
        messages: list[Message] = []
        at = 0
        while at + _LENGTH.size <= len(data):
            (size,) = _LENGTH.unpack_from(data, at)
            end = at + size + 2 * _LENGTH.size
            if size > _ENTRY_LIMIT:
                return messages, len(data)  # nobody knows where the next one begins
            if end > len(data):
                break
            if message := _message(data[at + _LENGTH.size : end - _LENGTH.size]):
                messages.append(message)
            at = end
        return messages, at

    @override
    def whole(self, fd: int, end: int) -> int:
        """Forwards, since an end in the middle of a record says nothing; only the last megabytes can be unfinished."""
        if self._ends_record(fd, end):
            return end
        at = 0
        while True:
            head = os.pread(fd, _LENGTH.size, at)
            if len(head) < _LENGTH.size:
                return at
            after = at + _LENGTH.unpack(head)[0] + 2 * _LENGTH.size
            if after > end:
                return at
            at = after

    def _ends_record(self, fd: int, end: int) -> bool:
        size = self._size_before(fd, end)
        if size is None:
            return end == 0
        start = end - size - 2 * _LENGTH.size
        return start >= 0 and os.pread(fd, _LENGTH.size, start) == _LENGTH.pack(size)

    def _size_before(self, fd: int, end: int) -> int | None:
        if end < 2 * _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack(os.pread(fd, _LENGTH.size, end - _LENGTH.size))
        return size if size <= _ENTRY_LIMIT else None

    @override
    def last(self, fd: int, end: int, count: int) -> tuple[int, int]:
        found = 0
        while found < count:
            size = self._size_before(fd, end)
            if size is None or end - size - 2 * _LENGTH.size < 0:
                break
            end -= size + 2 * _LENGTH.size
            found += 1
        return end, found


def _message(entry: bytes) -> Message | None:
    fields = dict(_fields(entry))
    source, nano, line = fields.get(1, b""), fields.get(2, 0), fields.get(3, b"")
    if not isinstance(source, bytes) or not isinstance(nano, int) or not isinstance(line, bytes):
        return None
    about = fields.get(5)
    goes_on = isinstance(about, bytes) and not dict(_fields(about)).get(1)
    return Message(
        log=line.decode("utf-8", "replace") + ("" if goes_on else "\n"),
        stream=source.decode("utf-8", "replace"),
        time=format_nano(nano),
    )


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields of a protobuf message, numbers and bytes; what else there is ends it."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        if key & 7 == _BYTES:
            yield key >> 3, data[at : at + value]
            at += value
        elif key & 7 == _VARINT:
            yield key >> 3, value
        else:
            return


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value, at


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _text(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value
