"""Directories of a layer that are being filled: found or implied, private meanwhile, and given what is due to them at the end.

A directory stays private (0700, ours) while it is filled: what a set-group-ID bit or a default ACL would hand down is not handed
down, and its times are not touched again. `OpenDirectory` keeps what is due to it; that is paid when it leaves a small cache.
Memory is bounded by that cache, however many entries there are.
"""

import os
import stat
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from lading.formats.tar.entry import TarError, TarLimitError
from lading.kit import linux
from lading.snapshots import acl, trees

MARKS_MAX: Final = 250_000
"""Implied directories, and shadowed whiteouts, that one layer may have: they are kept in memory until the end."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_IN_ROOT: Final = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
_OPEN_MAX: Final = 64
_LINKS_MAX: Final = 40
"""Symbolic links in one path, as path_resolution(7) bounds them."""


@dataclass(slots=True)
class Tally:
    """What a layer's tree holds so far; the root is one inode."""

    blocks: int = 0
    """Of 512 bytes."""
    inodes: int = 1
    whiteouts: int = 0
    """Whiteouts and opaque directories."""
    dropped: int = 0
    """Extended attributes and device nodes that were left out."""

    def remove(self, status: os.stat_result) -> None:
        """A name of this is gone; it counts until the last one is."""
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            return
        self.inodes -= 1
        self.blocks -= status.st_blocks


class OpenDirectory:
    """A directory that is open, and what it gets when it is closed."""

    __slots__ = ("acl", "blocks", "fd", "gid", "ino", "mode", "mtime", "names")

    def __init__(self, fd: int, ino: int, gid: int, blocks: int) -> None:
        self.fd = fd
        self.ino = ino
        self.gid = gid
        self.blocks = blocks
        self.mode: int | None = None
        self.mtime: int | None = None
        self.acl = False
        self.names: list[str] = []


