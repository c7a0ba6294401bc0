"""From directories to a layer: what changed, in order of name, and the tar stream that says so.

`of_upper` reads only what overlayfs wrote; `of_trees` compares two whole trees by what stat(2) and the attributes say, as
containerd's walking differ does. Both give `Difference` records, from which `archive` and `changes` are made.
"""

import errno
import os
import stat
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from lading.core.diff import Change, ChangeKind
from lading.errors import FailedPreconditionError
from lading.formats import whiteouts
from lading.formats.tar import writer
from lading.formats.tar.entry import Entry, EntryType, entry_of
from lading.snapshots import trees
from lading.snapshots.faults import translated
from lading.snapshots.layers import Lowers

_CHUNK: Final = 1 << 20
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TYPES: Final = {
    stat.S_IFREG: EntryType.FILE,
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFCHR: EntryType.CHAR,
    stat.S_IFBLK: EntryType.BLOCK,
    stat.S_IFIFO: EntryType.FIFO,
}


class InexpressibleError(FailedPreconditionError):
    """A change that the layer format has no words for."""

    code = "inexpressible-change"


@dataclass(frozen=True, slots=True)
class Difference:
    """One changed path. ``directory`` is a descriptor of its parent, valid until the next one is asked for."""

    path: str
    """Relative, without links."""
    kind: ChangeKind
    directory: int
    opaque: bool = False
    """A directory that hides what its parent snapshot has in it."""
    lost: tuple[str, ...] = ()
    """What that is, less what is there again: names in the directory."""


def of_upper(upper: str, lowers: Sequence[str]) -> Generator[Difference]:
    """What an upper directory says, given the directories below it, topmost first."""
    tops: set[str] = set()
    """Directories that nothing below has, in one that something below has."""
    fresh = ""
    with trees.opened(upper) as root, Lowers(lowers) as below:
        for path, fd, entries in trees.walk(root):
            if path in tops:
                tops.discard(path)
                fresh = path
            new = bool(fresh) and (path == fresh or path.startswith(f"{fresh}/"))
            for entry in entries:
                place = trees.join(path, entry.name)
                status = trees.look(fd, entry.name)
                if status is None:
                    continue  # deleted since the directory was read
                there = not new and below.exists(place)
                if trees.is_whiteout(status):
                    if there:
                        yield Difference(place, ChangeKind.DELETE, fd)
                    continue
                kind = ChangeKind.MODIFY if there else ChangeKind.ADD
                directory = stat.S_ISDIR(status.st_mode)
                if directory and not there and not new:
                    tops.add(place)
                opaque = directory and trees.is_opaque(trees.handle(fd, entry.name))
                lost: tuple[str, ...] = ()
                if opaque and kind is ChangeKind.MODIFY:
                    lost = tuple(sorted(below.names(place) - set(_list(fd, entry.name))))
                yield Difference(place, kind, fd, opaque, lost)


def of_trees(tree: str, parent: str | None) -> Generator[Difference]:
    """How a tree differs from another; ``None`` is the empty tree. Directories on the way to a change count as modified."""
    with trees.opened(tree) as root, Lowers([parent] if parent else []) as below:
        kinds: dict[str, ChangeKind] = {}
        for path, fd, entries in trees.walk(root):
            found = {
                trees.join(path, entry.name): kind
                for entry in entries
                if (kind := _compare(fd, entry.name, trees.join(path, entry.name), below)) is not None
            }
            for name in below.names(path) - {entry.name for entry in entries}:
                found[trees.join(path, name)] = ChangeKind.DELETE
            kinds |= found
            while found and path and path not in kinds:
                kinds[path] = ChangeKind.MODIFY
                path = path.rpartition("/")[0]  # noqa: PLW2901 -- up to the root
        deleted: dict[str, list[str]] = {}
        for path, kind in kinds.items():
            if kind is ChangeKind.DELETE:
                above, _, name = path.rpartition("/")
                deleted.setdefault(above, []).append(name)
        for path, fd, entries in trees.walk(root):
            names = [entry.name for entry in entries] + deleted.get(path, [])
            for name in sorted(names, key=os.fsencode):
                place = trees.join(path, name)
                if place in kinds:
                    yield Difference(place, kinds[place], fd)


def _compare(fd: int, name: str, path: str, below: Lowers) -> ChangeKind | None:
    lower = below.find(path)
    if lower is None:
        return ChangeKind.ADD
    try:
        old, new = os.fstat(lower), trees.look(fd, name)
        if new is None:
            return ChangeKind.DELETE
        same = (old.st_mode, old.st_uid, old.st_gid) == (new.st_mode, new.st_uid, new.st_gid)
        if not stat.S_ISDIR(new.st_mode):
            same = same and (old.st_size, old.st_mtime_ns, old.st_rdev) == (
                new.st_size,
                new.st_mtime_ns,
                new.st_rdev,
            )
        if same and stat.S_ISLNK(new.st_mode):
            return (
                None if os.readlink("", dir_fd=lower) == os.readlink(name, dir_fd=fd) else ChangeKind.MODIFY
            )
        if same:
            same = trees.get_xattrs(f"/proc/self/fd/{lower}", follow=True) == trees.get_xattrs(
                trees.handle(fd, name)
            )
        return None if same else ChangeKind.MODIFY
    finally:
        os.close(lower)


