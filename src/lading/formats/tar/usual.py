"""The usual header, in one step: what nearly all entries of nearly all layers look like.

One regular expression takes a block apart in C and says "unusual" to everything that needs thought: those blocks go the
general way through `lading.formats.tar.header`. A block that is usual gives the same entry both ways (a test compares them).
"""

import re
import zlib
from typing import Final

from lading.formats.tar.entry import BLOCK, Entry, EntryType, Limits

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
_OWNERS: Final[dict[bytes, tuple[int, int, int]]] = {}
_OWNERS_MAX: Final = 4096
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
    if kind is EntryType.DIRECTORY:
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


def _owner(field: bytes) -> tuple[int, int, int]:
    found = int(field[:7], 8) & 0o7777, int(field[8:15], 8), int(field[16:23], 8)
    if len(_OWNERS) >= _OWNERS_MAX:  # a hostile archive cannot make it grow
        _OWNERS.clear()
    _OWNERS[field] = found
    return found
