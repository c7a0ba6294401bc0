"""File systems on loop devices."""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lading.kit import linux

_LOOP_CONFIGURE, _LOOP_CTL_GET_FREE = 0x4C0A, 0x4C82
_AUTOCLEAR = 4
_CONFIG = struct.Struct("<II" + "QQQQQIIII64s64s32sQQ" + "64x")
"""``struct loop_config`` of linux/loop.h, with its ``loop_info64``."""


def attach(image: Path) -> tuple[int, str]:
    """A loop device on a file: open, and its path. It goes when nobody has it open or mounted any more."""
    with open("/dev/loop-control", "rb") as control:
        while True:
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            loop = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
            try:
                empty = (0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR, b"", b"", b"", 0, 0)
                fcntl.ioctl(loop, _LOOP_CONFIGURE, _CONFIG.pack(backing, 0, *empty))
            except OSError as exc:
                os.close(loop)
                if exc.errno != errno.EBUSY:  # somebody else was faster
                    raise
            else:
                return loop, path
            finally:
                os.close(backing)


@contextmanager
def loop_mount(image: Path, target: Path, type: str, options: str = "") -> Iterator[Path]:
    """Mount the file system in a file; unmounted with all below it."""
    loop, device = attach(image)
    try:
        linux.mount(device, str(target), type, 0, options)
    finally:
        os.close(loop)
    try:
        yield target
    finally:
        for point in linux.mount_points(str(target)):
            try:
                linux.unmount(point)
            except OSError as exc:
                if exc.errno != errno.EINVAL:  # whoever had mounted it was faster
                    raise
