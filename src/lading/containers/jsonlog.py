r"""Docker's ``json-file`` log.

One line per message: ``{"log":"text\n","stream":"stdout","time":"2024-05-06T07:08:09.123456789Z"}``. A line over 16 KiB is split
over several messages, of which only the last ends with a newline. Bytes that are no UTF-8 become U+FFFD.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from typing_extensions import override

from lading.containers.logfile import Codec, Message
from lading.kit.times import format_nano

_BLOCK: Final = 64 * 1024


class JsonCodec(Codec):
    """One JSON object per line; ``attributes`` stand in every one."""

    def __init__(self, attributes: Mapping[str, str] | None = None) -> None:
        self._attributes = dict(attributes or {}) or None

    @override
    def encode(self, text: bytes, stream: str, time_nano: int) -> bytes:
        made = Message(
            log=text.decode("utf-8", "replace"),
            stream=stream or "stdout",
            attrs=self._attributes,
            time=format_nano(time_nano),
        )
        return _ENCODER.encode(_Line(made.log, made.stream, made.attrs or msgspec.UNSET, made.time)) + b"\n"

    @override
    def decode(self, data: bytes) -> tuple[list[Message], int]:
        whole, newline, _ = data.rpartition(b"\n")
        if not newline:
            return [], 0
        return list(decode_lines(whole)), len(whole) + 1

    @override
    def whole(self, fd: int, end: int) -> int:
        while end > 0:
            step = min(_BLOCK, end)
            block = os.pread(fd, step, end - step)
            cut = block.rfind(b"\n")
            if cut >= 0:
                return end - step + cut + 1
            end -= step
        return 0

    @override
    def last(self, fd: int, end: int, count: int) -> tuple[int, int]:
        lines, position = 0, end
        while position > 0 and lines <= count:
            step = min(_BLOCK, position)
            block = os.pread(fd, step, position - step)
            here = block.count(b"\n")
            if lines + here > count:
                at = len(block)
                for _ in range(count - lines + 1):
                    at = block.rfind(b"\n", 0, at)
                return position - step + at + 1, count
            lines += here
            position -= step
        return 0, lines


class _Line(msgspec.Struct):
    """As it stands in the file, in Docker's order."""

    log: str
    stream: str
    attrs: dict[str, str] | msgspec.UnsetType
    time: str


_ENCODER: Final = msgspec.json.Encoder()


def decode_lines(data: bytes) -> Iterator[Message]:
    """Messages of whole lines; a line that is damaged is skipped."""
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line, type=Message)
        except msgspec.MsgspecError:
            continue
