"""Judges of EROFS images: erofs-utils of Debian sid, and the kernel."""

import contextlib
import ctypes
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.newer import NEWER

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def newer_directory() -> Iterator[Path]:
    """A directory that newer programs see under /tmp; skips without erofs-utils."""
    if os.geteuid() or not (NEWER / "usr/bin/fsck.erofs").exists():
        pytest.skip(f"no erofs-utils in {NEWER} (make setup), or not root")
    found = tempfile.mkdtemp(dir=NEWER / "tmp", prefix="lading-erofs-")
    try:
        yield Path(found)
    finally:
        shutil.rmtree(found)


def newer(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a newer program; paths below its root are translated."""
    translated = [str(arg).replace(str(NEWER), "") if isinstance(arg, Path) else arg for arg in argv]
    return subprocess.run(  # noqa: PLW1510 -- the caller judges
        ["chroot", str(NEWER), *translated], capture_output=True, text=True, timeout=60
    )


def fsck(image: bytes, *devices: bytes) -> None:
    """Let fsck.erofs read all of an image."""
    with newer_directory() as place:
        (place / "image").write_bytes(image)
        options: list[str] = []
        for number, device in enumerate(devices):
            (place / f"device{number}").write_bytes(device)
            options.append(f"--device=/tmp/{place.name}/device{number}")
        done = newer("fsck.erofs", *options, "--extract", "--xattrs", place / "image")
        assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def mounted(place: Path, image: bytes, *devices: bytes) -> Iterator[Path]:
    """The image, mounted by the kernel; skips where it cannot."""
    if os.geteuid():
        pytest.skip("mounting takes root")
    (place / "image").write_bytes(image)
    options = []
    for number, device in enumerate(devices):
        (place / f"device{number}").write_bytes(device)
        options.append(f"device={place}/device{number}")
    point = place / "mounted"
    point.mkdir()
    data = ",".join(options).encode() or None
    if _libc.mount(os.fsencode(place / "image"), os.fsencode(point), b"erofs", ctypes.c_ulong(1), data):
        number = ctypes.get_errno()
        point.rmdir()
        if number in (15, 19):  # ENOTBLK, ENODEV
            pytest.skip(f"this kernel mounts no EROFS files: {os.strerror(number)}")
        raise OSError(number, os.strerror(number))
    try:
        yield point
    finally:
        _libc.umount2(os.fsencode(point), 2)
        point.rmdir()


def tree(path: Path) -> dict[str, tuple]:
    """All that the system calls say of a tree."""
    found = {}
    first = {}
    for directory, names, files in os.walk(path):
        names.sort()
        for name in ["", *names, *sorted(files)]:
            place = os.path.join(directory, name) if name else directory
            status = os.lstat(place)
            kind = stat.S_IFMT(status.st_mode)
            relative = os.path.relpath(place, path)
            content = b""
            if kind == stat.S_IFREG:
                content = Path(place).read_bytes()
            elif kind == stat.S_IFLNK:
                content = os.fsencode(os.readlink(place))
            found[relative] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                status.st_rdev,
                status.st_nlink,
                first.setdefault((status.st_dev, status.st_ino), relative),
                {
                    name: os.getxattr(place, name, follow_symlinks=False)
                    for name in os.listxattr(place, follow_symlinks=False)
                },
                content,
            )
    return found
