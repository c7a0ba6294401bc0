r"""Headers out: the bytes that stand before an entry's content, the padding after it, the end of the archive.

The same entry always gives the same bytes: ustar if it can express the entry, otherwise a PAX header before it. Times
below the second, large numbers, long or non-ASCII names and extended attributes (as ``SCHILY.xattr``) need PAX.

An archive is ``b"".join(header(entry) + content + padding(entry.size) ...) + END``.
"""

import zlib
from typing import Final

from lading.errors import InvalidArgumentError
from lading.formats.tar.entry import BLOCK, MAX_ID, Entry, EntryType

END: Final = bytes(2 * BLOCK)
"""The two zero blocks that end an archive."""

_ZEROS: Final = bytes(BLOCK)
_NANO: Final = 10**9
_FLAGS: Final = {
    EntryType.FILE: b"0",
    EntryType.HARDLINK: b"1",
    EntryType.SYMLINK: b"2",
    EntryType.CHAR: b"3",
    EntryType.BLOCK: b"4",
    EntryType.DIRECTORY: b"5",
    EntryType.FIFO: b"6",
}


def padding(size: int) -> bytes:
    """What follows content of ``size`` bytes, so that the next header begins at a block."""
    return _ZEROS[: -size % BLOCK]


def header(entry: Entry) -> bytes:
    """The header blocks of an entry; ``offset``, ``real_size`` and nothing else of it is ignored.

    Raises:
        InvalidArgumentError: The entry is sparse (write it in full), or holds a value that no archive can.

    """
    _check(entry)
    records: dict[bytes, bytes] = {}
    name, linkname = _raw(entry.name), _raw(entry.linkname)
    prefix, short = _split(name)
    if not short:
        records[b"path"] = name
        short = _ascii(name)
    link = linkname
    if len(linkname) > 100 or not linkname.isascii():
        records[b"linkpath"] = linkname
        link = _ascii(linkname)
    seconds, fraction = divmod(entry.mtime, _NANO)
    if fraction or not 0 <= seconds < 8**11:
        records[b"mtime"] = _time(entry.mtime)
    if entry.uid >= 8**7:
        records[b"uid"] = b"%d" % entry.uid
    if entry.gid >= 8**7:
        records[b"gid"] = b"%d" % entry.gid
    if entry.size >= 8**11:
        records[b"size"] = b"%d" % entry.size
    for xattr in entry.xattrs:
        records[b"SCHILY.xattr." + _raw(xattr)] = entry.xattrs[xattr]
    block = _block(
        prefix,
        short,
        _FLAGS[entry.type],
        mode=entry.mode,
        uid=0 if b"uid" in records else entry.uid,
        gid=0 if b"gid" in records else entry.gid,
        size=0 if b"size" in records else entry.size,
        seconds=min(max(seconds, 0), 8**11 - 1),
        linkname=link,
        device=(entry.devmajor, entry.devminor),
    )
    return _extension(records, short) + block if records else block


def _check(entry: Entry) -> None:
    if entry.sparse is not None:
        raise InvalidArgumentError(f"tar entry {entry.name!r} is sparse", hint="write its content in full")
    if not entry.name or "\0" in entry.name or "\0" in entry.linkname:
        raise InvalidArgumentError(f"tar entry name {entry.name!r} is empty or contains NUL")
    if entry.size and entry.type is not EntryType.FILE:
        raise InvalidArgumentError(f"tar entry {entry.name!r} has content and is no file")
    if not (
        0 <= entry.mode <= 0o7777
        and 0 <= entry.uid <= MAX_ID
        and 0 <= entry.gid <= MAX_ID
        and 0 <= entry.size < 2**63
        and 0 <= entry.devmajor < 8**7
        and 0 <= entry.devminor < 8**7
        and abs(entry.mtime) <= (2**63 - 1) * _NANO
    ):
        raise InvalidArgumentError(f"a number of tar entry {entry.name!r} is out of range")
    if entry.xattrs and any(not name or "=" in name or "\0" in name for name in entry.xattrs):
        raise InvalidArgumentError(f"an extended attribute name of tar entry {entry.name!r} has no PAX form")


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Prefix and name for ustar; an empty name if it does not fit."""
    if not name.isascii():
        return b"", b""
    if len(name) <= 100:
        return b"", name
    # The first possible slash from the right that leaves at most 100 bytes behind it; a trailing slash stays there.
    slash = name.find(b"/", max(len(name) - 101, 1))
    if slash < 0 or slash > 155 or slash == len(name) - 1:
        return b"", b""
    return name[:slash], name[slash + 1 :]


def _block(
    prefix: bytes,
    name: bytes,
    flag: bytes,
    *,
    mode: int,
    uid: int = 0,
    gid: int = 0,
    size: int,
    seconds: int = 0,
    linkname: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    major, minor = (b"%07o\0" % device[0], b"%07o\0" % device[1]) if flag in (b"3", b"4") else (b"", b"")
    head = name.ljust(100, b"\0") + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, seconds)
    tail = (
        flag
        + linkname.ljust(100, b"\0")
        + b"ustar\00000"
        + bytes(64)
        + major.ljust(8, b"\0")
        + minor.ljust(8, b"\0")
        + prefix.ljust(167, b"\0")
    )
    return head + b"%06o\0 " % (_sum(head) + _sum(tail[:178]) + _sum(tail[178:]) + 8 * 32) + tail


def _sum(part: bytes) -> int:
    """The sum of up to 256 bytes: the lower half of their Adler-32 is one more, and that is computed in C."""
    return (zlib.adler32(part) & 0xFFFF) - 1


def _extension(records: dict[bytes, bytes], name: bytes) -> bytes:
    texts = (records.get(b"path", b""), records.get(b"linkpath", b""))
    body = b"" if all(map(_is_utf8, texts)) else _record(b"hdrcharset", b"BINARY")
    body += b"".join(_record(keyword, records[keyword]) for keyword in sorted(records))
    base = name.rstrip(b"/").rpartition(b"/")[2][:80]
    return _block(b"", b"PaxHeaders.0/" + base, b"x", mode=0o644, size=len(body)) + body + padding(len(body))


def _record(keyword: bytes, value: bytes) -> bytes:
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))  # its own digits may have made it one digit longer
    return b"%d %s=%s\n" % (length, keyword, value)


def _time(nanoseconds: int) -> bytes:
    seconds, fraction = divmod(abs(nanoseconds), _NANO)
    text = f"{'-' if nanoseconds < 0 else ''}{seconds}"
    return (f"{text}.{fraction:09d}".rstrip("0") if fraction else text).encode()


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _ascii(raw: bytes) -> bytes:
    """What a reader without PAX gets to see."""
    return raw.decode("ascii", "replace").encode("ascii", "replace")[:100]