def _list(parent: int, name: str) -> list[str]:
    with trees.below(parent, name) as fd:
        return os.listdir(fd)


def lacking(differences: Generator[Difference], paths: frozenset[str]) -> Generator[Difference]:
    """Without these paths, where they were added."""
    with closing(differences):
        for difference in differences:
            if difference.kind is not ChangeKind.ADD or difference.path not in paths:
                yield difference


def changes(differences: Iterable[Difference]) -> list[Change]:
    """The list for people."""
    found: list[Change] = []
    for difference in differences:
        path = f"/{difference.path}"
        found.append(Change(path, difference.kind))
        found += [Change(f"{path}/{name}", ChangeKind.DELETE) for name in difference.lost]
    return sorted(found, key=lambda change: [os.fsencode(part) for part in change.path.split("/")])


def archive(differences: Generator[Difference], doing: str, *, epoch: int | None = None) -> Generator[bytes]:
    """The layer, in chunks of some mebibytes. ``doing`` says in errors what was being read; times after ``epoch`` become it."""
    parts: list[bytes] = []
    size = 0
    with closing(_parts(differences, doing, epoch)) as found:
        for part in found:
            parts.append(part)
            size += len(part)
            if size >= _CHUNK:
                yield b"".join(parts) if len(parts) > 1 else part
                parts, size = [], 0
    yield b"".join(parts)


def _parts(differences: Generator[Difference], doing: str, epoch: int | None) -> Generator[bytes]:
    links: dict[int, str] = {}
    latest = None if epoch is None else epoch * 10**9
    with translated(doing):
        try:
            for difference in differences:
                if difference.kind is ChangeKind.DELETE:
                    yield writer.header(whiteouts.whiteout(difference.path))
                else:
                    yield from _member(difference, links, latest)
        finally:
            differences.close()
    yield writer.END


def _member(difference: Difference, links: dict[int, str], latest: int | None) -> Generator[bytes]:
    path, directory = difference.path, difference.directory
    name = path.rpartition("/")[2]
    if name.startswith(whiteouts.PREFIX):
        raise InexpressibleError(
            f"{path!r} cannot be part of a layer: names that begin with .wh. mean deletions",
            hint="rename or delete the file",
            subject=path,
        )
    if "\n" in name:
        raise InexpressibleError(
            f"{path!r} cannot be part of a layer: a newline in a name is refused where layers are read",
            hint="rename or delete the file",
            subject=path,
        )
    status = trees.look(directory, name)
    if status is None:
        return
    kind = _TYPES.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return  # sockets mean nothing without their process
    if kind is EntryType.FILE:
        yield from _file(directory, name, path, links, latest)
        return
    if kind is not EntryType.DIRECTORY and status.st_nlink > 1:
        if first := links.get(status.st_ino):
            yield writer.header(_entry(path, EntryType.HARDLINK, status, latest, linkname=first))
            return
        links[status.st_ino] = path
    yield writer.header(
        _entry(
            f"{path}/" if kind is EntryType.DIRECTORY else path,
            kind,
            status,
            latest,
            linkname=os.readlink(name, dir_fd=directory) if kind is EntryType.SYMLINK else "",
            xattrs=trees.get_xattrs(trees.handle(directory, name)),
        )
    )
    if difference.opaque:
        yield writer.header(whiteouts.opaque(path))


def _file(
    directory: int, name: str, path: str, links: dict[int, str], latest: int | None
) -> Generator[bytes]:
    try:
        fd = os.open(name, _READ, dir_fd=directory)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return  # no longer the file that it was
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return
        if status.st_nlink > 1:
            if first := links.get(status.st_ino):
                yield writer.header(_entry(path, EntryType.HARDLINK, status, latest, linkname=first))
                return
            links[status.st_ino] = path
        yield writer.header(
            _entry(
                path,
                EntryType.FILE,
                status,
                latest,
                size=status.st_size,
                xattrs=trees.get_xattrs(fd, follow=True),
            )
        )
        left = status.st_size
        while left:
            data = os.read(fd, min(left, _CHUNK)) or bytes(
                min(left, _CHUNK)
            )  # it shrank: what was promised follows
            left -= len(data)
            yield data
        yield writer.padding(status.st_size)
    finally:
        os.close(fd)


def _entry(
    path: str,
    kind: EntryType,
    status: os.stat_result,
    latest: int | None,
    *,
    linkname: str = "",
    size: int = 0,
    xattrs: dict[str, bytes] | None = None,
) -> Entry:
    mtime = status.st_mtime_ns if latest is None else min(status.st_mtime_ns, latest)
    return entry_of(path, kind, status, mtime=mtime, linkname=linkname, size=size, xattrs=xattrs)
