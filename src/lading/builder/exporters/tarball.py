"""A tree as a tar, without its end. Everything here blocks, and belongs on a data thread."""

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Final

from lading.core.session import TreePart
from lading.errors import DataLossError
from lading.formats.tar.entry import Entry, EntryType
from lading.formats.tar.writer import header, padding

_CHUNK: Final = 1 << 20
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NANO: Final = 10**9
_TYPES: Final = {
    stat.S_IFREG: EntryType.FILE,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFCHR: EntryType.CHAR,
    stat.S_IFBLK: EntryType.BLOCK,
    stat.S_IFIFO: EntryType.FIFO,
}


def archive(part: TreePart, *, epoch: int | None = None) -> Iterator[bytes]:
    """The entries of a part of a tree, in order of path; with ``epoch`` (seconds) every time is that."""
    prefix = f"{part.prefix}/" if part.prefix else ""
    time = (epoch or 0) * _NANO
    if prefix:
        yield header(Entry(name=prefix, type=EntryType.DIRECTORY, mode=0o755, mtime=time))
    for name, data in sorted(part.files.items()):
        entry = Entry(name=prefix + name, type=EntryType.FILE, mtime=time, size=len(data))
        yield from (header(entry), data, padding(len(data)))
    if part.root is not None:
        fd = os.open(part.root, _DIRECTORY)
        try:
            yield from _walk(fd, prefix, epoch, {})
        finally:
            os.close(fd)


def _walk(fd: int, prefix: str, epoch: int | None, links: dict[tuple[int, int], str]) -> Generator[bytes]:
    for name in sorted(os.listdir(fd), key=os.fsencode):
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        kind = _TYPES.get(stat.S_IFMT(info.st_mode))
        if kind is None:
            continue  # a socket has no form in an archive
        path = prefix + name
        first = links.setdefault((info.st_dev, info.st_ino), path) if info.st_nlink > 1 else path
        if kind is EntryType.DIRECTORY:
            yield header(_entry(fd, name, f"{path}/", info, kind, epoch))
            child = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                yield from _walk(child, f"{path}/", epoch, links)
            finally:
                os.close(child)
        elif kind is EntryType.FILE and first != path:
            yield header(_entry(fd, name, path, info, EntryType.HARDLINK, epoch, link=first))
        elif kind is EntryType.FILE:
            yield from _file(fd, name, _entry(fd, name, path, info, kind, epoch))
        else:
            link = os.readlink(name, dir_fd=fd) if kind is EntryType.SYMLINK else ""
            yield header(_entry(fd, name, path, info, kind, epoch, link=link))


def _entry(
    fd: int,
    name: str,
    path: str,
    info: os.stat_result,
    kind: EntryType,
    epoch: int | None,
    *,
    link: str = "",
) -> Entry:
    device = kind in (EntryType.CHAR, EntryType.BLOCK)
    return Entry(
        name=path,
        type=kind,
        linkname=link,
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        mtime=info.st_mtime_ns if epoch is None else epoch * _NANO,
        size=info.st_size if kind is EntryType.FILE else 0,
        devmajor=os.major(info.st_rdev) if device else 0,
        devminor=os.minor(info.st_rdev) if device else 0,
        xattrs=_xattrs(fd, name) if kind in (EntryType.FILE, EntryType.DIRECTORY) else {},
    )


def _xattrs(fd: int, name: str) -> dict[str, bytes]:
    path = f"/proc/self/fd/{fd}/{name}"
    with suppress(OSError):
        return {
            each: os.getxattr(path, each, follow_symlinks=False)
            for each in os.listxattr(path, follow_symlinks=False)
        }
    return {}


def _file(fd: int, name: str, entry: Entry) -> Generator[bytes]:
    yield header(entry)
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        left = entry.size
        while left:
            data = os.read(source, min(_CHUNK, left))
            if not data:
                raise DataLossError(f"{entry.name} shrank while it was read", subject=entry.name)
            left -= len(data)
            yield data
    finally:
        os.close(source)
    yield padding(entry.size)
