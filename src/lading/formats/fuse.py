"""The part of the FUSE protocol that a directory of read-only files takes (linux/fuse.h, 7.31 and later).

Little-endian machines only, as the rest of the formats that the kernel reads.
"""

import stat
import struct
from enum import IntEnum
from typing import Final, NamedTuple, cast

VERSION: Final = (7, 31)
ROOT: Final = 1
"""Node of the directory."""
LONGEST_READ: Final = 1 << 20
"""Bytes that the kernel asks for at most, if it takes `max_pages`."""
REQUEST_BYTES: Final = 1 << 16
"""Room for any request: names and small structures; nobody writes."""
RESEND: Final = 7
"""Notification: send again what an earlier server has read and not answered (Linux 6.9)."""

_IN: Final = struct.Struct("<IIQQIIIHH")
_OUT: Final = struct.Struct("<IiQ")
ANSWER_HEAD: Final = _OUT.size
"""Bytes of `answer`."""
_INIT: Final = struct.Struct("<IIIIHHIIHHII24x")
_ATTR: Final = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY: Final = struct.Struct("<QQQQII")
_ATTR_OUT: Final = struct.Struct("<QII")
_OPEN: Final = struct.Struct("<QIi")
_READ: Final = struct.Struct("<QQI")
_RELEASE: Final = struct.Struct("<Q")
_RESENT: Final = 1 << 63
"""Bit of `Request.unique` in what is sent again (Linux 6.9)."""
_STATFS: Final = struct.Struct("<QQQQQIIII24x")
_ASYNC_READ: Final = 1 << 0
_PARALLEL: Final = 1 << 18
_MAX_PAGES: Final = 1 << 22
_PAGE: Final = 4096
_LONG: Final = 1 << 30


class Op(IntEnum):
    """Requests that are understood; others are answered with ``ENOSYS``."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


SILENT: Final = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT})
"""Requests without an answer."""


class Request(NamedTuple):
    """One request."""

    op: int
    unique: int
    node: int
    body: bytes


class Node(NamedTuple):
    """What the kernel is told of a file or the directory."""

    number: int
    size: int
    directory: bool = False


def parse(data: bytes | memoryview) -> Request:
    """A request as read from ``/dev/fuse``."""
    header = cast("tuple[int, ...]", _IN.unpack_from(data))
    return Request(header[1], header[2], header[3], bytes(data[_IN.size : header[0]]))


def read_range(request: Request) -> tuple[int, int]:
    """Offset and size that a `Op.READ` wants."""
    _, offset, size = cast("tuple[int, int, int]", _READ.unpack_from(request.body))
    return offset, size


def handle(request: Request) -> int:
    """The handle to answer a `Op.OPEN` with, the same if that is sent again; or what a `Op.RELEASE` gives back."""
    if request.op == Op.RELEASE:
        return cast("tuple[int]", _RELEASE.unpack_from(request.body))[0]
    return request.unique & ~_RESENT


def name(request: Request) -> str:
    """The name that a `Op.LOOKUP` looks for."""
    return request.body.rstrip(b"\0").decode("utf-8", "surrogateescape")


def answer(request: Request, length: int) -> bytes:
    """The head of an answer that ``length`` bytes follow."""
    return _OUT.pack(_OUT.size + length, 0, request.unique)


def error(request: Request, number: int) -> bytes:
    """An answer that says no."""
    return _OUT.pack(_OUT.size, -number, request.unique)


def notification(code: int) -> bytes:
    """A message that nobody has asked for."""
    return _OUT.pack(_OUT.size, code, 0)


def init(request: Request) -> bytes:
    """The body that answers `Op.INIT`, or empty if the kernel is too old."""
    major, minor, readahead, flags = struct.unpack_from("<IIII", request.body)
    if (major, minor) < VERSION:
        return b""
    flags &= _ASYNC_READ | _PARALLEL | _MAX_PAGES
    pages = LONGEST_READ // _PAGE
    return _INIT.pack(7, 31, max(readahead, LONGEST_READ), flags, 64, 48, _PAGE, 1, pages, 0, 0, 0)


def entry(node: Node) -> bytes:
    """The body that answers `Op.LOOKUP`. Names are looked up anew each time; a file never changes its attributes."""
    return _ENTRY.pack(node.number, 0, 0, _LONG, 0, 0) + _attributes(node)


def attributes(node: Node) -> bytes:
    """The body that answers `Op.GETATTR`."""
    return _ATTR_OUT.pack(_LONG, 0, 0) + _attributes(node)


def opened(handle: int = 0) -> bytes:
    """The body that answers `Op.OPEN` and `Op.OPENDIR`: pages that were cached before are not kept."""
    return _OPEN.pack(handle, 0, 0)


def statistics() -> bytes:
    """The body that answers `Op.STATFS`."""
    return _STATFS.pack(0, 0, 0, 0, 0, _PAGE, 255, _PAGE, 0)


def _attributes(node: Node) -> bytes:
    mode = stat.S_IFDIR | 0o500 if node.directory else stat.S_IFREG | 0o400
    blocks = -(-node.size // 512)
    return _ATTR.pack(node.number, node.size, blocks, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, _PAGE, 0)
