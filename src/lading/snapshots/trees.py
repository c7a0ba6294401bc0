"""Directory trees that strangers filled: walked, measured, copied and removed without following a link.

Every directory is opened by its path below a root with openat2(2), so that neither depth nor links swapped meanwhile
lead out of the tree, and no more than two directories are open at a time.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Generator, Iterator
from typing import Final

from lading.core.snapshots import Usage
from lading.kit import linux

OVERLAY_XATTRS: Final = ("trusted.overlay.", "user.overlay.")
"""Overlayfs's own attributes: they steer the mount, so they are never taken from an image nor shown as content."""
_TRUSTED, _USER = OVERLAY_XATTRS
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_INSIDE: Final = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS | linux.RESOLVE_NO_SYMLINKS
_VANISHED: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_PATH_MAX: Final = 3800
_COPY_CHUNK: Final = 1 << 30


def overlay_xattrs() -> str:
    """The prefix that overlayfs reads here: ``trusted`` attributes can be set by root of the machine alone."""
    return _USER if linux.in_user_namespace() else _TRUSTED


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Generator[int]:
    """A file descriptor of a directory of ours."""
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def open_below(root: int, path: str) -> int:
    """Open a directory by its link-free path below ``root``, however long it is."""
    fd = -1
    while len(path) > _PATH_MAX:
        cut = path.rfind("/", 0, _PATH_MAX)
        step = linux.openat2(root if fd < 0 else fd, path[:cut], _DIRECTORY, _INSIDE)
        if fd >= 0:
            os.close(fd)
        fd, path = step, path[cut + 1 :]
    if fd < 0:
        return linux.openat2(root, path, _DIRECTORY, _INSIDE)
    try:
        return linux.openat2(fd, path, _DIRECTORY, _INSIDE)
    finally:
        os.close(fd)


@contextlib.contextmanager
def below(root: int, path: str) -> Generator[int]:
    """`open_below` for the time of a block."""
    fd = open_below(root, path)
    try:
        yield fd
    finally:
        os.close(fd)


def join(parent: str, name: str) -> str:
    """A path below the root; the root itself is empty."""
    return f"{parent}/{name}" if parent else name


def _enter(root: int, path: str) -> int | None:
    """A descriptor of a directory of the tree, to be closed; ``None`` for what is none any more."""
    try:
        return open_below(root, path)
    except OSError as exc:
        if path and exc.errno in _VANISHED:
            return None
        raise


def walk(root: int) -> Generator[tuple[str, int, list[os.DirEntry[str]]]]:
    """Every directory of a tree before its children, in order of name: its path, its open descriptor, its entries.

    The tree may be in use: what is no directory any more when its turn comes is passed over.
    """
    pending = [""]
    while pending:
        path = pending.pop()
        fd = _enter(root, path)
        if fd is None:
            continue
        try:
            with os.scandir(fd) as found:
                entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
            yield path, fd, entries
        finally:
            os.close(fd)
        pending += [
            join(path, entry.name) for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)
        ]


