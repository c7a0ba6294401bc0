"""A layer's tar stream becomes an EROFS layer: the stream itself is the data device, and a tree points into it.

**Cost.** The stream is written as it comes, in the pieces it comes in; tar aligns contents to 512 bytes, which is a block
size that EROFS has. Per entry there is one node and one name in a dictionary, and nothing for the disk to do. What is
not contiguous in the stream, that is sparse files, is copied to a second device when the layer is complete.

**Meaning.** The tree is what `lading.snapshots.extract.Extractor` would make of the same stream, and what that one refuses
is refused (rows T1 to T26 of hostile-input.md); a test compares the two. There are no files to be tricked here: names are
resolved in the tree, which has nothing outside. Two marks are for overlayfs: ``opaque`` on directories that hide what is
below, and an empty ``origin`` on those that hold whiteouts, without which readdir(2) would show them where nothing is merged.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from typing_extensions import Buffer

from lading.core.snapshots import Usage
from lading.errors import InvalidArgumentError
from lading.formats import whiteouts
from lading.formats.erofs.tree import NO_XATTRS, Node
from lading.formats.erofs.writer import ImageWriter
from lading.formats.tar.entry import BLOCK, Entry, EntryType, Limits, TarError, TarLimitError
from lading.formats.tar.names import rooted
from lading.formats.tar.parser import TarParser
from lading.kit import fs
from lading.snapshots import acl, trees
from lading.snapshots.extract import Extracted, LayerBombError
from lading.snapshots.faults import translated

DATA: Final = "layer.data"
"""The tar stream."""
SIDE: Final = "layer.side"
"""Contents of sparse files, with their holes."""
LIMITS: Final = Limits(entries=2_000_000)
"""An entry takes about half a kilobyte of memory while its layer is unpacked."""
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = EntryType.FILE
_SHIFT: Final = 9
_LINKS_MAX: Final = 40
"""Symbolic links in one path, as path_resolution(7) bounds them."""
_STEPS_MAX: Final = 20_000_000
"""Components that one layer may make us look up: links can make a short name very long."""
_HELD_MAX: Final = 256 << 20
"""Bytes of attributes and link targets that one layer may have: they are kept in memory until it is complete."""
_PATHS_MAX: Final = 16 << 20
"""Bytes of paths that are remembered with their directories."""
_TIME_MAX: Final = 2**63 - 1
_SAMPLE: Final = 1 << 20
"""Bytes of the stream from one sample to the next."""
_SAMPLES_MAX: Final = 4096
_AHEAD_MAX: Final = 64 << 20
"""Most bytes of disk space that are reserved ahead of the stream: writing into reserved space costs half as much."""
_RECORD: Final = 20 * BLOCK
"""GNU tar and Python fill an archive up to a multiple of this."""
_OPAQUE: Final = "trusted.overlay.opaque"
_ORIGIN: Final = "trusted.overlay.origin"
_CAPABILITY: Final = "security.capability"
_CAPABILITY_FORMS: Final = {(20, 0x02000000), (24, 0x03000000)}
_NAMESPACES: Final = ("user.", "trusted.", "security.")
_SPECIAL: Final = {
    EntryType.CHAR: stat.S_IFCHR,
    EntryType.BLOCK: stat.S_IFBLK,
    EntryType.FIFO: stat.S_IFIFO,
}


class Directory(Node, gc=True):
    """A directory of the layer."""

    implied: bool = False
    """No entry describes it."""
    opaque: bool = False
    marked: bool = False
    """It has held whiteouts."""
    hidden: "set[str] | None" = None
    """Names whose whiteout something else has replaced: it hides as much, until a directory takes its place."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A byte of the stream that is content of a file."""

    at: int
    """Its offset in the stream."""
    name: str
    """Of the file, as the archive has it. A later entry may have taken its place."""
    offset: int
    """The same byte's offset in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built(Extracted):
    """An EROFS layer whose metadata image is still to be made, or to be amended by what is below."""

    root: Directory
    directories: dict[str, Directory]
    """The implied ones by path."""
    data: int
    """Length of the data device in bytes."""
    side: int
    """Length of the second device in bytes; 0 if there is none."""
    image: ImageWriter | None = None
    """The metadata image, if it was made without knowing what is below."""
    samples: tuple[Sample, ...] = ()
    """One for each mebibyte of the data device that holds contents, ascending; of the first gigabytes alone."""
    facts: dict[str, str] = field(default_factory=dict[str, str])
    """What is to be remembered of the finished layer."""


class _MissingError(Exception):
    """A path leads nowhere. Never leaves this module."""


class LayerBuilder:
    """Takes one layer. Blocking; used by one thread at a time. After an error, or `finish`, only `close`."""

    def __init__(
        self, directory: Path, *, budget: int, lowest: bool = False, limits: Limits = LIMITS
    ) -> None:
        """Write the devices of a layer into ``directory``.

        Args:
            directory: Empty, and only ours.
            budget: Bytes of stream, and of files with their holes, that are allowed.
            lowest: Nothing is below, so that whiteouts mean nothing.
            limits: Bounds on names and numbers.

        """
        self._directory = directory
        self._parser = TarParser(limits=limits)
        self._budget = budget
        self._lowest = lowest
        self._stream_left = self._logical_left = budget
        self._steps_left = _STEPS_MAX
        self._held_left = _HELD_MAX
        self._paths_left = _PATHS_MAX
        self._opaque_root = False
        self._dropped = 0
        self._root = Directory(stat.S_IFDIR | 0o755, children={})
        self._by_path: dict[
            str, Directory
        ] = {}  # paths as archives write them, including those through links
        self._sparse: list[tuple[Node, Entry]] = []
        self._fd = os.open(directory / DATA, _CREATE, 0o600)
        self._written = self._reserved = 0
        self._samples: list[Sample] = []
        self._next_sample = 0
        self._makers: dict[EntryType, Callable[[Directory, str, Entry], None]] = {
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
        by_path = self._by_path.get
        for entry in self._parser.feed_entries(view):
            if entry.offset + entry.size > self._next_sample:
                self._sample(entry)
            parent, _, base = entry.name.rpartition("/")
            directory = by_path(parent)
            if (
                entry.type is not _FILE
                or directory is None
                or not base
                or base[0] == "."
                or entry.sparse is not None
                or entry.xattrs
                or base in directory.children  # pyright: ignore[reportOperatorIssue] # directories have them
            ):
                self._take(entry)
                continue
            # What nearly all entries are: a new file in a known directory.
            time = entry.mtime
            directory.children[base] = Node(  # pyright: ignore[reportOptionalSubscript]
                entry.mode | 0o100000,
                entry.uid,
                entry.gid,
                time if 0 <= time <= _TIME_MAX else 0,
                entry.size,
                1,
                entry.offset >> _SHIFT,
            )
        if self._parser.ended:
            # A record is filled up; what follows is not kept, wherever the pieces of the stream happen to end.
            end = self._parser.end
            view = view[: max(end + -end % _RECORD - self._written, 0)]
        self._written += len(view)
        if self._written > self._reserved:
            self._reserve()
        with translated("cannot write a layer"):
            written = os.write(self._fd, view)
            while written < len(view):
                written += os.write(self._fd, view[written:])

    def _sample(self, entry: Entry) -> None:
        """Remember where some bytes of a file's content are shown."""
        if not entry.size or entry.sparse is not None:
            return
        at = max(entry.offset, self._next_sample)
        while at < entry.offset + entry.size and len(self._samples) < _SAMPLES_MAX:
            self._samples.append(Sample(at, entry.name, at - entry.offset))
            at += _SAMPLE
        self._next_sample = at if len(self._samples) < _SAMPLES_MAX else _TIME_MAX

    def _reserve(self) -> None:
        """Have disk space for what comes next: as much again as there is, within bounds. `finish` gives the rest back."""
        ahead = min(self._written, _AHEAD_MAX, self._stream_left)
        try:
            fs.allocate(
                self._fd, self._written + ahead - self._reserved, offset=self._reserved, keep_size=True
            )
        except OSError:  # too full for that, but perhaps not for the layer
            with translated("cannot write a layer"):
                os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_CUR))
            self._reserved = self._budget
        else:
            self._reserved = self._written + ahead

    def finish(self) -> Built:
        """The stream is over. Raises as `write`."""
        self._parser.finish()
        with translated("cannot write a layer"):
            length = os.lseek(self._fd, 0, os.SEEK_CUR)
            # The kernel fails a whole read if the last block is cut short.
            data = length + -length % BLOCK
            os.ftruncate(self._fd, data)
            side = self._copy_sparse()
        implied: dict[str, Directory] = {}
        marks = inodes = 0
        for path, directory in self._walk():
            if directory.implied:
                implied[path] = directory
            inodes += len(children(directory))
            if directory.opaque:
                marks += 1
                for name in [name for name, node in children(directory).items() if _is_whiteout(node)]:
                    del children(directory)[name]
                directory.xattrs = directory.xattrs | {_OPAQUE: b"y"}
            elif directory.marked:
                found = sum(map(_is_whiteout, children(directory).values()))
                marks += found
                if found:
                    directory.xattrs = directory.xattrs | {_ORIGIN: b""}
        return Built(
            usage=Usage(size=0, inodes=inodes),
            implied=tuple(sorted(implied)),
            opaque_root=self._opaque_root,
            whiteouts=marks,
            dropped=self._dropped,
            root=self._root,
            directories=implied,
            data=data,
            side=side,
            samples=tuple(self._samples),
        )

    def close(self) -> None:
        """Let go of all descriptors. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _bomb(self) -> LayerBombError:
        return LayerBombError(
            f"the layer holds more than {self._budget} bytes",
            hint="it inflates more than an honest layer does, or exceeds the limit for one layer",
        )

    def _walk(self) -> Iterator[tuple[str, Directory]]:
        pending = [("", self._root)]
        while pending:
            path, directory = pending.pop()
            yield path, directory
            pending += [
                (f"{path}/{name}" if path else name, node)
                for name, node in children(directory).items()
                if isinstance(node, Directory)
            ]

    def _copy_sparse(self) -> int:
        """Lay sparse files out in the second device; its length."""
        if not self._sparse:
            return 0
        end = 0
        fd = os.open(self._directory / SIDE, _CREATE, 0o600)
        try:
            for node, entry in self._sparse:
                node.device, node.block = 2, end >> _SHIFT
                for offset, source, length in entry.extents():
                    done = 0
                    while done < length:
                        copied = os.copy_file_range(
                            self._fd, fd, length - done, source + done, end + offset + done
                        )
                        if not copied:
                            raise OSError(errno.EIO, "a layer's data is shorter than what was written")
                        done += copied
                end += node.size + -node.size % BLOCK
            os.ftruncate(fd, end)
        finally:
            os.close(fd)
        return end

    # Entries.

    def _take(self, entry: Entry) -> None:
        path = rooted(entry.name)
        if not path:
            return  # T13
        mark = whiteouts.classify(path)
        if mark is not None:
            self._take_mark(mark)
            return
        above, _, base = path.rpartition("/")
        directory = self._parent(above)
        self._makers[entry.type](directory, base, entry)
        if entry.type is _FILE:
            # The next file's parent is found as its archive writes it.
            raw = entry.name.rpartition("/")[0]
            if raw != above and entry.name.endswith(f"/{base}") and rooted(raw) == above:
                self._remember(raw, directory)

    def _make_file(self, directory: Directory, base: str, entry: Entry) -> None:
        node = Node(
            stat.S_IFREG | entry.mode,
            entry.uid,
            entry.gid,
            _time(entry),
            entry.real_size,
            1,
            entry.offset >> _SHIFT,
        )
        if entry.sparse is not None:
            self._logical_left -= entry.real_size
            if self._logical_left < 0:
                raise self._bomb()
            if entry.real_size:
                self._sparse.append((node, entry))
        if entry.xattrs:
            node.xattrs = self._xattrs(NO_XATTRS, entry, node.mode)
        self._put(directory, base, node)

    def _make_directory(self, directory: Directory, base: str, entry: Entry) -> None:
        made = children(directory).get(base)
        if not isinstance(made, Directory):
            if made is not None:
                self._replace(directory, base, made)
            made = Directory(stat.S_IFDIR, children={})
            made.opaque = directory.hidden is not None and base in directory.hidden
            children(directory)[base] = made
        made.implied = False
        made.mode, made.uid, made.gid = stat.S_IFDIR | entry.mode, entry.uid, entry.gid
        made.mtime = _time(entry)
        if entry.xattrs or made.xattrs:
            made.xattrs = self._xattrs(made.xattrs, entry, made.mode)

    def _make_symlink(self, directory: Directory, base: str, entry: Entry) -> None:
        self._hold(len(entry.linkname))
        node = Node(stat.S_IFLNK | 0o777, entry.uid, entry.gid, _time(entry), target=entry.linkname)
        if entry.xattrs:
            node.xattrs = self._xattrs(NO_XATTRS, entry, node.mode)
        self._put(directory, base, node)

    def _make_hardlink(self, directory: Directory, base: str, entry: Entry) -> None:
        node = self._target(entry)
        prior = children(directory).get(base)
        if prior is node:
            return
        if prior is not None:
            self._replace(directory, base, prior)
            if not stat.S_ISREG(prior.mode):
                children(directory).pop(base)
                node = self._target(entry)  # it may have lain in what was replaced
        children(directory)[base] = node
        link = stat.S_ISLNK(node.mode)
        mode = stat.S_IFMT(node.mode) | (0o777 if link else entry.mode)
        if (node.mode, node.uid, node.gid, node.mtime) != (
            mode,
            entry.uid,
            entry.gid,
            entry.mtime,
        ) or entry.xattrs:
            # An entry for a link describes the file anew; chown(2) to another takes away its capabilities.
            owned = link or (node.uid, node.gid) == (entry.uid, entry.gid)
            node.mode, node.uid, node.gid, node.mtime = mode, entry.uid, entry.gid, _time(entry)
            kept = {name: value for name, value in node.xattrs.items() if name != _CAPABILITY or owned}
            node.xattrs = self._xattrs(kept, entry, mode)

    def _target(self, entry: Entry) -> Node:
        above, _, name = rooted(entry.linkname).rpartition("/")
        try:
            node = children(self._parent(above, make=False))[name]
        except (KeyError, _MissingError) as exc:
            raise TarError(
                f"hard link {entry.name!r} points to {entry.linkname!r}, which is not in the layer so far"
            ) from exc
        if isinstance(node, Directory) or _is_whiteout(node):
            raise TarError(f"hard link {entry.name!r} points to {entry.linkname!r}, which is no file")
        return node

    def _make_special(self, directory: Directory, base: str, entry: Entry) -> None:
        device = os.makedev(entry.devmajor, entry.devminor)
        if entry.type is EntryType.CHAR and not device:
            self._hide(directory, base)  # T8
            return
        node = Node(_SPECIAL[entry.type] | entry.mode, entry.uid, entry.gid, _time(entry), rdev=device)
        if entry.xattrs:
            node.xattrs = self._xattrs(NO_XATTRS, entry, node.mode)
        self._put(directory, base, node)

    def _xattrs(self, present: dict[str, bytes], entry: Entry, mode: int) -> dict[str, bytes]:
        """Attributes after those of an entry were set and the mode after them; what no file could have is left out."""
        self._hold(sum([len(name) + len(value) for name, value in entry.xattrs.items()]))
        found = dict(present)
        plain = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        for name, value in entry.xattrs.items():
            if name in (acl.ACCESS, acl.DEFAULT) and not stat.S_ISLNK(mode):
                if name == acl.DEFAULT and not stat.S_ISDIR(mode):
                    raise InvalidArgumentError(f"{entry.name!r} has a default ACL and is no directory")
                if value:
                    found[name] = value
                else:  # setxattr(2) takes this as removal
                    found.pop(name, None)
            elif (
                name.startswith(trees.OVERLAY_XATTRS)  # T8
                or name == "security.selinux"  # T21
                or not name.startswith(_NAMESPACES)
                or (name.startswith("user.") and not plain)
                or (name == _CAPABILITY and not value)  # setxattr(2) takes it and getxattr(2) fails
            ):
                self._dropped += 1
            elif name in _NAMESPACES:
                raise InvalidArgumentError(f"{entry.name!r} has an extended attribute without a name")
            elif name == _CAPABILITY and (
                len(value) < 4
                or (len(value), int.from_bytes(value[:4], "little") & 0xFF000000) not in _CAPABILITY_FORMS
            ):
                raise InvalidArgumentError(f"{entry.name!r} has malformed capabilities")
            else:
                found[name] = value
        for name, kept in (
            (acl.ACCESS, acl.access(found[acl.ACCESS], mode) if acl.ACCESS in found else None),
            (acl.DEFAULT, acl.default(found[acl.DEFAULT]) if acl.DEFAULT in found else None),
        ):
            if kept is not None:
                found[name] = kept
            else:
                found.pop(name, None)
        return found

    def _put(self, directory: Directory, base: str, node: Node) -> None:
        prior = children(directory).get(base)
        if prior is not None:
            self._replace(directory, base, prior)
        children(directory)[base] = node

    def _replace(self, directory: Directory, base: str, prior: Node) -> None:
        """Make room for an entry that replaces an earlier one (T12)."""
        if isinstance(prior, Directory) or stat.S_ISLNK(prior.mode):
            # Paths that went through it lead elsewhere from now on.
            self._by_path.clear()
        if _is_whiteout(prior) or (isinstance(prior, Directory) and prior.opaque):
            self._remember_hidden(directory, base)

    # Whiteouts.

    def _take_mark(self, mark: whiteouts.Whiteout) -> None:
        if mark.kind is whiteouts.Kind.RESERVED:
            return
        if mark.kind is whiteouts.Kind.OPAQUE:
            directory = self._parent(mark.path)
            if not self._lowest:
                if directory is self._root:  # by a link, perhaps
                    self._opaque_root = True
                else:
                    directory.opaque = True
            return
        parent, _, base = mark.path.rpartition("/")
        self._hide(self._parent(parent), base)

    def _hide(self, directory: Directory, base: str) -> None:
        """Hide what the layers below have under a name; what this layer has there stays (T10)."""
        if self._lowest:
            return
        prior = children(directory).get(base)
        if prior is None:
            children(directory)[base] = Node(stat.S_IFCHR)
            directory.marked = True
        elif isinstance(prior, Directory):
            prior.opaque = True
            prior.implied = False  # what it would take after is gone
        elif not _is_whiteout(prior):
            self._remember_hidden(directory, base)

    @staticmethod
    def _remember_hidden(directory: Directory, base: str) -> None:
        if directory.hidden is None:
            directory.hidden = set()
        directory.hidden.add(base)

    # Directories.

    def _parent(self, path: str, *, make: bool = True) -> Directory:
        """The directory at a clean path, links resolved in the root, made if it is only implied."""
        if not path:
            return self._root
        found = self._by_path.get(path)
        if found is None:
            found = self._resolve(path, make=make)
            self._remember(path, found)
        return found

    def _remember(self, path: str, directory: Directory) -> None:
        self._paths_left -= len(path)
        if self._paths_left < 0:
            self._by_path.clear()
            self._paths_left = _PATHS_MAX
        self._by_path[path] = directory

    def _hold(self, size: int) -> None:
        self._held_left -= size
        if self._held_left < 0:
            raise TarLimitError(f"the layer has more than {_HELD_MAX} bytes of attributes and link targets")

    def _resolve(self, path: str, *, make: bool) -> Directory:
        pending = path.split("/")[::-1]
        done = [self._root]
        links = 0
        while pending:
            part = pending.pop()
            self._steps_left -= 1
            if self._steps_left < 0:
                raise TarLimitError("the names of the layer take too many steps to follow")
            if part in ("", "."):
                continue
            if part == "..":
                if len(done) > 1:
                    done.pop()
                continue
            child = children(done[-1]).get(part)
            if isinstance(child, Directory):
                done.append(child)
            elif child is not None and stat.S_ISLNK(child.mode):
                links += 1
                if links > _LINKS_MAX:
                    raise TarError(f"too many symbolic links on the way to {path!r}")
                if child.target.startswith("/"):
                    del done[1:]
                pending += child.target.split("/")[::-1]
            elif not make:
                raise _MissingError
            elif child is None or _is_whiteout(child):
                made = Directory(
                    stat.S_IFDIR | 0o755, children={}, implied=child is None, opaque=child is not None
                )
                children(done[-1])[part] = made
                done.append(made)
            else:
                raise TarError(f"{path!r} lies below a file of the same layer")
        return done[-1]


def children(directory: Node) -> dict[str, Node]:
    """What a directory holds."""
    assert directory.children is not None
    return directory.children


def _time(entry: Entry) -> int:
    return entry.mtime if 0 <= entry.mtime <= _TIME_MAX else 0


def _is_whiteout(node: Node) -> bool:
    return not node.rdev and stat.S_ISCHR(node.mode)
