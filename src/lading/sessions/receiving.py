"""Receiving a tree: fsutil's exchange as a directory on our disk. Everything here blocks, and belongs on a data thread.

The client walks its tree in path order, parents first, so the directories on the way to the present entry are kept open, and
each entry is made by name in its parent's descriptor: no path of the client is ever resolved. What is there and looks the same is
kept; what the walk has passed over is removed when its directory is left.

Most syncs change little: an entry that is sent as it was the last time is the file that is there, and as long as all are, in the
same order, nothing is even parsed.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from lading.core.session import Synced, SyncMemory
from lading.errors import (
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from lading.formats.buildkit import filemode
from lading.formats.buildkit._pb.fsutil_pb2 import Packet, Stat
from lading.kit import linux

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTRIES: Final = 5_000_000
_DEPTH: Final = 1024
_ATTRIBUTES: Final = ("user.", "security.capability")
_NAME: Final = 255
_MAJORS: Final = 1 << 12
_MINORS: Final = 1 << 20
"""Numbers of devices that Linux has."""
_REMEMBERED: Final = 100_000
"""Entries of a tree that are remembered for the next sync: some 150 bytes each."""


@dataclass(slots=True)
class _Level:
    """A directory that the walk is in."""

    path: str
    fd: int
    left: set[str]
    """Names that are there and were not walked over yet."""
    last: bytes = b""
    stat: Stat | None = None


@dataclass(slots=True)
class _Wanted:
    """A file that was asked for."""

    path: str
    stat: Stat
    fd: int = -1


@dataclass(slots=True)
class Progressed:
    """What a batch of packets led to."""

    requests: list[int] = field(default_factory=list[int])
    walked: bool = False
    """The walk is over."""
    complete: bool = False
    """Every file that was asked for is here."""
    finished: bool = False
    """The client said goodbye."""


class Receiver:
    """Makes one directory equal to what a client sends."""

    def __init__(
        self, root: str, *, told: Callable[[int], None] | None = None, memory: SyncMemory | None = None
    ) -> None:
        fd = os.open(root, _DIRECTORY)
        self._root = fd
        self._levels = [_Level("", os.dup(fd), set(os.listdir(fd)))]
        self._wanted: dict[int, _Wanted] = {}
        self._directories: list[tuple[str, Stat]] = []
        self._links: dict[str, str] = {}
        self._next = 0
        self._files = self._bytes = self._moved = 0
        self._moved_bytes = self._received = 0
        self._walked = False
        self._changed = False
        self._told = told
        self._memory = memory or SyncMemory()
        self._known, self._memory.entries = self._memory.entries, ()
        self._passed: int | None = 0 if self._known else None
        """How many of the known entries came again, one after the other; nothing once another came."""
        self._seen: frozenset[bytes] = frozenset()
        self._sent: list[bytes] = []

    def close(self) -> None:
        """Let go of every descriptor."""
        for level in self._levels:
            os.close(level.fd)
        for wanted in self._wanted.values():
            if wanted.fd >= 0:
                os.close(wanted.fd)
        self._levels, self._wanted = [], {}
        os.close(self._root)

    @property
    def synced(self) -> Synced:
        """What was done so far."""
        return Synced(
            files=self._files,
            bytes=self._bytes,
            transferred_files=self._moved,
            transferred_bytes=self._moved_bytes,
            changed=self._changed,
        )

    def take(self, packets: Sequence[bytes]) -> Progressed:
        """Act on packets. Raises `InvalidArgumentError` for what no honest client sends."""
        done = Progressed()
        packets = self.unknown(packets)
        if packets and self._passed is not None:
            self._go_on(packets[0], self._passed, done)
        for raw in packets:
            packet = Packet.FromString(raw)
            if packet.type == Packet.DATA:
                self._data(packet)
            elif packet.type == Packet.STAT:
                if packet.HasField("stat"):
                    self._entry(packet.stat, raw, done)
                else:
                    self._end_of_walk()
                    done.walked = True
            elif packet.type == Packet.FIN:
                done.finished = True
            elif packet.type == Packet.ERR:
                raise _refused(packet.data.decode("utf-8", "replace"))
            else:
                raise InvalidArgumentError("the client asks for a file while it sends a tree")
        done.complete = self._walked and not self._wanted
        if done.complete:
            self._set_directory_times()
            self._remember()
        self._hear(packets)
        return done

    def unknown(self, packets: Sequence[bytes]) -> Sequence[bytes]:
        """Pass over what comes as it did the last time; what is left for `take`. The one method that does not block."""
        if self._passed is None:
            return packets
        expected = self._known[self._passed : self._passed + len(packets)]
        same = len(packets)
        if packets != expected:
            same = sum(1 for _ in takewhile(_alike, zip(packets, expected, strict=False)))
        self._passed += same
        self._hear(packets[:same])
        return packets[same:]

    def _go_on(self, first: bytes, passed: int, done: Progressed) -> None:
        """Something came that did not come the last time: the end, if all was passed over, or a change."""
        self._passed = None
        if passed == len(self._known) and _ends_walk(first):
            self._files, self._bytes = self._memory.files, self._memory.bytes
            self._levels[0].left.clear()
            self._sent = list(self._known)
            return
        self._seen = frozenset(self._known)
        for raw in self._known[:passed]:
            self._entry(Packet.FromString(raw).stat, raw, done)

    def _hear(self, packets: Sequence[bytes]) -> None:
        if self._told is not None and packets:
            self._received += sum(map(len, packets))
            self._told(self._received)

    def _remember(self) -> None:
        if len(self._sent) < _REMEMBERED:
            self._memory.entries = self._sent
            self._memory.files, self._memory.bytes = self._files, self._bytes

    # The walk.

    def _entry(self, entry: Stat, raw: bytes, done: Progressed) -> None:
        number, self._next = self._next, self._next + 1
        if self._walked or number >= _ENTRIES:
            raise InvalidArgumentError(f"the client sends more than {_ENTRIES} files")
        parent, name = _split(entry.path)
        self._leave_to(parent)
        level = self._levels[-1]
        if level.path != parent:
            raise InvalidArgumentError(f"{entry.path!r} comes before its directory", subject=entry.path)
        key = os.fsencode(name)
        if key <= level.last:
            raise InvalidArgumentError(f"{entry.path!r} comes out of order", subject=entry.path)
        level.last = key
        there = name in level.left
        level.left.discard(name)
        mode = filemode.to_unix(entry.mode)
        if mode is None:
            raise InvalidArgumentError(f"{entry.path!r} is of an unknown type", subject=entry.path)
        self._files += not stat.S_ISDIR(mode)
        self._bytes += entry.size if stat.S_ISREG(mode) else 0
        if len(self._sent) < _REMEMBERED:
            self._sent.append(raw)
        if there and raw in self._seen and not (entry.linkname and stat.S_ISREG(mode)):
            if stat.S_ISDIR(mode):
                self._enter(level, name, entry)
            return
        old = os.stat(name, dir_fd=level.fd, follow_symlinks=False) if there else None
        if stat.S_ISDIR(mode):
            self._directory(level, name, entry, mode, old)
        elif stat.S_ISREG(mode):
            if entry.linkname:
                self._hard_link(level, name, entry, old)
            elif old is None or not _same(old, entry, mode):
                self._clear(level, name, old)
                self._wanted[number] = _Wanted(entry.path, entry)
                done.requests.append(number)
        elif old is None or not self._same_special(level, name, old, entry, mode):
            self._clear(level, name, old)
            self._special(level, name, entry, mode)

    def _directory(
        self, level: _Level, name: str, entry: Stat, mode: int, old: os.stat_result | None
    ) -> None:
        if old is None or not stat.S_ISDIR(old.st_mode):
            self._clear(level, name, old)
            os.mkdir(name, 0o700, dir_fd=level.fd)
        fd = self._enter(level, name, entry)
        if (
            old is None
            or (old.st_mode, old.st_uid, old.st_gid) != (mode, entry.uid, entry.gid)
            or entry.xattrs
        ):
            self._changed = True
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, stat.S_IMODE(mode))
            _set_attributes(fd, entry.xattrs)

    def _enter(self, level: _Level, name: str, entry: Stat) -> int:
        if len(self._levels) > _DEPTH:
            raise InvalidArgumentError(f"the tree is deeper than {_DEPTH} directories", subject=entry.path)
        fd = os.open(name, _DIRECTORY, dir_fd=level.fd)
        self._levels.append(_Level(entry.path, fd, set(os.listdir(fd)), stat=entry))
        self._directories.append((entry.path, entry))
        return fd

    def _clear(self, level: _Level, name: str, old: os.stat_result | None) -> None:
        """Make room for what is new, or for nothing."""
        self._changed = True
        _remove(level.fd, name, old)

    def _hard_link(self, level: _Level, name: str, entry: Stat, old: os.stat_result | None) -> None:
        # The file that it names may be still to come, so the link is made at the end.
        _split(entry.linkname)
        self._clear(level, name, old)
        self._links[entry.path] = entry.linkname

    def _same_special(self, level: _Level, name: str, old: os.stat_result, entry: Stat, mode: int) -> bool:
        if stat.S_IFMT(old.st_mode) != stat.S_IFMT(mode) or old.st_mtime_ns != entry.mod_time:
            return False
        if stat.S_ISLNK(mode):
            return os.readlink(name, dir_fd=level.fd) == entry.linkname
        if old.st_mode != mode:
            return False
        return stat.S_ISFIFO(mode) or (os.major(old.st_rdev), os.minor(old.st_rdev)) == (
            entry.devmajor,
            entry.devminor,
        )

    def _special(self, level: _Level, name: str, entry: Stat, mode: int) -> None:
        if stat.S_ISLNK(mode):
            os.symlink(entry.linkname, name, dir_fd=level.fd)
        elif stat.S_ISSOCK(mode):
            return  # nobody can use it here
        elif stat.S_ISFIFO(mode):
            os.mkfifo(name, 0o600, dir_fd=level.fd)
        else:
            self._device(level, name, entry, mode)
        os.chown(name, entry.uid, entry.gid, dir_fd=level.fd, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            os.chmod(name, stat.S_IMODE(mode), dir_fd=level.fd)
        os.utime(name, ns=(entry.mod_time, entry.mod_time), dir_fd=level.fd, follow_symlinks=False)

    def _device(self, level: _Level, name: str, entry: Stat, mode: int) -> None:
        """A node, as BuildKit makes it: it gives nobody more than there was.

        Only root reaches this directory, nothing here opens what is no regular file, and a container, whose processes can make
        nodes too, may open those alone that its cgroup allows.
        """
        major, minor = entry.devmajor, entry.devminor
        if not (0 <= major < _MAJORS and 0 <= minor < _MINORS):
            raise InvalidArgumentError(f"{entry.path!r} is a device that there cannot be", subject=entry.path)
        if stat.S_ISCHR(mode) and not major and not minor:
            raise InvalidArgumentError(
                f"{entry.path!r} is a device that overlayfs reads as a deletion",
                hint="list it in .dockerignore",
                subject=entry.path,
            )
        try:
            os.mknod(name, stat.S_IFMT(mode) | 0o600, os.makedev(major, minor), dir_fd=level.fd)
        except PermissionError as exc:
            raise PermissionDeniedError(
                f"{entry.path!r} is a device, which this daemon may not make",
                hint="list it in .dockerignore, or build as root",
                subject=entry.path,
            ) from exc

    def _leave_to(self, parent: str) -> None:
        while len(self._levels) > 1:
            level = self._levels[-1]
            if level.path == parent or parent.startswith(f"{level.path}/"):
                return
            self._leave()

    def _leave(self) -> None:
        level = self._levels.pop()
        try:
            for name in level.left:
                self._clear(level, name, os.stat(name, dir_fd=level.fd, follow_symlinks=False))
        finally:
            os.close(level.fd)

    def _end_of_walk(self) -> None:
        while self._levels:
            self._leave()
        self._walked = True

    # The files.

    def _data(self, packet: Packet) -> None:
        wanted = self._wanted.get(packet.id)
        if wanted is None:
            raise InvalidArgumentError(f"the client sends file {packet.id}, which nobody asked for")
        if wanted.fd < 0:
            wanted.fd = self._create(wanted.path)
        if packet.data:
            data = packet.data
            while data:
                data = data[os.write(wanted.fd, data) :]
            self._moved_bytes += len(packet.data)
            return
        try:
            entry = wanted.stat
            mode = filemode.to_unix(entry.mode) or 0
            os.fchown(wanted.fd, entry.uid, entry.gid)
            os.fchmod(wanted.fd, stat.S_IMODE(mode))
            _set_attributes(wanted.fd, entry.xattrs)
            os.utime(wanted.fd, ns=(entry.mod_time, entry.mod_time))
            self._moved += 1
        finally:
            os.close(wanted.fd)
            del self._wanted[packet.id]

    def _create(self, path: str) -> int:
        parent, name = _split(path)
        fd = self._open_directory(parent)
        try:
            return os.open(name, _CREATE, 0o600, dir_fd=fd)
        finally:
            os.close(fd)

    def _open_directory(self, path: str) -> int:
        if not path:
            return os.dup(self._root)
        return linux.openat2(self._root, path, os.O_PATH | os.O_DIRECTORY, linux.RESOLVE_NO_SYMLINKS)

    def _set_directory_times(self) -> None:
        for path, target in self._links.items():
            self._make_link(path, target)
        self._links = {}
        for path, entry in reversed(self._directories):
            fd = linux.openat2(self._root, path, os.O_RDONLY | os.O_DIRECTORY, linux.RESOLVE_NO_SYMLINKS)
            try:
                os.utime(fd, ns=(entry.mod_time, entry.mod_time))
            finally:
                os.close(fd)
        self._directories = []

    def _make_link(self, path: str, target: str) -> None:
        (to_parent, to_name), (from_parent, from_name) = _split(path), _split(target)
        with contextlib.ExitStack() as stack:
            to = self._open_directory(to_parent)
            stack.callback(os.close, to)
            source = self._open_directory(from_parent)
            stack.callback(os.close, source)
            try:
                os.link(from_name, to_name, src_dir_fd=source, dst_dir_fd=to, follow_symlinks=False)
            except OSError as exc:
                raise InvalidArgumentError(f"{path!r} links to {target!r}: {exc.strerror}") from exc


def _alike(pair: tuple[bytes, bytes]) -> bool:
    return pair[0] == pair[1]


def _ends_walk(raw: bytes) -> bool:
    packet = Packet.FromString(raw)
    return packet.type == Packet.STAT and not packet.HasField("stat")


def _split(path: str) -> tuple[str, str]:
    """Directory and name of a path. Raises `InvalidArgumentError` for one that is not clean and relative."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or len(os.fsencode(part)) > _NAME or "\0" in part for part in parts):
        raise InvalidArgumentError(
            f"the client sends the path {path[:200]!r}", hint="paths are clean and relative"
        )
    return path.rpartition("/")[0], parts[-1]


def _same(old: os.stat_result, entry: Stat, mode: int) -> bool:
    return (
        old.st_mode == mode
        and old.st_size == entry.size
        and old.st_mtime_ns == entry.mod_time
        and old.st_uid == entry.uid
        and old.st_gid == entry.gid
        and old.st_nlink == 1
    )


def _remove(fd: int, name: str, old: os.stat_result | None) -> None:
    if old is None:
        return
    if stat.S_ISDIR(old.st_mode):
        shutil.rmtree(name, dir_fd=fd)
    else:
        os.unlink(name, dir_fd=fd)


def _set_attributes(fd: int, attributes: Mapping[str, bytes]) -> None:
    for name, value in attributes.items():
        if name.startswith(_ATTRIBUTES):
            os.setxattr(fd, name, value)


def _refused(message: str) -> LadingError:
    if "no such file or directory" in message or "not found" in message:
        return NotFoundError(message)
    return UnavailableError(f"the client cannot send its files: {message}")
