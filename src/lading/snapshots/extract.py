"""The extractor: a layer's tar stream becomes a directory in overlayfs's on-disk form. Layers are hostile.

**Where things land.** A parent is found by openat2(2) with ``RESOLVE_IN_ROOT``, so that links lead nowhere but into the
layer; the last component is made with ``O_EXCL`` or its like and never followed; owner, mode, times and attributes go
through descriptors or calls that do not follow. The tree that is being made is reachable for nobody else (0700).

**Directories** that are being filled are those of `lading.snapshots.open_directories`.

**Below.** A layer is unpacked without looking at those below it, so layers can be unpacked at once. Whiteouts become 0:0
character devices and ``overlay.opaque`` attributes, which concern the layers below only, wherever in the archive they
stand. Directories that the archive merely implies are reported, for `lading.snapshots.layers` to give them the attributes
that they have below. A hard link to a file that only a layer below has is refused, as containerd and Docker refuse it.

Rows T1 to T26 are those of docs/reference/hostile-input.md.
"""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from typing_extensions import Buffer

from lading.core.snapshots import Usage
from lading.errors import LadingError
from lading.formats import whiteouts
from lading.formats.tar.entry import (
    DEFAULT_LIMITS,
    Data,
    Entry,
    EntryType,
    Limits,
    TarError,
    TarLimitError,
)
from lading.formats.tar.names import rooted
from lading.formats.tar.parser import TarParser
from lading.snapshots import acl, open_directories, owners, trees
from lading.snapshots.faults import translate
from lading.snapshots.open_directories import OpenDirectories, OpenDirectory, Tally

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TIME_MAX: Final = 2**63 - 1
_UNSETTABLE: Final = {errno.ENOTSUP, errno.EPERM}
_MINIMUM_BUDGET: Final = 1 << 30
_INFLATION: Final = 200
_SPECIAL: Final = {
    EntryType.CHAR: stat.S_IFCHR,
    EntryType.BLOCK: stat.S_IFBLK,
    EntryType.FIFO: stat.S_IFIFO,
}


