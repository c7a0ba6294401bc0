"""A tar stream into a container's tree: ``docker cp`` inwards.

Archive and container may both be hostile, and the container may run meanwhile. Parents are resolved by the kernel in the
container's root, so that no name and no link leads out of it; the last component is made anew or is never followed; owner, mode,
times and attributes go through descriptors.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from typing_extensions import Buffer

from lading.containers import filecaps, remapping
from lading.containers.tree import Tree, is_kernels
from lading.containers.tree_reader import moves
from lading.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    LadingError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from lading.formats.tar.entry import Data, Entry, EntryType
from lading.formats.tar.names import rooted
from lading.formats.tar.parser import TarParser
from lading.kit import fs, linux

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FIND: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_TIME_MAX: Final = 2**63 - 1
_SPECIAL: Final = {
    EntryType.CHAR: stat.S_IFCHR,
    EntryType.BLOCK: stat.S_IFBLK,
    EntryType.FIFO: stat.S_IFIFO,
}
_DIRECTORY_TIMES_MAX: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """How to unpack. ``owner`` (user, group) replaces that of every entry."""

    owner: tuple[int, int] | None = None
    keep_kind: bool = False
    """Refuse to replace a directory by something else, or something else by a directory."""


class TreeWriter:
    """Unpacks one archive into one directory of a tree. Blocking; one thread at a time. After an error only `close`."""

    def __init__(self, tree: Tree, path: str, options: CopyOptions) -> None:
        """Write below ``path``, an absolute path in the tree that is a directory.

        Raises:
            InvalidArgumentError: It is none, or is not the container's to have files in.

        """
        self._tree = tree
        self._base = path.strip("/")
        self._options = options
        self._parser = TarParser()
        self._file = -1
        self._entry: Entry | None = None
        self._cached: tuple[str, int] | None = None
        self._times: list[tuple[str, int]] = []
        self._makers: dict[EntryType, Callable[[int, str, Entry], None]] = {
            EntryType.FILE: self._make_file,
            EntryType.DIRECTORY: self._make_directory,
            EntryType.SYMLINK: self._make_symlink,
            EntryType.HARDLINK: self._make_hardlink,
            EntryType.CHAR: self._make_special,
            EntryType.BLOCK: self._make_special,
            EntryType.FIFO: self._make_special,
        }
        try:
            with remapping.acting(self._tree.ids):
                self._directory("")
        except OSError as exc:
            raise self._fault(exc) from exc

    def write(self, data: Buffer) -> None:
        """Take the next bytes.

        Raises:
            InvalidArgumentError: The archive is malformed, or does not fit what is there.
            PermissionDeniedError: What it wants to change is read-only.
            ResourceExhaustedError: The disk is full.

        """
        try:
            with remapping.acting(self._tree.ids):
                for event in self._parser.feed(memoryview(data).cast("B")):
                    if isinstance(event, Data):
                        self._take_data(event)
                    else:
                        self._take_entry(event)
        except OSError as exc:
            raise self._fault(exc) from exc

    def finish(self) -> None:
        """No more bytes: all is there. Raises as `write`."""
        self._parser.finish()
        try:
            for path, mtime in reversed(self._times):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    fd = self._tree.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                    try:
                        os.utime(fd, ns=(mtime, mtime))
                    finally:
                        os.close(fd)
        except OSError as exc:
            raise self._fault(exc) from exc

    def close(self) -> None:
        """Let go. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._cached is not None:
            os.close(self._cached[1])
            self._cached = None

    def _fault(self, exc: OSError) -> LadingError:
        name = self._entry.name if self._entry else f"/{self._base}"
        message = f"cannot copy {name!r} into the container: {exc.strerror}"
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            return ResourceExhaustedError(message, hint="free disk space", subject=name)
        if exc.errno == errno.EROFS:
            return PermissionDeniedError(message, hint="the mount that it lies on is read-only", subject=name)
        if exc.errno in (errno.EBUSY, errno.EPERM, errno.EACCES):
            return FailedPreconditionError(message, subject=name)
        return InvalidArgumentError(message, subject=name)

    # Where things go.

    def _directory(self, path: str) -> int:
        """The directory at a path of the archive, made if it is missing; valid until the next one is asked for."""
        if self._cached is not None and self._cached[0] == path:
            return self._cached[1]
        place = f"{self._base}/{path}".strip("/")
        flags = os.O_RDONLY | os.O_DIRECTORY
        try:
            fd = self._tree.open(place or "/", flags)
        except FileNotFoundError:
            if not path:
                raise
            self._tree.make_directory(f"/{place}")
            fd = self._tree.open(place, flags)
        if is_kernels(fd):
            os.close(fd)
            raise OSError(errno.EPERM, "these files are the kernel's")
        if self._cached is not None:
            os.close(self._cached[1])
        self._cached = path, fd
        return fd

    def _drop_cache(self) -> None:
        """A path may lead elsewhere from now on."""
        if self._cached is not None:
            os.close(self._cached[1])
            self._cached = None

    def _take_entry(self, entry: Entry) -> None:
        self._entry = entry
        path = rooted(entry.name)
        if (
            not path
        ):  # the directory itself, which is there; as with Docker what else has its name is passed over
            return
        above, _, name = path.rpartition("/")
        parent = self._directory(above)
        if self._make_room(parent, name, entry):
            parent = self._directory(above)
            self._makers[entry.type](parent, name, entry)

    def _make_room(self, parent: int, name: str, entry: Entry) -> bool:
        """Remove what the entry replaces; whether the entry is still to be made."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return True
        there, wanted = stat.S_ISDIR(status.st_mode), entry.type is EntryType.DIRECTORY
        if self._options.keep_kind and there != wanted:
            kinds = ("directory", "non-directory") if there else ("non-directory", "directory")
            raise InvalidArgumentError(
                f"cannot overwrite {kinds[0]} {name!r} with {kinds[1]}", subject=entry.name
            )
        if there and wanted:
            return True
        if there or stat.S_ISLNK(status.st_mode):
            self._drop_cache()  # paths through it lead elsewhere from now on
            parent = self._directory(rooted(entry.name).rpartition("/")[0])
        if there:
            _remove_tree(parent, name)
        elif _is_mount_point(parent, name):
            return self._write_in_place(parent, name, status, entry)
        else:
            os.unlink(name, dir_fd=parent)
        return True

    def _write_in_place(self, parent: int, name: str, status: os.stat_result, entry: Entry) -> bool:
        """A regular file that is mounted there, as /etc/hosts is, stays and gets new content; always ``False``."""
        if entry.type is not EntryType.FILE or not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EBUSY, "something is mounted there")
        found = os.open(name, _FIND, dir_fd=parent)
        try:
            if not stat.S_ISREG(os.fstat(found).st_mode) or is_kernels(found):
                raise OSError(errno.EBUSY, "something is mounted there")
            self._file = os.open(f"/proc/self/fd/{found}", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        finally:
            os.close(found)
        if not entry.size:
            self._end_file(entry)
        return False

    # Kinds.

    def _owner(self, entry: Entry) -> tuple[int, int]:
        return self._tree.ids.outside(*(self._options.owner or (entry.uid, entry.gid)))

    def _make_file(self, parent: int, name: str, entry: Entry) -> None:
        self._file = os.open(name, _CREATE, 0o600, dir_fd=parent)
        if entry.sparse is not None:
            os.ftruncate(self._file, entry.real_size)
        if not entry.size:
            self._end_file(entry)

    def _take_data(self, data: Data) -> None:
        assert self._entry is not None
        if self._file < 0:
            return  # of an entry that was passed over
        if self._entry.sparse is None:
            fs.write_all(self._file, data.view)
        else:
            view, offset = data.view, data.offset
            while view:
                written = os.pwrite(self._file, view, offset)
                view, offset = view[written:], offset + written
        if data.last:
            self._end_file(self._entry)

    def _end_file(self, entry: Entry) -> None:
        fd, self._file = self._file, -1
        try:
            self._dress(fd, entry)
        finally:
            os.close(fd)

    def _make_directory(self, parent: int, name: str, entry: Entry) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if is_kernels(fd):
                return
            self._dress(fd, entry)
        finally:
            os.close(fd)
        if len(self._times) < _DIRECTORY_TIMES_MAX:
            self._times.append((f"{self._base}/{rooted(entry.name)}", _time(entry)))

    def _make_symlink(self, parent: int, name: str, entry: Entry) -> None:
        os.symlink(entry.linkname, name, dir_fd=parent)
        os.chown(name, *self._owner(entry), dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(_time(entry), _time(entry)), dir_fd=parent, follow_symlinks=False)

    def _make_hardlink(self, parent: int, name: str, entry: Entry) -> None:
        above, _, target = rooted(entry.linkname).rpartition("/")
        here = os.dup(parent)
        try:
            there = self._directory(above)
            os.link(target, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(here)

    def _make_special(self, parent: int, name: str, entry: Entry) -> None:
        device = os.makedev(entry.devmajor, entry.devminor)
        if entry.type is EntryType.CHAR and not device:
            raise InvalidArgumentError(f"{entry.name!r} is a device that overlayfs reads as a deletion")
        os.mknod(name, _SPECIAL[entry.type] | 0o600, device, dir_fd=parent)
        fd = os.open(name, _FIND, dir_fd=parent)
        try:
            self._dress_unopened(fd, entry)
        finally:
            os.close(fd)

    def _counting(self, name: str, value: bytes) -> bytes:
        """An attribute as it means in the container what it says in the archive."""
        ids = self._tree.ids
        return filecaps.bound(value, ids.root[0]) if name == filecaps.XATTR and not ids.is_identity else value

    def _dress(self, fd: int, entry: Entry) -> None:
        """Owner, attributes, mode and time, in the order that loses none of them."""
        os.fchown(fd, *self._owner(entry))
        for name, value in entry.xattrs.items():
            if moves(name):
                try:
                    os.setxattr(fd, name, self._counting(name, value))
                except OSError as exc:
                    if exc.errno not in (errno.ENOTSUP, errno.EPERM):
                        raise
        os.fchmod(fd, entry.mode)
        os.utime(fd, ns=(_time(entry), _time(entry)))

    def _dress_unopened(self, fd: int, entry: Entry) -> None:
        place = f"/proc/self/fd/{fd}"  # of an O_PATH descriptor: leads to the file itself
        os.chown(place, *self._owner(entry))
        os.chmod(place, entry.mode)
        os.utime(place, ns=(_time(entry), _time(entry)))


def _is_mount_point(parent: int, name: str) -> bool:
    """Whether something is mounted there. unlink(2) would not say so: the mount is in another namespace, and would go too."""
    try:
        os.close(linux.openat2(parent, name, _FIND, linux.RESOLVE_NO_XDEV | linux.RESOLVE_NO_SYMLINKS))
    except OSError as exc:
        if exc.errno == errno.EXDEV:
            return True
        if exc.errno != errno.ELOOP:
            raise
    return False


def _remove_tree(parent: int, name: str) -> None:
    """Delete a directory and all in it, provided that nothing is mounted anywhere in it. Raises `OSError`."""
    rules = linux.RESOLVE_NO_XDEV | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS
    found, pending = [name], [name]
    while pending:
        path = pending.pop()
        try:
            fd = linux.openat2(parent, path, os.O_RDONLY | os.O_DIRECTORY, rules)
        except OSError as exc:
            if exc.errno == errno.EXDEV:
                raise OSError(errno.EBUSY, "something is mounted in it") from exc
            raise
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{path}/{entry.name}")
                        found.append(f"{path}/{entry.name}")
                    elif _is_mount_point(fd, entry.name):
                        raise OSError(errno.EBUSY, "something is mounted in it")
        finally:
            os.close(fd)
    for path in sorted(found, key=lambda each: each.count("/"), reverse=True):
        fd = linux.openat2(parent, path, os.O_RDONLY | os.O_DIRECTORY, rules)
        try:
            for each in os.listdir(fd):
                os.unlink(each, dir_fd=fd)
        finally:
            os.close(fd)
        above, _, last = path.rpartition("/")
        fd = linux.openat2(parent, above or ".", os.O_RDONLY | os.O_DIRECTORY, rules)
        try:
            os.rmdir(last, dir_fd=fd)
        finally:
            os.close(fd)


def _time(entry: Entry) -> int:
    return entry.mtime if 0 <= entry.mtime <= _TIME_MAX else 0
