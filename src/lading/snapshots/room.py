"""A writable layer that may hold so many bytes and no more: an ext4 file system in a sparse file of that size.

``<snapshot>/room.ext4`` is the file, ``<snapshot>/room`` where it is mounted. Whoever writes beyond its end gets ENOSPC from the
kernel. The mount outlives the daemon, as the container does; after a reboot it is made again when the snapshot is used. A file
that is attached already is never attached twice, even where its mount point is gone (mount(8) sees to that): two mounted copies
of one file system would destroy each other.

A project quota would cost less. It takes a kernel with the quota format, and a file system that was made and mounted for it.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lading.errors import FailedPreconditionError, InvalidArgumentError
from lading.kit import fs, linux

MINIMUM: Final = 16 << 20
"""Bytes below which an ext4 file system has no room for its journal."""
MAXIMUM: Final = 16 << 40
"""Bytes that ext4 with blocks of 4096 bytes can have in one file."""
POINT: Final = "room"
_FILE: Final = "room.ext4"
_PROGRAMS: Final = ("mkfs.ext4", "mount")
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"


def check(size: int) -> None:
    """Whether a layer can be so big, and this machine can make it.

    Raises:
        InvalidArgumentError: The size is out of range.
        FailedPreconditionError: A program is missing.

    """
    if not MINIMUM <= size <= MAXIMUM:
        raise InvalidArgumentError(
            f"a writable layer of {size} bytes is not possible: the least is {MINIMUM >> 20} MiB, the most {MAXIMUM >> 40} TiB"
        )
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        raise FailedPreconditionError(
            f"a writable layer of limited size needs {' and '.join(missing)}",
            hint="install e2fsprogs and util-linux (mount)",
        )


def make(directory: Path, size: int) -> Path:
    """Make and mount the file system of a snapshot; where it is mounted. Blocking. Raises `OSError`."""
    file, point = directory / _FILE, directory / POINT
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
        # No block is kept for root, who is who writes; inode tables are written when they are needed.
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", str(file))  # fmt: skip
        os.fsync(fd)
    finally:
        os.close(fd)
    point.mkdir(mode=0o700)
    enter(directory)
    return point


def enter(directory: Path) -> None:
    """Have the file system mounted. Blocking. Raises `OSError`."""
    if not is_entered(directory):
        _run("mount", "-t", "ext4", "-o", "loop", str(directory / _FILE), str(directory / POINT))


def leave(directory: Path) -> None:
    """Unmount it, if it is; a container that runs in it goes on. Blocking. Raises `OSError`."""
    while is_entered(directory):
        linux.unmount(str(directory / POINT))


def is_entered(directory: Path) -> bool:
    """Whether it is mounted where it should be. Blocking."""
    try:
        return os.stat(directory / POINT).st_dev != os.stat(directory).st_dev
    except FileNotFoundError:
        return False


def flush(directory: Path) -> None:
    """Make durable what is in it. Blocking. Raises `OSError`."""
    fd = os.open(directory / POINT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        linux.syncfs(fd)
    finally:
        os.close(fd)
    with open(directory / _FILE, "rb") as file:
        os.fsync(file.fileno())
    fs.fsync_directory(directory)


def _run(*command: str) -> None:
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        command,
        env={"PATH": _PATH, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise OSError(0, f"{command[0]}: {_words(done.stderr.splitlines())}")


def _words(lines: Sequence[bytes]) -> str:
    return b"; ".join(line.strip() for line in lines if line.strip())[-500:].decode(errors="replace")
