"""The usual header, in one step: what nearly all entries of nearly all layers look like.

One regular expression takes a block apart in C and says "unusual" to everything that needs thought: those blocks go the
general way through `lading.formats.tar.header`. A block that is usual gives the same entry both ways (a test compares them).
"""

import re
import zlib
from struct import Struct
from typing import Final

from lading.formats.tar.entry import BLOCK, Entry, EntryType, Event, Limits

_match: Final = re.compile(
    rb"(?s)(?=([^\0\n]{1,99})\0).{100}"  # name
    rb"((?:[0-7]{7}\0){3})"  # mode, uid, gid: few different ones, see _OWNERS
    rb"([0-7]{11})\0([0-7]{11})\0([0-7]{6})\0 "  # size, mtime, checksum
    rb"([0125])(?=([^\0\n]{0,99})\0).{100}"  # type, linkname
    rb"ustar(?:\0..|  \0).{80}\0"  # magic; no prefix
).match
_KINDS: Final = {
    b"0": EntryType.FILE,
    b"1": EntryType.HARDLINK,
    b"2": EntryType.SYMLINK,
    b"5": EntryType.DIRECTORY,
}
_FILE: Final = EntryType.FILE
_DIRECTORY: Final = EntryType.DIRECTORY
_unpack: Final = Struct("<100s24s11sc12s6s2sc100s8s80sc").unpack_from
_MAGICS: Final = frozenset({b"ustar\x0000", b"ustar  \0"})
_SCANNED: Final = {b"0": _FILE, b"5": _DIRECTORY}
_OWNERS: Final[dict[bytes, tuple[int, int, int]]] = {}
_OWNERS_MAX: Final = 4096
_TIMES: Final[dict[bytes, int]] = {}
"""Nanoseconds by field, likewise: most entries of a layer were made at few moments."""
_NANO: Final = 10**9
_adler = zlib.adler32


def allowed(limits: Limits) -> bool:
    """Whether no usual header can exceed ``limits``, so that they need not be checked."""
    return (
        min(limits.path, limits.component, limits.linkname) >= 99
        and limits.depth >= 50
        and limits.file_size >= 8**11
    )


def entry(view: memoryview, at: int, position: int) -> Entry | None:
    """The entry of the header at ``at``, whose content begins at ``position`` of the stream; ``None`` if unusual."""
    match = _match(view, at, at + BLOCK)
    if match is None:
        return None
    name, owner, size, mtime, checksum, flag, link = match.groups()
    # adler32's low half is 1 + the sum of the bytes modulo 65521, which 256 bytes cannot reach: the exact sum at the
    # speed of C. The checksum field (digits, NUL, space) counts as eight spaces: 224 more than its NUL and space.
    total = (
        (_adler(view[at : at + 256]) & 0xFFFF)
        + (_adler(view[at + 256 : at + 512]) & 0xFFFF)
        - (_adler(checksum) & 0xFFFF)
        + 223
    )
    if total != int(checksum, 8):
        return None
    known = _OWNERS.get(owner) or _owner(owner)
    kind = _KINDS[flag]
    if kind is _FILE:
        length = int(size, 8)
        return Entry(
            name.decode("utf-8", "surrogateescape"),
            kind,
            "",
            known[0],
            known[1],
            known[2],
            int(mtime, 8) * _NANO,
            length,
            length,
            position,
        )
    if kind is _DIRECTORY:
        link = b""
    elif not link:
        return None
    return Entry(
        name.decode("utf-8", "surrogateescape"),
        kind,
        link.decode("utf-8", "surrogateescape"),
        known[0],
        known[1],
        known[2],
        int(mtime, 8) * _NANO,
        0,
        0,
        position,
    )


def scan(view: memoryview, at: int, start: int, events: list[Event]) -> int:
    """Append the entries of usual files and directories that follow one another from ``at``; where they end.

    Byte 0 of ``view`` is byte ``start`` of the stream. Contents are stepped over, so the end may lie beyond ``view``. It
    stops before whatever `entry` or the general way must look at. One loop, because a call per entry doubles its cost.
    """
    last = len(view) - BLOCK
    append, owners, times, kinds, unpack, adler = (
        events.append,
        _OWNERS.get,
        _TIMES.get,
        _SCANNED,
        _unpack,
        _adler,
    )
    while at <= last:
        name, owner, size, nul, mtime, checksum, gap, flag, _, magic, _, prefix = unpack(view, at)
        kind = kinds.get(flag)
        known = owners(owner)
        time = times(mtime) or _time(mtime)
        name = name.rstrip(b"\0")
        if (
            kind is None
            or known is None
            or time is None
            or prefix != b"\0"
            or magic not in _MAGICS
            or nul != b"\0"
            or gap != b"\0 "
            or not size.isdigit()
            or not checksum.isdigit()
            or not 0 < len(name) < 100
            or b"\0" in name
            or b"\n" in name
        ):
            break
        try:
            length, wanted = int(size, 8), int(checksum, 8)
        except ValueError:
            break
        total = (adler(view[at : at + 256]) & 0xFFFF) + (adler(view[at + 256 : at + 512]) & 0xFFFF)
        if total - (adler(checksum) & 0xFFFF) + 223 != wanted:
            break
        if kind is _DIRECTORY:
            length = 0
        at += BLOCK
        append(
            Entry(
                name.decode("utf-8", "surrogateescape"),
                kind,
                "",
                known[0],
                known[1],
                known[2],
                time,
                length,
                length,
                start + at,
            )
        )
        at += length + -length % BLOCK
    return at


def _time(field: bytes) -> int | None:
    """Nanoseconds of a field of octal digits and a NUL; ``None`` if it is not of that form."""
    if field[11] or not field[:11].isdigit():
        return None
    try:
        found = int(field[:11], 8) * _NANO
    except ValueError:
        return None
    if len(_TIMES) >= _OWNERS_MAX:
        _TIMES.clear()
    _TIMES[field] = found
    return found


def _owner(field: bytes) -> tuple[int, int, int]:
    found = int(field[:7], 8) & 0o7777, int(field[8:15], 8), int(field[16:23], 8)
    if len(_OWNERS) >= _OWNERS_MAX:  # a hostile archive cannot make it grow
        _OWNERS.clear()
    _OWNERS[field] = found
    return found