def look(directory: int, name: str) -> os.stat_result | None:
    """lstat(2), and nothing for what is gone."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def usage(root: int) -> Usage:
    """Allocated bytes and inodes of a tree, each inode counted once, the root included."""
    top = os.fstat(root)
    size, inodes = top.st_blocks * 512, 1
    linked: set[int] = set()
    for status in _statuses(root):
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in linked:
                continue
            linked.add(status.st_ino)
        size += status.st_blocks * 512
        inodes += 1
    return Usage(size=size, inodes=inodes)


def _statuses(root: int) -> Generator[os.stat_result]:
    """Of everything below a directory, in no order; what is gone meanwhile is passed over."""
    pending = [""]
    while pending:
        path = pending.pop()
        fd = _enter(root, path)
        if fd is None:
            continue
        try:
            with os.scandir(fd) as found:
                for entry in found:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(join(path, entry.name))
                    yield status
        finally:
            os.close(fd)


def remove(parent: int, name: str, removed: Callable[[os.stat_result], None] | None = None) -> None:
    """Delete a directory and all below it; ``removed`` is told what each thing was.

    What vanishes meanwhile is fine.
    """
    try:
        root = os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        top = os.fstat(root)
        directories = [""]
        for path, fd, entries in walk(root):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(join(path, entry.name))
                    continue
                if removed is not None:
                    removed(os.stat(entry.name, dir_fd=fd, follow_symlinks=False))
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.name, dir_fd=fd)
        # Deepest first: a path sorts after all that it lies in.
        for path in sorted(directories[1:], key=lambda path: path.count("/"), reverse=True):
            above, _, base = path.rpartition("/")
            with below(root, above) as fd:
                if removed is not None:
                    removed(os.stat(base, dir_fd=fd, follow_symlinks=False))
                os.rmdir(base, dir_fd=fd)
        if removed is not None:
            removed(top)
    finally:
        os.close(root)
    os.rmdir(name, dir_fd=parent)


def handle(directory: int, name: str) -> str:
    """A path for calls that take no ``dir_fd``; the last component is for them not to follow."""
    return f"/proc/self/fd/{directory}/{name}"


def get_xattrs(path: str | int, *, follow: bool = False) -> dict[str, bytes]:
    """The extended attributes of a file, without overlayfs's own. ``follow`` is for descriptors and paths that stand for one."""
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as exc:
        if exc.errno in (errno.ENOTSUP, errno.EPERM, errno.ENOENT):
            return {}
        raise
    found: dict[str, bytes] = {}
    for name in sorted(names):
        if not name.startswith(OVERLAY_XATTRS) and name != "security.selinux":
            try:
                found[name] = os.getxattr(path, name, follow_symlinks=follow)
            except OSError as exc:
                if exc.errno not in (errno.ENODATA, errno.ENOENT):
                    raise
    return found


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is overlayfs's mark that a name of the layers below is gone."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: str | int) -> bool:
    """Whether a directory hides what the layers below have in it."""
    for name in ("trusted.overlay.opaque", "user.overlay.opaque"):
        try:
            if os.getxattr(directory, name) == b"y":
                return True
        except OSError as exc:
            if exc.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.ENOENT):
                raise
    return False


def apply(source: str, status: os.stat_result, target: str) -> None:
    """Give ``target`` owner, attributes, mode and times of ``source``; neither is followed if it is a link."""
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    wanted = get_xattrs(source)
    for name in get_xattrs(target):
        if name not in wanted:
            os.removexattr(target, name, follow_symlinks=False)
    for name, value in wanted.items():
        os.setxattr(target, name, value, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        fd = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(status.st_mode))
        finally:
            os.close(fd)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def copy(source: int, target: int) -> None:
    """Copy a tree into an empty directory with all that a file system remembers; extents are shared where they can be."""
    links: dict[int, str] = {}
    directories: list[tuple[str, os.stat_result]] = [("", os.fstat(source))]
    for path, from_fd, entries in walk(source):
        with below(target, path) as to_fd:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                place = join(path, entry.name)
                if stat.S_ISDIR(status.st_mode):
                    os.mkdir(entry.name, 0o700, dir_fd=to_fd)
                    directories.append((place, status))
                elif status.st_nlink > 1 and status.st_ino in links:
                    above, _, base = links[status.st_ino].rpartition("/")
                    with below(target, above) as first:
                        os.link(base, entry.name, src_dir_fd=first, dst_dir_fd=to_fd, follow_symlinks=False)
                else:
                    copy_entry(from_fd, entry.name, status, to_fd)
                    if status.st_nlink > 1:
                        links[status.st_ino] = place
    # Last, and deepest first, because making entries changes times and default ACLs change entries.
    for path, status in reversed(directories):
        with below(source, path) as from_fd, below(target, path) as to_fd:
            apply(handle(from_fd, "."), status, handle(to_fd, "."))


def copy_entry(from_fd: int, name: str, status: os.stat_result, to_fd: int) -> None:
    """Copy one thing that is no directory to the same name in another directory."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        _copy_data(from_fd, name, status.st_size, to_fd)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=from_fd), name, dir_fd=to_fd)
    else:
        os.mknod(name, kind | 0o600, status.st_rdev, dir_fd=to_fd)
    apply(handle(from_fd, name), status, handle(to_fd, name))


def _copy_data(from_fd: int, name: str, size: int, to_fd: int) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=from_fd)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(name, flags, 0o600, dir_fd=to_fd)
        try:
            if not size:
                return
            try:
                fcntl.ioctl(target, linux.FICLONE, source)
            except OSError:  # not every file system shares extents
                os.ftruncate(target, size)
                for start, end in runs(source, size):
                    _copy_run(source, target, start, end)
        finally:
            os.close(target)
    finally:
        os.close(source)


def runs(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data: (start, end), ascending. lseek(2), ``SEEK_DATA``."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def _copy_run(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        length = min(end - start, _COPY_CHUNK)
        done = os.copy_file_range(source, target, length, offset_src=start, offset_dst=start)
        if not done:
            return
        start += done
