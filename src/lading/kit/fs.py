"""Files that survive a power cut: write, fsync, rename, fsync the directory."""

import contextlib
import ctypes
import fcntl
import os
import secrets
from collections.abc import Callable, Generator
from errno import EDQUOT, EINVAL, ENOSPC, ENOSYS, ESPIPE
from pathlib import Path
from typing import Final

from typing_extensions import Buffer

from lading.errors import FailedPreconditionError, ResourceExhaustedError, UnavailableError

_AT_FDCWD: Final = -100
_SHOWN: Final = 200
"""Characters of a name that an error shows."""
_FALLOC_FL_KEEP_SIZE: Final = 1
_RENAME_NOREPLACE: Final = 1
_RENAME_EXCHANGE: Final = 2
_SYNC_FILE_RANGE_WRITE: Final = 2
_SYNC_FILE_RANGE_ALL: Final = 7
_WRITE_OUT: Final = 8 << 20
"""Bytes that `write_out` has on their way to the disk at a time."""
_libc: Final = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def explained(what: str) -> Generator[None]:
    """Let what the kernel refuses be an error of ours, which says ``what`` failed, why, and with what name.

    Raises:
        ResourceExhaustedError: The disk or a quota is full.
        FailedPreconditionError: Anything else.

    """
    try:
        yield
    except OSError as exc:
        kind = ResourceExhaustedError if exc.errno in (ENOSPC, EDQUOT) else FailedPreconditionError
        name = f": {os.fsdecode(exc.filename)[:_SHOWN]!r}" if isinstance(exc.filename, str | bytes) else ""
        raise kind(f"{what}: {(exc.strerror or str(exc)).lower()}{name}") from exc


def fsync_directory(path: str | Path) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directories(path: str | Path, *, mode: int = 0o777) -> None:
    """Make a directory of this mode, and those above it as need be; the entries of the new ones are durable."""
    missing = _missing(Path(path), Path.is_dir)
    for directory in missing:
        directory.mkdir(mode=mode if directory is missing[-1] else 0o777, exist_ok=True)
        fsync_directory(directory.parent)


def make_open_directories(path: str | Path, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Make a directory that others go through, and those above it as need be: new ones of this mode, whatever the umask."""
    for directory in _missing(Path(path), os.path.lexists):
        try:
            directory.mkdir()
        except FileExistsError:
            continue  # somebody else's, who made it meanwhile
        directory.chmod(mode)
        if owner is not None:
            os.chown(directory, *owner)


def _missing(place: Path, is_there: Callable[[Path], bool]) -> list[Path]:
    """A directory and those above it that are not there, the outermost first."""
    missing: list[Path] = []
    while not is_there(place):
        missing.insert(0, place)
        place = place.parent
    return missing


def write_atomic(path: str | Path, data: Buffer, *, mode: int = 0o600) -> None:
    """Replace a small file so that a crash leaves the old or the new content, whole and durable."""
    path = Path(path)
    # Threads may write the same file at once: the last one wins, whole.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
        os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    os.rename(temporary, path)
    fsync_directory(path.parent)


def write_all(fd: int, data: Buffer) -> None:
    """``write(2)`` until all of ``data`` is written."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


def allocate(fd: int, length: int, *, offset: int = 0, keep_size: bool = False) -> None:
    """Reserve disk space for a file; where the file system cannot, nothing happens.

    Raises:
        OSError: ``ENOSPC`` or ``EDQUOT``: there is less. The file may have grown.

    """
    mode = _FALLOC_FL_KEEP_SIZE if keep_size else 0
    if _libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        errno = ctypes.get_errno()
        if errno in (ENOSPC, EDQUOT):
            raise OSError(errno, os.strerror(errno))


def rename_new(source: str | Path, target: str | Path) -> None:
    """Rename without replacing; ``FileExistsError`` if the target is there."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE):
        errno = ctypes.get_errno()
        if errno not in (EINVAL, ENOSYS):
            raise OSError(errno, os.strerror(errno), os.fspath(target))
        os.link(source, target)  # this file system has no such flag; a link does not replace either
        os.unlink(source)


def exchange(first: str | Path, second: str | Path) -> None:
    """Let two files or directories of one file system change places, in one step."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), os.fspath(first))


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Begin writing a range to the disk, so that the fsync at the end has little left to do. A hint; never fails."""
    _libc.sync_file_range(fd, ctypes.c_long(offset), ctypes.c_long(length), _SYNC_FILE_RANGE_WRITE)


def write_out(fd: int) -> None:
    """fsync(2) for a large file that nobody waits for: a piece at a time, so that others' small writes get in between.

    Raises:
        OSError: Of any piece. The data may be lost, whatever a later fsync(2) says.

    """
    size = os.fstat(fd).st_size
    for offset in range(0, size, _WRITE_OUT):
        length = min(_WRITE_OUT, size - offset)
        if _libc.sync_file_range(fd, ctypes.c_long(offset), ctypes.c_long(length), _SYNC_FILE_RANGE_ALL):
            errno = ctypes.get_errno()
            if errno not in (EINVAL, ENOSYS, ESPIPE):
                raise OSError(errno, os.strerror(errno))
            break  # not on this file system
    os.fsync(fd)


def available(path: str | Path) -> int:
    """Bytes that can still be written to the file system of ``path``."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


class Reserve:
    """A file that holds disk space back, so that something can still be deleted when the disk is full.

    It is made when there is plenty of space and given up when the last deletion needs some.
    """

    def __init__(self, path: str | Path, size: int) -> None:
        self.path = Path(path)
        self.size = size
        """Bytes to hold; it may be raised at any time."""
        self._held = 0

    def ensure(self) -> bool:
        """Hold the space if eight times as much is free; whether it is held."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            self._held = 0
        else:
            # A power cut may have left the file without the space, and not every file system tells.
            if max(min(status.st_size, status.st_blocks * 512), self._held) >= self.size:
                return True
        if available(self.path.parent) < 8 * self.size:
            return False
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            allocate(fd, self.size)
        except OSError:
            self.release()
            return False
        finally:
            os.close(fd)
        self._held = self.size
        return True

    def release(self) -> bool:
        """Give the space back; whether there was any."""
        self._held = 0
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            return False
        return True


class LockedError(UnavailableError):
    """Another process has the lock."""

    code = "locked"


class FileLock:
    """An advisory lock of one process on a file that names its holder. The kernel drops it when the process ends."""

    def __init__(self, path: str | Path) -> None:
        """Take the lock.

        Raises:
            LockedError: It is taken.

        """
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise LockedError(
                f"{Path(path).parent} is in use by process {holder}",
                hint="one daemon serves a data-root; end that process or choose another --data-root",
                subject=str(path),
            ) from exc
        except BaseException:
            os.close(self._fd)
            raise
        # A full disk must not keep the daemon from starting: the pid is only for the message of the next one.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let go. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
