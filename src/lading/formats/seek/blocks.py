"""zlib, stopped at each deflate block: the one thing about it that Python's module does not offer.

`inflate` with ``Z_BLOCK`` returns at the end of a block and says how many bits of the last byte are left (zlib.h); with the last
32 KiB of output, that is all that a decoder needs to begin there.
"""

import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

from typing_extensions import Buffer

from lading.errors import UnsupportedError
from lading.formats.compression import CHUNK, CompressionError
from lading.formats.seek.index import WINDOW

_Z_OK: Final = 0
_Z_STREAM_END: Final = 1
_Z_BUF_ERROR: Final = -5
_Z_BLOCK: Final = 5
_GZIP_ONLY: Final = 15 + 16
_AT_BLOCK: Final = 128
_IN_LAST: Final = 64


class _Stream(ctypes.Structure):
    """``z_stream`` of zlib.h."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


class Stop(NamedTuple):
    """Where a block or a member has just ended."""

    taken: int
    """Bytes of the member taken so far, the one that ends the block included."""
    bits: int
    """Bits of the last byte that were not used."""
    member: bool
    """Whether the member is over."""


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libz.so.1")
    except OSError as exc:
        raise UnsupportedError("libz.so.1 is not on this machine", hint="install zlib (zlib1g)") from exc
    library.zlibVersion.restype = ctypes.c_char_p
    return library


class Blocks:
    """One gzip member, block by block. Not for several threads at once.

    Raises:
        UnsupportedError: This machine has no zlib as a library.

    """

    def __init__(self) -> None:
        self._library = _library()
        self._stream = _Stream()
        self._output = ctypes.create_string_buffer(CHUNK)
        self._at = ctypes.byref(self._stream)
        if self._library.inflateInit2_(
            self._at, _GZIP_ONLY, self._library.zlibVersion(), ctypes.sizeof(_Stream)
        ):
            raise MemoryError("zlib has no memory")

    def __del__(self) -> None:
        if self._stream.state:
            self._library.inflateEnd(self._at)

    def feed(self, data: Buffer) -> Iterator[memoryview | Stop]:
        """Take the next bytes: what comes out, valid until the next step, and where blocks end.

        After a stop that ends the member the rest of ``data`` is not taken, and nothing more may be fed.

        Raises:
            CompressionError: The stream is damaged.

        """
        held = bytes(data)  # zlib reads it between two steps of this iterator
        self._stream.next_in = ctypes.cast(ctypes.c_char_p(held), ctypes.c_void_p)
        self._stream.avail_in = len(held)
        full = False
        while self._stream.avail_in or full:
            result, given = self._step()
            full = given == CHUNK
            if given:
                yield memoryview(self._output)[:given].cast("B")
            if result == _Z_STREAM_END:
                yield Stop(self._stream.total_in, 0, member=True)
                return
            if self._stream.data_type & _AT_BLOCK and not self._stream.data_type & _IN_LAST:
                yield Stop(self._stream.total_in, self._stream.data_type & 7, member=False)

    def window(self) -> bytes:
        """What was given out last, as far as a decoder looks back."""
        buffer = ctypes.create_string_buffer(WINDOW)
        length = ctypes.c_uint()
        self._library.inflateGetDictionary(self._at, buffer, ctypes.byref(length))
        return buffer.raw[: length.value]

    def _step(self) -> tuple[int, int]:
        self._stream.next_out = ctypes.addressof(self._output)
        self._stream.avail_out = CHUNK
        result = self._library.inflate(self._at, _Z_BLOCK)
        if result not in (_Z_OK, _Z_STREAM_END, _Z_BUF_ERROR):
            reason = (self._stream.msg or b"it needs a dictionary").decode("ascii", "replace")
            raise CompressionError(f"the gzip stream is damaged near byte {self._stream.total_in}: {reason}")
        return result, CHUNK - self._stream.avail_out
