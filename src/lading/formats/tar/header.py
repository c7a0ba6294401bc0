"""One 512-byte header block: recognised, verified, taken apart.

Almost every header in the wild has the layout that one regular expression knows, so that such a block costs one C call
for all its fields. Whatever it does not match goes through `_decode`, which knows V7, ustar, star and GNU, base-256
numbers and the padding habits of old writers. Both accept what Go's archive/tar accepts, less what hostile-input.md T18
forbids. Source: POSIX pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

import re
import struct
import zlib
from typing import Final

import msgspec

from lading.formats.tar.entry import BLOCK, TarError

ZERO_BLOCK: Final = bytes(BLOCK)
_SPARSE_SLOTS: Final = 4
_EXTENDED_SLOTS: Final = 21
_I64: Final = 2**63

_USUAL: Final = re.compile(
    rb"(?s)(?=([^\0]{0,100})).{100}"  # name
    rb"([0-7]{7})\0([0-7]{7})\0([0-7]{7})\0"  # mode, uid, gid
    rb"([0-7]{11})\0([0-7]{11})\0([0-7]{6})\0 "  # size, mtime, checksum
    rb"(.)(?=([^\0]{0,100})).{100}"  # type, linkname
    rb"ustar(?:\0|(  \0))"  # magic; version is not looked at
).match
_TAIL: Final = struct.Struct("8s8s155s").unpack_from
_OCTAL: Final = re.compile(rb"[ \0]*([0-7]*)(?:\0.*|[ \0]*)", re.DOTALL).fullmatch
_adler = zlib.adler32


class Block(msgspec.Struct, frozen=True, gc=False):
    """The fields of a header block that matter, before extensions are applied."""

    name: bytes
    linkname: bytes
    flag: bytes
    """The type flag, one byte."""
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    """Whole seconds."""
    gnu: bool


def parse(view: memoryview, at: int) -> Block | None:
    """The header in the 512 bytes of ``view`` from ``at``, or ``None`` if they are all zero.

    Raises:
        TarError: It is not a header, its checksum is wrong, or a number in it is not acceptable.

    """
    match = _USUAL(view, at, at + BLOCK)
    if match is None:
        if bytes(view[at : at + BLOCK]) == ZERO_BLOCK:
            return None
        return _decode(view, at)
    name, mode, uid, gid, size, mtime, checksum, flag, linkname, gnu = match.groups()
    # adler32's low half is 1 + the sum of the bytes modulo 65521, which spans of at most 256 bytes cannot reach: the
    # exact sum at the speed of C. The checksum field counts as eight spaces.
    total = (
        (_adler(view[at : at + 148]) & 0xFFFF)
        + (_adler(view[at + 156 : at + 412]) & 0xFFFF)
        + (_adler(view[at + 412 : at + 512]) & 0xFFFF)
        + 253
    )
    if total != int(checksum, 8):
        return _decode(view, at)
    if gnu:
        if view[at + 345]:
            return _decode(view, at)
    elif view[at + 345]:
        name = _prefix(view, at) + b"/" + name
    return Block(
        name,
        linkname,
        flag,
        int(mode, 8),
        int(uid, 8),
        int(gid, 8),
        int(size, 8),
        int(mtime, 8),
        gnu is not None,
    )


def device(view: memoryview, at: int) -> tuple[int, int]:
    """Major and minor number of the device entry at ``at``. Raises `TarError` unless Linux can represent them."""
    major, minor, _ = _TAIL(view, at + 329)
    pair = number(major), number(minor)
    if pair[0] >= 1 << 12 or pair[1] >= 1 << 20:
        raise TarError(f"device number {pair[0]}:{pair[1]} is out of range")
    return pair


def number(field: bytes) -> int:
    """A non-negative number: octal, or base-256 if its first bit is set.

    Spaces and NULs around octal digits are padding and a NUL ends the field, as every reader takes it.
    """
    value = signed_number(field)
    if value < 0:
        raise TarError("negative number in a tar header")
    return value


def signed_number(field: bytes) -> int:
    """Like `number`, but base-256 may be negative, as times before 1970 are. Bounded to 64 bits."""
    if field[0] & 0x80:
        # Two's complement; the marker bit is not part of the number, the one below it is its sign.
        width = len(field) * 8 - 1
        value = int.from_bytes(field, "big") & ((1 << width) - 1)
        if value >> (width - 1):
            value -= 1 << width
        if not -_I64 <= value < _I64:
            raise TarError("number in a tar header exceeds 64 bits")
        return value
    match = _OCTAL(field)
    if match is None:
        raise TarError(f"malformed number {field!r} in a tar header")
    return int(match[1] or b"0", 8)


def sparse_slots(area: memoryview, slots: int) -> list[tuple[int, int]]:
    """The used (offset, length) slots at the start of ``area``: an old GNU sparse map, which ends at an empty slot."""
    found: list[tuple[int, int]] = []
    for at in range(0, slots * 24, 24):
        if not area[at]:
            break
        found.append((number(bytes(area[at : at + 12])), number(bytes(area[at + 12 : at + 24]))))
    return found


def gnu_sparse(view: memoryview, at: int) -> tuple[list[tuple[int, int]], int, bool]:
    """The old GNU sparse fields of the header at ``at``: runs, length of the file, whether map blocks follow."""
    runs = sparse_slots(view[at + 386 : at + 482], _SPARSE_SLOTS)
    return runs, number(bytes(view[at + 483 : at + 495])), view[at + 482] != 0


def gnu_sparse_more(view: memoryview, at: int) -> tuple[list[tuple[int, int]], bool]:
    """The runs in an old GNU sparse map block, and whether another follows."""
    return sparse_slots(view[at : at + 504], _EXTENDED_SLOTS), view[at + 504] != 0


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _prefix(view: memoryview, at: int) -> bytes:
    # star says "tar" at the end of the block and keeps two times in the last bytes of ustar's prefix.
    star = bytes(view[at + 508 : at + 512]) == b"tar\0"
    return _text(bytes(view[at + 345 : at + (476 if star else 500)]))


def _verify(block: bytes) -> None:
    stored = number(block[148:156])
    unsigned = sum(block) - sum(block[148:156]) + 8 * 32
    if stored == unsigned:
        return
    # Some old writers summed signed characters.
    counted = block[:148] + block[156:]
    if stored != unsigned - 256 * sum(1 for byte in counted if byte >= 0x80):
        raise TarError("tar header checksum mismatch", hint="the archive is damaged or not a tar archive")


def _decode(view: memoryview, at: int) -> Block:
    block = bytes(view[at : at + BLOCK])
    _verify(block)
    name = _text(block[:100])
    gnu = block[257:265] == b"ustar  \0"
    if gnu:
        name = _go_prefix(block) + name
    elif block[257:263] == b"ustar\0" and block[345]:
        name = _prefix(view, at) + b"/" + name
    mode = number(block[100:108])
    if mode >> 32:
        raise TarError(f"mode {mode:#o} in a tar header is out of range")
    return Block(
        name,
        _text(block[157:257]),
        block[156:157],
        mode,
        number(block[108:116]),
        number(block[116:124]),
        number(block[124:136]),
        signed_number(block[136:148]),
        gnu,
    )


def _go_prefix(block: bytes) -> bytes:
    # Go before 1.8 wrote a ustar prefix into GNU headers, where times belong; layers made then still exist. Like Go,
    # take it for a prefix exactly if it cannot be the times.
    for field in (block[345:357], block[357:369]):
        if field[0]:
            try:
                signed_number(field)
            except TarError:
                prefix = _text(block[345:500])
                return prefix + b"/" if prefix.isascii() else b""
    return b""
