"""Files of a container as a tar stream: ``docker cp`` outwards, ``docker export``.

The tree may be in use, and whoever uses it may be hostile. Directories are opened without following links, content is read only
from what is a regular file when it is open, and what a file promised when its header was written is what follows it.
"""

import base64
import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from lading.containers import filecaps
from lading.containers.tree import Tree, is_kernels
from lading.core.idmap import IDENTITY, IdMap
from lading.errors import NotFoundError
from lading.formats.tar import writer
from lading.formats.tar.entry import Entry, EntryType, entry_of
from lading.kit import linux, times
from lading.kit.text import printable

_CHUNK: Final = 1 << 20
_BATCH: Final = 256 * 1024
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_INSIDE: Final = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS
_TYPES: Final = {
    stat.S_IFREG: EntryType.FILE,
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFCHR: EntryType.CHAR,
    stat.S_IFBLK: EntryType.BLOCK,
    stat.S_IFIFO: EntryType.FIFO,
}
_GO_TYPES: Final = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}
_GO_BITS: Final = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStat:
    """What ``HEAD /archive`` tells of a path. ``link_target`` is where a link leads in the end, as a path in the container."""

    name: str
    status: os.stat_result
    link_target: str = ""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory itself, not a link to one."""
        return stat.S_ISDIR(self.status.st_mode)

    def header(self) -> str:
        """Value of ``X-Docker-Container-Path-Stat``."""
        shown: dict[str, Any] = {
            "name": printable(self.name),
            "size": self.status.st_size,
            "mode": go_mode(self.status.st_mode),
            "mtime": times.format_moment(self.status.st_mtime_ns),
            "linkTarget": printable(self.link_target),
        }
        return base64.b64encode(msgspec.json.encode(shown)).decode("ascii")


def go_mode(mode: int) -> int:
    """A mode of stat(2) as Go's ``os.FileMode``."""
    made = mode & 0o777 | _GO_TYPES.get(stat.S_IFMT(mode), 0)
    for bit, go in _GO_BITS.items():
        if mode & bit:
            made |= go
    return made


def absolute(path: str) -> str:
    """A path as Docker reads it: from the root, ``..`` taken from the text, a trailing ``/`` or ``/.`` kept."""
    clean = os.path.normpath("/" + path).replace("//", "/")
    if clean != "/":
        if path.endswith("/."):
            return f"{clean}/."
        if path.endswith("/"):
            return f"{clean}/"
    return clean


def follows(path: str) -> bool:
    """Whether an `absolute` path means what a link at its end points to."""
    return path.endswith(("/", "/."))


def bare(path: str) -> str:
    """An `absolute` path without the ending that makes it follow."""
    return path.removesuffix(".").rstrip("/") or "/" if follows(path) else path


def look(tree: Tree, path: str, container: str) -> PathStat:
    """What is at an `absolute` path. Raises `NotFoundError`."""
    try:
        last = os.O_DIRECTORY if follows(path) else os.O_NOFOLLOW
        fd = tree.open(bare(path), os.O_PATH | last)
    except OSError as exc:
        raise missing(path, container) from exc
    try:
        if is_kernels(fd):
            raise missing(path, container)
        status = os.fstat(fd)
    finally:
        os.close(fd)
    link = tree.resolved(path) if stat.S_ISLNK(status.st_mode) else ""
    return PathStat(name=os.path.basename(bare(path)) or "/", status=status, link_target=link)


def missing(path: str, container: str) -> NotFoundError:
    """Docker's words."""
    return NotFoundError(f"Could not find the file {path} in container {container}", subject=path)


def archive(tree: Tree, path: str, *, container: str) -> Generator[bytes]:
    """What is at an `absolute` path as a tar whose top entry has the last name of the path; chunks of about a mebibyte.

    Raises `NotFoundError` when it begins, if it went meanwhile.
    """
    found = look(tree, path, container)
    if found.is_directory:
        fd = tree.open(bare(path), os.O_PATH | os.O_DIRECTORY)
        top = "." if path.endswith("/.") else found.name.strip("/")
        return batched(_directory(fd, top, tree.ids))
    above, name = tree.parent(path)
    return batched(_single(above, name, tree.ids))


def export(tree: Tree) -> Generator[bytes]:
    """A whole root file system as a tar of relative names; ``tree`` stays the caller's."""
    return batched(_directory(os.dup(tree.fd), "", tree.ids))