class OpenDirectories:
    """The directories below ``root`` that are open, and the root. Blocking.

    Args:
        root: Where the layer is being extracted.
        tally: Counts what is made here.
        lowest: Nothing is below, so that to be opaque means nothing.
        opaque_xattr: Overlayfs's attribute of an opaque directory.

    """

    def __init__(
        self, root: str | os.PathLike[str], tally: Tally, *, lowest: bool, opaque_xattr: str
    ) -> None:
        self._tally = tally
        self._lowest = lowest
        self._opaque_xattr = opaque_xattr
        self.owner = (os.geteuid(), os.getegid())
        """Of what is made."""
        self.opaque_root = False
        """The layer hides everything below it, which overlayfs cannot say of a root."""
        self.implied: dict[int, str] = {}
        """Directories that no entry describes: inode numbers to paths without links."""
        self.by_path: dict[str, OpenDirectory] = {}
        """Those that are open, but for the root, by the paths of the archive that led to them."""
        self._open: OrderedDict[int, OpenDirectory] = OrderedDict()
        fd = os.open(root, _DIRECTORY | os.O_NOFOLLOW)
        status = os.fstat(fd)
        self.root = OpenDirectory(fd, status.st_ino, status.st_gid, 0)

    def finish(self) -> None:
        """All that is due is paid, to the root too."""
        self.settle()
        os.fchmod(self.root.fd, 0o755)  # T13
        self._tally.blocks += os.fstat(self.root.fd).st_blocks

    def close(self) -> None:
        """Let go of all descriptors. Idempotent."""
        for directory in self._open.values():
            os.close(directory.fd)
        self._open.clear()
        self.by_path.clear()
        if self.root.fd >= 0:
            os.close(self.root.fd)
            self.root.fd = -1

    def find(self, path: str, *, make: bool = True) -> OpenDirectory:
        """The directory at a path of the archive, links resolved in the root, made if it is only implied; "" is the root.

        Raises:
            FileNotFoundError, NotADirectoryError: There is none, and it is not to be made.
            TarError: It cannot be made: a file or too many links are on the way.
            TarLimitError: Too many are implied.

        """
        if not path:
            return self.root
        found = self.by_path.get(path)
        if found is not None:
            self._open.move_to_end(found.ino)
            return found
        try:
            fd = linux.openat2(self.root.fd, path, _DIRECTORY, _IN_ROOT)
        except (FileNotFoundError, NotADirectoryError):
            if not make:
                raise
            return self._imply(path)
        found = self.enter(fd)
        self.name(found, path)
        return found

    def name(self, directory: OpenDirectory, path: str) -> None:
        """A path of the archive leads to a directory."""
        if directory is not self.root:
            if len(directory.names) >= 16:  # many links to one directory
                for name in directory.names:
                    self.by_path.pop(name, None)
                directory.names.clear()
            directory.names.append(path)
            self.by_path[path] = directory

    def enter(self, fd: int, *, fresh: bool = False) -> OpenDirectory:
        """Take a directory into the cache, which then owns ``fd``. ``fresh``: it was made just now."""
        status = os.fstat(fd)
        ino = status.st_ino
        if ino == self.root.ino:
            os.close(fd)
            return self.root
        found = self._open.get(ino)
        if found is not None:
            os.close(fd)
            self._open.move_to_end(ino)
            return found
        directory = OpenDirectory(fd, ino, status.st_gid, 0 if fresh else status.st_blocks)
        self._open[ino] = directory
        if not fresh:
            # It was closed before and is filled further: as private as it was, and the same afterwards.
            directory.mode, directory.mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns
            directory.acl = acl.DEFAULT in os.listxattr(fd)
            os.fchmod(fd, 0o700)
        if len(self._open) > _OPEN_MAX:
            _, oldest = self._open.popitem(last=False)
            self._leave(oldest)
        return directory

    def _leave(self, directory: OpenDirectory) -> None:
        for name in directory.names:
            self.by_path.pop(name, None)
        try:
            os.fchmod(directory.fd, 0o755 if directory.mode is None else directory.mode)
            if directory.mtime is not None:
                os.utime(directory.fd, ns=(directory.mtime, directory.mtime))
            self._tally.blocks += os.fstat(directory.fd).st_blocks - directory.blocks
        finally:
            os.close(directory.fd)

    def settle(self) -> None:
        """Pay what is due to all but the root, and close them."""
        while self._open:
            _, directory = self._open.popitem()
            self._leave(directory)

    def set_opaque(self, directory: OpenDirectory) -> None:
        """A directory hides what the layers below have in it."""
        if self._lowest:
            return
        if directory is self.root:  # by a link, perhaps
            self.opaque_root = True
            return
        os.setxattr(directory.fd, self._opaque_xattr, b"y")
        self._tally.whiteouts += 1

    def _imply(self, path: str) -> OpenDirectory:
        """Make the missing directories of a path. Links on the way may point to what does not exist yet."""
        pending = path.split("/")[::-1]
        done: list[str] = []
        links = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del done[-1:]
                continue
            directory = self.find("/".join(done))
            try:
                status = os.stat(part, dir_fd=directory.fd, follow_symlinks=False)
            except FileNotFoundError:
                self._imply_one(directory, "/".join([*done, part]), part, opaque=False)
                done.append(part)
                continue
            if stat.S_ISDIR(status.st_mode):
                done.append(part)
            elif stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _LINKS_MAX:
                    raise TarError(f"too many symbolic links on the way to {path!r}")
                target = os.readlink(part, dir_fd=directory.fd)
                if target.startswith("/"):
                    done.clear()
                pending += target.split("/")[::-1]
            elif trees.is_whiteout(status):
                self._tally.remove(status)
                os.unlink(part, dir_fd=directory.fd)
                self._tally.whiteouts -= 1
                self._imply_one(directory, "/".join([*done, part]), part, opaque=True)
                done.append(part)
            else:
                raise TarError(f"{path!r} lies below a file of the same layer")
        found = self.find("/".join(done))
        self.name(found, path)
        return found

    def _imply_one(self, directory: OpenDirectory, path: str, base: str, *, opaque: bool) -> None:
        os.mkdir(base, 0o700, dir_fd=directory.fd)
        self._tally.inodes += 1
        made = self.enter(os.open(base, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory.fd), fresh=True)
        self.name(made, path)
        if directory.acl:
            acl.strip(made.fd)
        if directory.gid != self.owner[1]:
            os.fchown(made.fd, *self.owner)
            made.gid = self.owner[1]
        if opaque:
            self.set_opaque(made)
            return
        self.implied[made.ino] = path
        if len(self.implied) > MARKS_MAX:
            raise TarLimitError(
                f"the layer implies more than {MARKS_MAX} directories without describing them"
            )
