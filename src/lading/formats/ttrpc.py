"""ttrpc framing: a 10-byte header and a payload. No message is parsed here, and nothing is read or written.

Source: containerd's ttrpc ``PROTOCOL.md``. Header, big endian: u32 payload length, u32 stream ID (a client's are odd and
rise), u8 frame kind, u8 flags.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from typing_extensions import Buffer

from lading.errors import DataLossError, ResourceExhaustedError

MAX_PAYLOAD: Final = 4 << 20
"""Bytes of payload that a peer accepts."""
_HEADER: Final = struct.Struct(">IIBB")
HEADER_SIZE: Final = _HEADER.size


class Kind(IntEnum):
    """What a frame carries."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class FrameError(DataLossError):
    """The bytes are not ttrpc; the connection cannot go on."""

    code = "bad-ttrpc-frame"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame. ``flags``: 1 remote closed, 2 remote open, 4 no data."""

    stream: int
    kind: Kind
    payload: bytes
    flags: int = 0


def encode(frame: Frame) -> bytes:
    """The bytes of a frame.

    Raises:
        ResourceExhaustedError: The payload is over `MAX_PAYLOAD`.

    """
    if len(frame.payload) > MAX_PAYLOAD:
        raise ResourceExhaustedError(
            f"a ttrpc message of {len(frame.payload)} bytes is over the limit of {MAX_PAYLOAD}",
            hint="send less in one call",
        )
    return _HEADER.pack(len(frame.payload), frame.stream, frame.kind, frame.flags) + frame.payload


class FrameDecoder:
    """Bytes in, frames out. After a `FrameError` the decoder is spent."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: Buffer) -> Iterator[Frame]:
        """Frames that are complete with ``data``; the rest waits for more.

        The iterator must be exhausted before the next call.

        Raises:
            FrameError: A header that no ttrpc peer sends.

        """
        self._buffer += data
        while len(self._buffer) >= HEADER_SIZE:
            size, stream, kind, flags = _HEADER.unpack_from(self._buffer)
            if size > MAX_PAYLOAD:
                raise FrameError(f"a ttrpc frame claims {size} bytes, over the limit of {MAX_PAYLOAD}")
            if not stream:
                raise FrameError("a ttrpc frame has stream ID 0")
            try:
                known = Kind(kind)
            except ValueError as exc:
                raise FrameError(f"a ttrpc frame is of the unknown kind {kind}") from exc
            end = HEADER_SIZE + size
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER_SIZE:end])
            del self._buffer[:end]
            yield Frame(stream=stream, kind=known, payload=payload, flags=flags)

    def close(self) -> None:
        """The peer has ended.

        Raises:
            FrameError: In the middle of a frame.

        """
        if self._buffer:
            raise FrameError("the ttrpc connection ended within a frame")
