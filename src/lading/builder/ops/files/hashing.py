"""Content digests of parts of a tree, as BuildKit computes them (``cache/contenthash``), so that a cache can be shared with it.

A file's digest is over tarsum's header of it (mode, owner, size, type, link, device, attributes; no name, no time) and its
content; a directory's over its own header and the names and digests of what is in it.
"""

import errno
import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final

from lading.builder.ops.files import paths
from lading.errors import NotFoundError
from lading.formats.dockerfile.patterns import Matcher, has_wildcard, match
from lading.oci.digest import Digest

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME
_FLAGS: Final = {
    stat.S_IFDIR: "5",
    stat.S_IFLNK: "2",
    stat.S_IFCHR: "3",
    stat.S_IFBLK: "4",
    stat.S_IFIFO: "6",
}
_WINDOW: Final = 1 << 20

Memory = MutableMapping[str, tuple[int, int, int, str]]
"""Digests of a directory's files as computed before: by path, with inode, change time and size that they had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A part of a tree."""

    path: str = "/"
    wildcard: bool = False
    follow: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it is one path and all below it."""
        return not (self.wildcard or self.include or self.exclude)


def digest(root: int, selectors: Sequence[Selector], memory: Memory | None = None) -> Digest:
    """The digest of several parts together. Blocking. Raises `NotFoundError` for a path that is not there."""
    hasher = _Hasher(root, memory)
    found = [hasher.part(selector) for selector in selectors or [Selector()]]
    return Digest.of("\0".join(found).encode())


def digest_of_nothing(selectors: Sequence[Selector]) -> Digest:
    """The digest of parts of an empty tree."""
    for selector in selectors:
        if paths.parts_of(selector.path):
            raise _missing(selector.path)
    return Digest.of("\0".join(Digest.of(b"") for _ in selectors or [0]).encode())


def _missing(path: str) -> NotFoundError:
    return NotFoundError(
        f'failed to calculate checksum of ref: "/{paths.clean(path)}": not found', subject=path
    )


class _Hasher:
    def __init__(self, root: int, memory: Memory | None) -> None:
        self._root = root
        self._memory = memory

    def part(self, selector: Selector) -> str:
        if selector.plain:
            return self._plain(selector.path, follow=selector.follow)
        return self._selected(selector)

    def _plain(self, path: str, *, follow: bool) -> str:
        flags = os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW
        try:
            with paths.opened(self._root, path, flags) as fd:
                status = os.fstat(fd)
                if stat.S_ISDIR(status.st_mode):
                    directory = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    try:
                        return self._directory(directory, status, paths.clean(path))
                    finally:
                        os.close(directory)
                where = os.readlink(f"/proc/self/fd/{fd}")
                base = os.readlink(f"/proc/self/fd/{self._root}")
            with paths.parent_of(self._root, os.path.relpath(where, base)) as (parent, name):
                return self._file(parent, name, status, paths.clean(path))
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise _missing(path) from exc
            raise

    def _directory(self, fd: int, status: os.stat_result, path: str) -> str:
        hasher = hashlib.sha256(usedforsecurity=False)
        hasher.update(b"\0")
        hasher.update(self._header(f"/proc/self/fd/{fd}/.", status).encode())
        with os.scandir(fd) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        for entry in entries:
            hasher.update(b"\0" + os.fsencode(entry.name))
            hasher.update(self._entry(fd, entry, f"{path}/{entry.name}" if path else entry.name).encode())
        return f"sha256:{hasher.hexdigest()}"

    def _entry(self, parent: int, entry: "os.DirEntry[str]", path: str) -> str:
        if not entry.is_dir(follow_symlinks=False):
            return self._file(parent, entry.name, entry.stat(follow_symlinks=False), path)
        fd = os.open(entry.name, _DIRECTORY, dir_fd=parent)
        try:
            return self._directory(fd, os.fstat(fd), path)
        finally:
            os.close(fd)

    def _file(self, parent: int, name: str, status: os.stat_result, path: str) -> str:
        if self._memory is not None:
            known = self._memory.get(path)
            seen = (status.st_ino, status.st_ctime_ns, status.st_size)
            if known is not None and known[:3] == seen:
                return known[3]
        found = self._file_anew(parent, name, status)
        if self._memory is not None:
            self._memory[path] = (status.st_ino, status.st_ctime_ns, status.st_size, found)
        return found

    def _file_anew(self, parent: int, name: str, status: os.stat_result) -> str:
        if not stat.S_ISREG(status.st_mode):
            link = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(status.st_mode) else ""
            return self._header(f"/proc/self/fd/{parent}/{name}", status, link)
        fd = os.open(name, _READ, dir_fd=parent)
        try:
            hasher = hashlib.sha256(_tarsum(status, "", _attributes(fd)), usedforsecurity=False)
            while data := os.read(fd, _WINDOW):
                hasher.update(data)
                if len(data) < _WINDOW:
                    break
            return f"sha256:{hasher.hexdigest()}"
        finally:
            os.close(fd)

    def _header(self, place: str, status: os.stat_result, link: str = "") -> str:
        data = _tarsum(status, link, _attributes(place))
        return f"sha256:{hashlib.sha256(data, usedforsecurity=False).hexdigest()}"

    # Parts that leave something out: a list of files, by the rules of BuildKit's `includedPaths`.

    def _selected(self, selector: Selector) -> str:
        wanted = paths.clean(selector.path)
        include = Matcher(selector.include) if selector.include else None
        exclude = Matcher(selector.exclude) if selector.exclude else None
        fixed = _fixed(wanted) if selector.wildcard else wanted
        found: list[tuple[str, str]] = []
        above: list[tuple[str, str, bool]] = []
        matched = ""
        for path, parent, name, status in self._below(fixed):
            while above and not path.startswith(f"{above[-1][0]}/") and above[-1][0]:
                above.pop()
            if selector.wildcard:
                if not (matched and path.startswith(f"{matched}/")):
                    if not match(wanted, path):
                        continue
                    matched = path
                relative = path[len(matched) :].lstrip("/")
            else:
                relative = path[len(wanted) :].lstrip("/")
            admitted = (include is None or (bool(relative) and include.matches(relative))) and not (
                exclude is not None and relative and exclude.matches(relative)
            )
            if stat.S_ISDIR(status.st_mode):
                header = self._header(
                    f"/proc/self/fd/{parent}/{name}" if name else f"/proc/self/fd/{parent}/.", status
                )
                if admitted:
                    _admit(above, found)
                    found.append((path, header))
                above.append((path, header, admitted))
            elif admitted:
                followed = selector.follow and not above and stat.S_ISLNK(status.st_mode)
                _admit(above, found)
                hashed = (
                    self._plain(path, follow=True) if followed else self._file(parent, name, status, path)
                )
                found.append((path, hashed))
        return _listed(wanted, fixed, found)

    def _below(self, top: str) -> Iterator[tuple[str, int, str, os.stat_result]]:
        """What is at and below a path, in order: path, parent's descriptor, name there, status."""
        flags = os.O_RDONLY | os.O_DIRECTORY
        try:
            with paths.opened(self._root, top, flags) as fd:
                if top:
                    yield top, fd, "", os.fstat(fd)
                yield from self._walk(fd, top)
        except NotADirectoryError:
            with paths.parent_of(self._root, top) as (parent, name):
                yield top, parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return

    def _walk(self, fd: int, above: str) -> Iterator[tuple[str, int, str, os.stat_result]]:
        with os.scandir(fd) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        for entry in entries:
            path = f"{above}/{entry.name}" if above else entry.name
            yield path, fd, entry.name, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                below = os.open(entry.name, _DIRECTORY, dir_fd=fd)
                try:
                    yield from self._walk(below, path)
                finally:
                    os.close(below)