class LayerBombError(TarLimitError):
    """A layer inflates to more than its compressed size can honestly hold, or than a layer may."""

    code = "layer-bomb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """What came of a layer."""

    usage: Usage
    implied: tuple[str, ...]
    """Directories that no entry describes, as paths without links; the root is not among them."""
    opaque_root: bool
    """The layer hides everything below it, which overlayfs cannot say of a root."""
    whiteouts: int
    """Whiteouts and opaque directories in the tree."""
    dropped: int
    """Extended attributes and device nodes that were left out."""

    @property
    def inheriting(self) -> tuple[str, ...]:
        """The implied directories that may have something below."""
        return () if self.opaque_root else self.implied


def budget(compressed_size: int, quota: int) -> int:
    """Bytes that a layer may inflate to (T15); ``compressed_size`` is 0 if unknown."""
    return min(quota, max(_MINIMUM_BUDGET, _INFLATION * compressed_size)) if compressed_size else quota


class Extractor:
    """Extracts one layer. Blocking; used by one thread at a time. After an error, or `finish`, only `close`."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        budget: int,
        lowest: bool = False,
        overlay_xattrs: str = "trusted.overlay.",
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """Extract into the empty directory ``root``.

        Args:
            root: A directory that only we can reach.
            budget: Bytes of stream, and of files with their holes, that are allowed.
            lowest: Nothing is below, so that whiteouts mean nothing.
            overlay_xattrs: Prefix of overlayfs's attributes; ``user.overlay.`` with its option ``userxattr``.
            limits: Bounds on names and numbers.

        """
        self._parser = TarParser(limits=limits)
        self._budget = budget
        self._lowest = lowest
        self._tally = Tally()
        self._directories = OpenDirectories(
            root, self._tally, lowest=lowest, opaque_xattr=f"{overlay_xattrs}opaque"
        )
        self._owner = self._directories.owner
        self._stream_left = self._logical_left = budget
        self._hidden: dict[int, set[str]] = {}
        self._hidden_left = open_directories.MARKS_MAX
        self._file = -1
        self._entry: Entry | None = None
        self._directory: OpenDirectory | None = None
        self._makers: dict[EntryType, Callable[[OpenDirectory, str, str, Entry], None]] = {
            EntryType.FILE: self._make_file,
            EntryType.DIRECTORY: self._make_directory,
            EntryType.SYMLINK: self._make_symlink,
            EntryType.HARDLINK: self._make_hardlink,
            EntryType.CHAR: self._make_special,
            EntryType.BLOCK: self._make_special,
            EntryType.FIFO: self._make_special,
        }

    def write(self, data: Buffer) -> None:
        """Take the next bytes of the stream.

        Raises:
            InvalidArgumentError: The layer is malformed or hostile.
            ResourceExhaustedError: A limit is exceeded or the disk is full.

        """
        view = memoryview(data).cast("B")
        self._stream_left -= len(view)
        if self._stream_left < 0:
            raise self._bomb()
        try:
            for event in self._parser.feed(view):
                if type(event) is Data:
                    self._take_data(event)
                else:
                    self._take_entry(event)  # pyright: ignore[reportArgumentType] # an event is one or the other
        except OSError as exc:
            raise self._fault(exc) from exc

    def finish(self) -> Extracted:
        """The stream is over; all that is due is paid. Raises as `write`."""
        self._parser.finish()
        try:
            self._directories.finish()
        except OSError as exc:
            raise self._fault(exc) from exc
        return Extracted(
            usage=Usage(size=self._tally.blocks * 512, inodes=self._tally.inodes),
            implied=tuple(sorted(self._directories.implied.values())),
            opaque_root=self._directories.opaque_root,
            whiteouts=self._tally.whiteouts,
            dropped=self._tally.dropped,
        )

    def close(self) -> None:
        """Let go of all descriptors. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._directories.close()

    def _bomb(self) -> LadingError:
        return LayerBombError(
            f"the layer holds more than {self._budget} bytes",
            hint="it inflates more than an honest layer does, or exceeds the limit for one layer",
        )

    def _fault(self, exc: OSError) -> LadingError:
        name = self._entry.name if self._entry else "the layer"
        if self._entry is not None and exc.errno == errno.EINVAL:
            owners.check(self._entry.uid, self._entry.gid, f"cannot extract {name!r}")
        return translate(exc, f"cannot extract {name!r}", hostile=True)

    # Entries.

    def _take_entry(self, entry: Entry) -> None:
        self._entry = entry
        path = rooted(entry.name)
        if not path:
            return  # T13
        mark = whiteouts.classify(path)
        if mark is not None:
            self._take_mark(mark)
            return
        parent, _, base = path.rpartition("/")
        directory = self._directories.by_path.get(parent) if parent else self._directories.root
        if directory is None:
            directory = self._directories.find(parent)
        self._makers[entry.type](directory, parent, base, entry)

    def _make_file(self, directory: OpenDirectory, parent: str, base: str, entry: Entry) -> None:
        try:
            fd = os.open(base, _CREATE, 0o600, dir_fd=directory.fd)
        except FileExistsError:
            directory = self._replace(parent, base)
            fd = os.open(base, _CREATE, 0o600, dir_fd=directory.fd)
        self._file = fd
        self._directory = directory
        self._tally.inodes += 1
        if entry.sparse is not None:
            self._logical_left -= entry.real_size
            if self._logical_left < 0:
                raise self._bomb()
            os.ftruncate(fd, entry.real_size)
        if not entry.size:
            self._end_file(entry)

    def _take_data(self, data: Data) -> None:
        fd = self._file
        if fd < 0:
            return  # the content of a whiteout
        entry = self._entry
        assert entry is not None
        view = data.view
        if entry.sparse is None:
            written = os.write(fd, view)
            while written < len(view):
                written += os.write(fd, view[written:])
        else:
            written = 0
            while written < len(view):
                written += os.pwrite(fd, view[written:], data.offset + written)
        if data.last:
            self._end_file(entry)

    def _end_file(self, entry: Entry) -> None:
        fd, directory = self._file, self._directory
        assert directory is not None
        # The order matters: chown(2) and write(2) clear set-ID bits and capabilities.
        if directory.acl:
            acl.strip(fd)
        if (entry.uid, entry.gid) != self._owner or directory.gid != self._owner[1]:
            os.fchown(fd, entry.uid, entry.gid)
        if entry.xattrs:
            self._set_xattrs(fd, entry)
        if entry.mode != 0o600 or entry.xattrs or directory.acl:
            os.fchmod(fd, entry.mode)
        time = entry.mtime if 0 <= entry.mtime <= _TIME_MAX else 0
        os.utime(fd, ns=(time, time))
        if entry.size:
            self._tally.blocks += os.fstat(fd).st_blocks
        self._file = -1
        os.close(fd)

    def _make_directory(self, directory: OpenDirectory, parent: str, base: str, entry: Entry) -> None:
        opaque = False
        fresh = True
        try:
            os.mkdir(base, 0o700, dir_fd=directory.fd)
            self._tally.inodes += 1
        except FileExistsError:
            status = os.stat(base, dir_fd=directory.fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                fresh = False
            else:
                directory = self._replace(parent, base)
                opaque = base in self._hidden.get(directory.ino, ())
                os.mkdir(base, 0o700, dir_fd=directory.fd)
                self._tally.inodes += 1
        made = self._directories.enter(
            os.open(base, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory.fd), fresh=fresh
        )
        self._directories.name(made, trees.join(parent, base))
        self._directories.implied.pop(made.ino, None)
        if opaque:
            self._directories.set_opaque(made)
        if directory.acl:
            acl.strip(made.fd)
        if (entry.uid, entry.gid) != self._owner or self._owner[1] != made.gid or made.mode is not None:
            os.fchown(made.fd, entry.uid, entry.gid)
            made.gid = entry.gid
        if entry.xattrs:
            self._set_xattrs(made.fd, entry)
            made.acl = made.acl or acl.DEFAULT in entry.xattrs
        made.mode = entry.mode
        made.mtime = entry.mtime if 0 <= entry.mtime <= _TIME_MAX else 0

    def _make_symlink(self, directory: OpenDirectory, parent: str, base: str, entry: Entry) -> None:
        try:
            os.symlink(entry.linkname, base, dir_fd=directory.fd)
        except FileExistsError:
            directory = self._replace(parent, base)
            os.symlink(entry.linkname, base, dir_fd=directory.fd)
        self._tally.inodes += 1
        if len(entry.linkname) > 59:  # shorter ones live in the inode on every file system that we know
            self._tally.blocks += os.stat(base, dir_fd=directory.fd, follow_symlinks=False).st_blocks
        if entry.xattrs or (entry.uid, entry.gid) != self._owner or directory.gid != self._owner[1]:
            self._describe(directory, base, entry, link=True)
        else:
            time = entry.mtime if 0 <= entry.mtime <= _TIME_MAX else 0
            os.utime(base, ns=(time, time), dir_fd=directory.fd, follow_symlinks=False)

    def _make_hardlink(self, directory: OpenDirectory, parent: str, base: str, entry: Entry) -> None:
        above, _, name = rooted(entry.linkname).rpartition("/")
        # In this order: the parent may evict many from the cache, the target's directory at most one, and not the parent.
        directory = self._directories.find(parent)
        try:
            source = self._directories.find(above, make=False)
            status = os.stat(name, dir_fd=source.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise TarError(
                f"hard link {entry.name!r} points to {entry.linkname!r}, which is not in the layer so far"
            ) from exc
        if stat.S_ISDIR(status.st_mode) or trees.is_whiteout(status):
            raise TarError(f"hard link {entry.name!r} points to {entry.linkname!r}, which is no file")
        try:
            os.link(name, base, src_dir_fd=source.fd, dst_dir_fd=directory.fd, follow_symlinks=False)
        except FileExistsError:
            present = os.stat(base, dir_fd=directory.fd, follow_symlinks=False)
            if present.st_ino == status.st_ino:
                return
            directory = self._replace(parent, base)
            source = self._directories.find(above, make=False)
            os.link(name, base, src_dir_fd=source.fd, dst_dir_fd=directory.fd, follow_symlinks=False)
        link = stat.S_ISLNK(status.st_mode)
        mode = entry.mode if link else stat.S_IMODE(status.st_mode)
        found = (mode, status.st_uid, status.st_gid, status.st_mtime_ns)
        if found != (entry.mode, entry.uid, entry.gid, entry.mtime) or entry.xattrs:
            owned = found[1:3] == (entry.uid, entry.gid)
            self._describe(directory, base, entry, link=link, owned=owned)

    def _make_special(self, directory: OpenDirectory, parent: str, base: str, entry: Entry) -> None:
        device = os.makedev(entry.devmajor, entry.devminor)
        if entry.type is EntryType.CHAR and not device:
            self._hide(directory, base)  # T8
            return
        mode = _SPECIAL[entry.type] | 0o600
        try:
            os.mknod(base, mode, device, dir_fd=directory.fd)
        except FileExistsError:
            directory = self._replace(parent, base)
            os.mknod(base, mode, device, dir_fd=directory.fd)
        except PermissionError:
            self._tally.dropped += 1  # T7: an unprivileged store has no devices
            return
        self._tally.inodes += 1
        self._describe(directory, base, entry, link=False)

    def _describe(
        self, directory: OpenDirectory, base: str, entry: Entry, *, link: bool, owned: bool = False
    ) -> None:
        """Owner, attributes, mode and times of something that has no descriptor of its own.

        Args:
            directory: Where it is.
            base: Its name.
            entry: What it should be like.
            link: It is a symbolic link.
            owned: It has its owner already, and chown(2) would cost it its capabilities.

        """
        fd = directory.fd
        if not owned:
            os.chown(base, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
        if not link:
            pin = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                pinned = f"/proc/self/fd/{pin}"
                if directory.acl:
                    acl.strip(pinned)
                self._set_xattrs(pinned, entry)
                os.chmod(pinned, entry.mode)
            finally:
                os.close(pin)
        elif entry.xattrs:
            self._set_xattrs(trees.handle(fd, base), entry, follow=False)
        time = entry.mtime if 0 <= entry.mtime <= _TIME_MAX else 0
        os.utime(base, ns=(time, time), dir_fd=fd, follow_symlinks=False)

    def _set_xattrs(self, target: int | str, entry: Entry, *, follow: bool = True) -> None:
        for name, value in entry.xattrs.items():
            if name.startswith(trees.OVERLAY_XATTRS) or name == "security.selinux":
                self._tally.dropped += 1  # T8, T21
                continue
            try:
                if isinstance(target, int):
                    os.setxattr(target, name, value)
                else:
                    os.setxattr(target, name, value, follow_symlinks=follow)
            except OSError as exc:
                if exc.errno not in _UNSETTABLE:
                    raise
                self._tally.dropped += 1

    # Whiteouts.

    def _take_mark(self, mark: whiteouts.Whiteout) -> None:
        if mark.kind is whiteouts.Kind.RESERVED:
            return
        if mark.kind is whiteouts.Kind.OPAQUE:
            self._directories.set_opaque(self._directories.find(mark.path))
            return
        parent, _, base = mark.path.rpartition("/")
        self._hide(self._directories.find(parent), base)

    def _hide(self, directory: OpenDirectory, base: str) -> None:
        """Hide what the layers below have under a name; what this layer has there stays (T10)."""
        if self._lowest:
            return
        try:
            os.mknod(base, stat.S_IFCHR, 0, dir_fd=directory.fd)
        except FileExistsError:
            status = os.stat(base, dir_fd=directory.fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                made = self._directories.enter(os.open(base, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory.fd))
                self._directories.set_opaque(made)
                self._directories.implied.pop(made.ino, None)  # what it would take after is gone
            elif not trees.is_whiteout(status):
                self._remember_hidden(directory, base)
            return
        self._tally.inodes += 1
        self._tally.whiteouts += 1

    def _remember_hidden(self, directory: OpenDirectory, base: str) -> None:
        """A file stands where a whiteout belongs. It hides as much, until a directory takes its place."""
        self._hidden.setdefault(directory.ino, set()).add(base)
        self._hidden_left -= 1
        if self._hidden_left < 0:
            raise TarLimitError(
                f"the layer replaces more than {open_directories.MARKS_MAX} files that it also deletes"
            )

    def _replace(self, parent: str, base: str) -> OpenDirectory:
        """Make room for an entry that replaces an earlier one (T12); the parent, which may have been reopened."""
        directory = self._directories.find(parent)
        status = os.stat(base, dir_fd=directory.fd, follow_symlinks=False)
        hidden = trees.is_whiteout(status)
        if stat.S_ISDIR(status.st_mode):
            with trees.below(directory.fd, base) as fd:
                hidden = trees.is_opaque(fd)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            # Paths that went through it lead elsewhere from now on.
            self._directories.settle()
            directory = self._directories.find(parent)
        if stat.S_ISDIR(status.st_mode):
            trees.remove(directory.fd, base, self._forget)
        else:
            self._forget(status)
            os.unlink(base, dir_fd=directory.fd)
        if hidden:
            self._tally.whiteouts -= 1
            self._remember_hidden(directory, base)
        return directory

    def _forget(self, status: os.stat_result) -> None:
        if stat.S_ISDIR(status.st_mode):
            self._directories.implied.pop(status.st_ino, None)
            self._hidden.pop(status.st_ino, None)
        self._tally.remove(status)
