"""Files that survive a power cut: write, fsync, rename, fsync the directory."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from typing_extensions import Buffer


def fsync_directory(path: str | Path) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: str | Path, data: Buffer, *, mode: int = 0o600) -> None:
    """Replace a small file so that a crash leaves the old or the new content, whole and durable."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
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


@contextlib.contextmanager
def open_directory(path: str | Path) -> Generator[int]:
    """A file descriptor of a directory, for ``dir_fd`` arguments."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