def _fixed(pattern: str) -> str:
    """The part of a pattern before its first wildcard."""
    parts = pattern.split("/")
    count = next((number for number, part in enumerate(parts) if has_wildcard(part)), len(parts))
    return "/".join(parts[:count])


def _admit(above: list[tuple[str, str, bool]], found: list[tuple[str, str]]) -> None:
    for number, (path, header, admitted) in enumerate(above):
        if not admitted:
            found.append((path, header))
            above[number] = (path, header, True)


def _listed(wanted: str, prefix: str, found: Sequence[tuple[str, str]]) -> str:
    if not found:
        return Digest.of(b"")
    if len(found) == 1 and posixpath.basename(wanted) == posixpath.basename(found[0][0]):
        return found[0][1]
    hasher = hashlib.sha256(usedforsecurity=False)
    for path, one in found:
        relative = f"/{path}".removeprefix(f"/{prefix}") if prefix else f"/{path}"
        key = "/" + relative.strip("/") if relative.strip("/") else "\0"
        hasher.update(os.fsencode(key.replace("/", "\0")))
        hasher.update(one.encode())
    return f"sha256:{hasher.hexdigest()}"


def _attributes(place: int | str) -> list[tuple[str, bytes]]:
    try:
        names = os.listxattr(place, follow_symlinks=isinstance(place, int))
    except OSError as exc:
        if exc.errno in (errno.ENOTSUP, errno.EPERM, errno.ENOENT):
            return []
        raise
    return [
        (name, os.getxattr(place, name, follow_symlinks=isinstance(place, int)))
        for name in sorted(names)
        if name == "security.capability" or not name.startswith(("security.", "system."))
    ]


def _tarsum(status: os.stat_result, link: str, attributes: Sequence[tuple[str, bytes]]) -> bytes:
    kind = stat.S_IFMT(status.st_mode)
    mode = stat.S_IMODE(status.st_mode) | (0o777 if kind == stat.S_IFLNK else 0)
    size = status.st_size if kind in (stat.S_IFREG, stat.S_IFSOCK) else 0
    device = status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    text = (
        f"namemode{mode}uid{status.st_uid}gid{status.st_gid}size{size}typeflag{_FLAGS.get(kind, '0')}"
        f"linkname{link}unamegnamedevmajor{os.major(device)}devminor{os.minor(device)}"
    )
    return os.fsencode(text) + b"".join(name.encode() + value for name, value in attributes)