def batched(chunks: Iterator[bytes]) -> Generator[bytes]:
    """The same bytes in fewer pieces, so that thread hops are worth their cost."""
    held = bytearray()
    for chunk in chunks:
        if len(chunk) >= _BATCH:
            if held:
                yield bytes(held)
                held.clear()
            yield chunk
            continue
        held += chunk
        if len(held) >= _BATCH:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _single(parent: int, name: str, ids: IdMap) -> Iterator[bytes]:
    try:
        yield from _member(parent, name, name, {}, ids)
    finally:
        os.close(parent)
    yield writer.END


def _directory(base: int, top: str, ids: IdMap) -> Iterator[bytes]:
    """Every directory before what is in it. ``base`` is closed at the end. No directory is reached by a link."""
    links: dict[tuple[int, int], str] = {}
    pending = [""]
    try:
        while pending:
            path = pending.pop()
            shown = f"{top}/{path}" if top and path else top or path
            try:
                fd = linux.openat2(base, path or ".", os.O_RDONLY | os.O_DIRECTORY, _INSIDE)
            except OSError:
                if not path:
                    raise
                continue  # no longer the directory that it was
            try:
                status = os.fstat(fd)
                if shown:
                    yield writer.header(
                        _entry(ids, f"{shown}/", EntryType.DIRECTORY, status, xattrs=_xattrs(fd))
                    )
                if is_kernels(fd):
                    continue
                with os.scandir(fd) as found:
                    entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        yield from _member(
                            fd, entry.name, f"{shown}/{entry.name}" if shown else entry.name, links, ids
                        )
            finally:
                os.close(fd)
            pending += [
                f"{path}/{entry.name}" if path else entry.name
                for entry in reversed(entries)
                if entry.is_dir(follow_symlinks=False)
            ]
    finally:
        os.close(base)
    yield writer.END


def _member(
    parent: int, name: str, shown: str, links: dict[tuple[int, int], str], ids: IdMap
) -> Iterator[bytes]:
    """Header and content of whatever is no directory; nothing if it went, or has no form in a tar."""
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        return
    try:
        status = os.fstat(fd)
        kind = _TYPES.get(stat.S_IFMT(status.st_mode))
        if kind is None or kind is EntryType.DIRECTORY or is_kernels(fd):
            return
        if status.st_nlink > 1:
            identity = status.st_dev, status.st_ino
            if first := links.get(identity):
                yield writer.header(_entry(ids, shown, EntryType.HARDLINK, status, linkname=first))
                return
            links[identity] = shown
        if kind is EntryType.FILE:
            yield from _file(fd, shown, ids)
            return
        target = os.readlink("", dir_fd=fd) if kind is EntryType.SYMLINK else ""
        yield writer.header(_entry(ids, shown, kind, status, linkname=target))
    finally:
        os.close(fd)


def _file(found: int, shown: str, ids: IdMap) -> Iterator[bytes]:
    """Content of a regular file that was found with ``O_PATH``: opened through that descriptor, it cannot be another."""
    fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        size = status.st_size
        yield writer.header(_entry(ids, shown, EntryType.FILE, status, size=size, xattrs=_xattrs(fd)))
        left = status.st_size
        while left:
            data = os.read(fd, min(left, _CHUNK)) or bytes(min(left, _CHUNK))  # it shrank
            left -= len(data)
            yield data
        yield writer.padding(status.st_size)
    finally:
        os.close(fd)


def _entry(
    ids: IdMap,
    path: str,
    kind: EntryType,
    status: os.stat_result,
    *,
    linkname: str = "",
    size: int = 0,
    xattrs: dict[str, bytes] | None = None,
) -> Entry:
    """The entry of a file, with its owner as the container calls it."""
    made = entry_of(path, kind, status, linkname=linkname, size=size, xattrs=xattrs)
    if ids is IDENTITY:
        return made
    uid, gid = ids.inside(made.uid, made.gid)
    return msgspec.structs.replace(made, uid=uid, gid=gid)


def _xattrs(fd: int) -> dict[str, bytes]:
    """What moves with a file: its capabilities and the user's own attributes."""
    try:
        names = os.listxattr(fd)
    except OSError:
        return {}
    found: dict[str, bytes] = {}
    for name in sorted(names):
        if moves(name):
            try:
                value = os.getxattr(fd, name)
                found[name] = filecaps.portable(value) if name == filecaps.XATTR else value
            except OSError:  # gone meanwhile
                continue
    return found


def moves(xattr: str) -> bool:
    """Whether an extended attribute is copied."""
    return xattr == filecaps.XATTR or (xattr.startswith("user.") and not xattr.startswith("user.overlay."))
