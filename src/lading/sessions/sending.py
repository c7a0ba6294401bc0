"""Sending a tree: fsutil's exchange from directories on our disk. Everything here blocks, and belongs on a data thread."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from lading.core.session import TreePart
from lading.formats.buildkit import filemode
from lading.formats.buildkit._pb.fsutil_pb2 import Packet, Stat
from lading.kit import linux

PIECE: Final = 256 * 1024
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REGULAR_MODE: Final = 0o644
_DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755


class Sender:
    """A tree of several parts, walked once; files are then read by their number in the walk."""

    def __init__(self, parts: Sequence[TreePart], *, epoch: int | None = None) -> None:
        self._parts = sorted(parts, key=lambda part: os.fsencode(part.prefix))
        self._epoch = epoch
        self._places: list[tuple[TreePart, str]] = []
        self._inodes: dict[tuple[int, int], str] = {}

    def walk(self) -> Iterator[Packet]:
        """Every entry in path order, and the end of the walk."""
        for part in self._parts:
            if part.prefix:
                now = (self._epoch or 0) * 10**9
                if part.root is not None and self._epoch is None:
                    now = os.stat(part.root).st_mtime_ns
                yield self._packet(
                    part, "", Stat(path=part.prefix, mode=filemode.from_unix(_DIRECTORY_MODE), mod_time=now)
                )
            yield from self._walk_part(part)
        yield Packet(type=Packet.STAT)

    def _walk_part(self, part: TreePart) -> Iterator[Packet]:
        fd = os.open(part.root, _DIRECTORY) if part.root is not None else -1
        try:
            yield from self._walk(part, fd, "")
        finally:
            if fd >= 0:
                os.close(fd)

    def _walk(self, part: TreePart, fd: int, below: str) -> Iterator[Packet]:
        names = set(os.listdir(fd)) if fd >= 0 else set[str]()
        extra: Mapping[str, bytes] = part.files if not below else {}
        for name in sorted(names | set(extra), key=os.fsencode):
            inner = f"{below}/{name}" if below else name
            path = f"{part.prefix}/{inner}" if part.prefix else inner
            if name in extra:
                time = (self._epoch or 0) * 10**9
                entry = Stat(path=path, mode=_REGULAR_MODE, size=len(extra[name]), mod_time=time)
                yield self._packet(part, inner, entry)
                continue
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            yield self._packet(part, inner, self._entry(fd, name, path, info))
            if stat.S_ISDIR(info.st_mode):
                child = os.open(name, _DIRECTORY, dir_fd=fd)
                try:
                    yield from self._walk(part, child, inner)
                finally:
                    os.close(child)

    def _entry(self, fd: int, name: str, path: str, info: os.stat_result) -> Stat:
        mode = info.st_mode
        time = info.st_mtime_ns if self._epoch is None else self._epoch * 10**9
        entry = Stat(
            path=path, mode=filemode.from_unix(mode), uid=info.st_uid, gid=info.st_gid, mod_time=time
        )
        if stat.S_ISREG(mode):
            entry.size = info.st_size
            if info.st_nlink > 1:
                first = self._inodes.setdefault((info.st_dev, info.st_ino), path)
                if first != path:
                    entry.linkname = first
        elif stat.S_ISLNK(mode):
            entry.linkname = os.readlink(name, dir_fd=fd)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            entry.devmajor, entry.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
        return entry

    def _packet(self, part: TreePart, inner: str, entry: Stat) -> Packet:
        self._places.append((part, inner))
        return Packet(type=Packet.STAT, stat=entry)

    def open(self, number: int) -> int | bytes | None:
        """The file with this number: a descriptor, its bytes, or ``None`` if there is no such file."""
        if number >= len(self._places):
            return None
        part, inner = self._places[number]
        if inner in part.files:
            return part.files[inner]
        if part.root is None:
            return None
        root = os.open(part.root, _DIRECTORY)
        try:
            fd = linux.openat2(
                root, inner, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, linux.RESOLVE_NO_SYMLINKS
            )
        except OSError:
            return None
        finally:
            os.close(root)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        return fd
