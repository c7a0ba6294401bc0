"""Copying files from one tree into another: metadata by descriptors, bytes by the kernel (reflink, else copy_file_range).

The rules of what ends up where are BuildKit's (fsutil's ``copy``): what a directory's own attributes become, what replaces what.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from lading.errors import CancelledError, InvalidArgumentError
from lading.formats.dockerfile.patterns import Matcher
from lading.kit import linux

Owner = tuple[int, int]
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SOURCE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME
_TARGET: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK: Final = 1 << 30
_NO_CLONE: Final = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY}
_SKIPPED_XATTRS: Final = ("trusted.overlay.", "user.overlay.", "security.selinux")


@dataclass(slots=True, kw_only=True)
class Rules:
    """What copies are given. ``mode`` are permission bits, or symbolic; ``time`` nanoseconds since the epoch."""

    owner: Owner | None = None
    mode: int | str | None = None
    time: int | None = None
    include: Matcher | None = None
    exclude: Matcher | None = None
    replace: bool = False
    stopped: Callable[[], bool] = lambda: False

    def admits(self, path: str) -> bool:
        """Whether a path, relative to what is copied, is to be copied."""
        if self.include is not None and not self.include.matches(path):
            return False
        return self.exclude is None or not self.exclude.matches(path)

    @property
    def selective(self) -> bool:
        """Whether anything may be left out."""
        return self.include is not None or self.exclude is not None


@dataclass(slots=True)
class Copier:
    """One copy of one or more things; knows which files are links to each other."""

    rules: Rules
    links: dict[tuple[int, int], tuple[int, str]] = field(
        default_factory=dict[tuple[int, int], tuple[int, str]]
    )
    clones: bool = True
    """Whether the file system may make a file share another's bytes; it says so with the first one."""
    ranges: bool = True
    """As `clones`, for copying within the kernel by ranges; from one mount to another it may not."""
    _kept: list[int] = field(default_factory=list[int])

    def close(self) -> None:
        """Let go of descriptors."""
        for fd in self._kept:
            os.close(fd)
        self._kept.clear()

    def file(self, source: int, name: str, status: os.stat_result, target: int, as_name: str) -> None:
        """Copy what is no directory, in place of whatever file is there."""
        if self.rules.stopped():
            raise CancelledError("the build was cancelled")
        if stat.S_ISSOCK(status.st_mode):
            return
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG and status.st_nlink == 1:
            self._regular(source, name, target, as_name)
            return
        self._make_room(target, as_name)
        if status.st_nlink > 1 and self._link(status, target, as_name):
            return
        if kind == stat.S_IFREG:
            self._regular(source, name, target, as_name)
            return
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), as_name, dir_fd=target)
        else:
            os.mknod(as_name, kind | 0o600, status.st_rdev, dir_fd=target)
        handle = f"/proc/self/fd/{target}/{as_name}"
        uid, gid = self.rules.owner or (status.st_uid, status.st_gid)
        os.chown(handle, uid, gid, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(handle, self._mode(status.st_mode))
        _copy_xattrs(f"/proc/self/fd/{source}/{name}", handle, follow=False)
        self._set_times(as_name, status, dir_fd=target, follow_symlinks=False)

    def _make_room(self, target: int, name: str) -> None:
        try:
            there = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(there.st_mode):
            os.unlink(name, dir_fd=target)
        elif self.rules.replace:
            from lading.builder.ops.files import paths  # noqa: PLC0415 -- rare

            paths.remove(target, name)
        else:
            raise InvalidArgumentError(f"cannot replace the directory {name!r} with a file", subject=name)

    def _link(self, status: os.stat_result, target: int, name: str) -> bool:
        key = (status.st_dev, status.st_ino)
        first = self.links.get(key)
        if first is not None:
            os.link(first[1], name, src_dir_fd=first[0], dst_dir_fd=target, follow_symlinks=False)
            return True
        kept = os.dup(target)
        self._kept.append(kept)
        self.links[key] = (kept, name)
        return False

    def _regular(self, source: int, name: str, target: int, as_name: str) -> None:
        from_fd = os.open(name, _SOURCE, dir_fd=source)
        try:
            status = os.fstat(from_fd)
            to_fd = self._create(target, as_name)
            try:
                self._data(from_fd, to_fd, status.st_size)
                uid, gid = self.rules.owner or (status.st_uid, status.st_gid)
                if uid or gid:
                    os.fchown(to_fd, uid, gid)
                os.fchmod(to_fd, self._mode(status.st_mode))
                _copy_xattrs(from_fd, to_fd)
                self._set_times(to_fd, status)
            finally:
                os.close(to_fd)
        finally:
            os.close(from_fd)

    def _create(self, target: int, name: str) -> int:
        """A new file; most often nothing is in its place, so that is not looked at first."""
        try:
            return os.open(name, _TARGET, 0o600, dir_fd=target)
        except FileExistsError:
            self._make_room(target, name)
            return os.open(name, _TARGET, 0o600, dir_fd=target)

    def _data(self, source: int, target: int, size: int) -> None:
        if not size:
            return
        if self.clones:
            try:
                fcntl.ioctl(target, linux.FICLONE, source)
            except OSError as exc:
                if exc.errno not in _NO_CLONE:
                    raise
                self.clones = False
            else:
                return
        start = 0
        while start < size:
            done = self._range(source, target, start, min(size - start, _CHUNK))
            if not done:
                break
            start += done
            if self.rules.stopped():
                raise CancelledError("the build was cancelled")

    def _range(self, source: int, target: int, start: int, size: int) -> int:
        if self.ranges:
            try:
                return os.copy_file_range(source, target, size, start, start)
            except OSError as exc:
                if exc.errno not in _NO_CLONE or start:
                    raise
                self.ranges = False
        return os.sendfile(target, source, start, size)

    def directory(self, source: int, target: int, path: str = "") -> None:
        """Copy what is in a directory into another."""
        with os.scandir(source) as found:
            entries = list(found)
        for entry in entries:
            place = f"{path}/{entry.name}" if path else entry.name
            if entry.is_dir(follow_symlinks=False):
                self.subdirectory(source, entry.name, target, entry.name, place, overwrite=True)
            elif self.rules.admits(place):
                self.file(source, entry.name, entry.stat(follow_symlinks=False), target, entry.name)

    def subdirectory(
        self, source: int, name: str, target: int, as_name: str, path: str, *, overwrite: bool
    ) -> None:
        """Copy a directory with what is in it; one that is there already takes the attributes if ``overwrite``.

        One that is left out itself is made only if something in it is not.
        """
        from_fd = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            if self.rules.selective and path and not self._any(from_fd, path):
                return
            status = os.fstat(from_fd)
            created = self._make_directory(target, as_name)
            to_fd = os.open(as_name, _DIRECTORY, dir_fd=target)
            try:
                self.directory(from_fd, to_fd, path)
                if created or overwrite:
                    self.attributes(from_fd, status, to_fd)
            finally:
                os.close(to_fd)
        finally:
            os.close(from_fd)

    def _any(self, fd: int, path: str) -> bool:
        """Whether a directory, or anything in it, is to be copied."""
        rules = self.rules
        if rules.admits(path):
            return True
        if rules.include is None and rules.exclude is not None and not rules.exclude.may_hold(path):
            return False
        with os.scandir(fd) as found:
            entries = list(found)
        for entry in entries:
            place = f"{path}/{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                if rules.admits(place):
                    return True
                continue
            below = os.open(entry.name, _DIRECTORY, dir_fd=fd)
            try:
                if self._any(below, place):
                    return True
            finally:
                os.close(below)
        return False

    def _make_directory(self, target: int, name: str) -> bool:
        try:
            os.mkdir(name, 0o700, dir_fd=target)
        except FileExistsError:
            there = os.stat(name, dir_fd=target, follow_symlinks=False)
            if stat.S_ISDIR(there.st_mode):
                return False
            if not self.rules.replace:
                raise InvalidArgumentError(f"cannot copy to non-directory: {name!r}", subject=name) from None
            os.unlink(name, dir_fd=target)
            os.mkdir(name, 0o700, dir_fd=target)
        return True

    def attributes(self, source: int, status: os.stat_result, target: int) -> None:
        """Give a directory what the copied one has, and the rules say. Last, because filling it changes its time."""
        uid, gid = self.rules.owner or (status.st_uid, status.st_gid)
        os.fchown(target, uid, gid)
        os.fchmod(target, self._mode(status.st_mode))
        _copy_xattrs(source, target)
        self._set_times(target, status)

    def times(self, status: os.stat_result, target: int) -> None:
        """Give a directory the time that the copied one has, or the rules say, and nothing else of it."""
        self._set_times(target, status)

    def _mode(self, mode: int) -> int:
        wanted = self.rules.mode
        if wanted is None:
            return stat.S_IMODE(mode)
        if isinstance(wanted, int):
            return wanted
        return symbolic(wanted, mode)

    def _set_times(self, place: int | str, status: os.stat_result, **how: "int | bool") -> None:
        time = self.rules.time
        times = (status.st_atime_ns, status.st_mtime_ns) if time is None else (time, time)
        if isinstance(place, int):
            os.utime(place, ns=times)
        else:
            os.utime(place, ns=times, dir_fd=int(how["dir_fd"]), follow_symlinks=False)


def copy_tree(source: int, target: int) -> None:
    """Copy all of a directory into another, attributes of the top included."""
    copier = Copier(Rules())
    try:
        copier.directory(source, target)
        copier.attributes(source, os.fstat(source), target)
    finally:
        copier.close()


def _copy_xattrs(source: int | str, target: int | str, *, follow: bool = True) -> None:
    try:
        names = os.listxattr(source, follow_symlinks=follow)
    except OSError as exc:
        if exc.errno in (errno.ENOTSUP, errno.EPERM, errno.ENOENT):
            return
        raise
    for name in names:
        if not name.startswith(_SKIPPED_XATTRS):
            with contextlib.suppress(OSError):
                # As BuildKit: what the target's file system cannot keep is no reason to fail.
                value = os.getxattr(source, name, follow_symlinks=follow)
                os.setxattr(target, name, value, follow_symlinks=follow)


_CLAUSE: Final = re.compile(r"([ugoa]*)((?:[-+=][rwxXstugo]*)+)")
_STEP: Final = re.compile(r"([-+=])([rwxXstugo]*)")
_WHO: Final = {"u": 0o4700, "g": 0o2070, "o": 0o0007, "a": 0o6777}
_BITS: Final = {"r": 0o444, "w": 0o222, "x": 0o111}
_SHIFTS: Final = {"u": 6, "g": 3, "o": 0}
_STICKY: Final = 0o1000


def symbolic(text: str, mode: int) -> int:
    """Permission bits after a symbolic change such as ``u=rwX,go-w``. Raises `InvalidArgumentError`.

    As BuildKit reads it, which is setmode(3) of the BSDs: ``X`` looks at what was executable before, ``=`` leaves a sticky bit.
    """
    bits = stat.S_IMODE(mode)
    if re.fullmatch("[0-7]{1,5}", text):
        return int(text, 8)
    executable = bool(stat.S_ISDIR(mode) or bits & 0o111)
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise InvalidArgumentError(f"invalid mode {text!r}", hint="give octal digits, or as for chmod(1)")
        who = 0
        for letter in match[1]:
            who |= _WHO[letter]
        for step in _STEP.finditer(match[2]):
            bits = _apply(step[1], step[2], who, bits, executable=executable)
    return bits


def _apply(sign: str, what: str, who: int, bits: int, *, executable: bool) -> int:
    """One step; without ``who`` it is about everybody."""
    wanted = conditional = 0
    copied = False
    for letter in what:
        if letter in _BITS:
            wanted |= _BITS[letter]
        elif letter == "X":
            wanted |= 0o111 if sign == "-" else 0
            conditional |= 0o111 if sign != "-" and executable else 0
        elif letter == "s":
            wanted |= 0o6000 if who != _WHO["o"] else 0
        elif letter == "t":
            sticky = _STICKY if who != _WHO["o"] else 0
            who |= sticky
            wanted |= sticky
        else:
            bits = _set(sign, wanted, who, bits) if wanted else bits
            bits |= conditional & (who or ~0)
            bits = _copied(sign, letter, who, bits)
            wanted, conditional, copied = 0, 0, True
    if wanted or (sign == "=" and not copied):
        bits = _set(sign, wanted, who, bits)
    return bits | conditional & (who or ~0)


def _set(sign: str, wanted: int, who: int, bits: int) -> int:
    if sign == "=":
        bits &= ~(who or _WHO["a"])
    wanted &= who or ~0
    return bits & ~wanted if sign == "-" else bits | wanted


def _copied(sign: str, letter: str, who: int, bits: int) -> int:
    """Give some what others have."""
    value = bits >> _SHIFTS[letter] & 7
    for shift in _SHIFTS.values():
        if who and not who & 4 << shift:
            continue
        if sign == "=":
            bits &= ~(7 << shift)
        bits = bits & ~(value << shift) if sign == "-" else bits | value << shift
    return bits
