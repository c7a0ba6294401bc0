"""File systems for tests: what is flushed or filled there concerns nobody else."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lading.kit import linux


@contextmanager
def tmpfs(target: Path, options: str = "size=512m") -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    linux.mount("tmpfs", str(target), "tmpfs", 0, options)
    try:
        yield target
        assert [point for point in linux.mount_points(str(target)) if point != str(target)] == []
    finally:
        linux.unmount(str(target))


def left_mounted(root: Path) -> list[str]:
    """The mounts below ``root`` that stay: whoever serves devices ends a moment after the last reader, on a busy machine a long one."""
    until = time.monotonic() + 20
    while (left := linux.mount_points(str(root))) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def open_descriptors() -> set[str]:
    """What this process has open, by number and target."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue
    return found
