"""The difference between two trees that do not stand on each other: the lower one is made equal to the upper one."""

import os
import stat
from collections.abc import Sequence
from typing import Final

from lading.builder.ops.files import paths
from lading.builder.ops.files.copying import Copier, Rules
from lading.builder.ops.trees import Tree, Trees
from lading.core.snapshots import SnapshotName

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


async def between(trees: Trees, lower: Tree, upper: Tree) -> SnapshotName:
    """A snapshot on top of ``lower`` that shows ``upper``; its own difference is what was asked for."""
    async with trees.active(lower) as active, trees.shown(upper) as mounts:
        await trees.work(active.mounts, [mounts], _mirror)
        return await active.commit()


def _mirror(target: int, sources: Sequence[int]) -> None:
    copier = Copier(Rules(replace=True))
    try:
        _directory(sources[0], target, copier)
    finally:
        copier.close()


def _directory(source: int, target: int, copier: Copier) -> None:
    wanted = {entry.name for entry in os.scandir(source)}
    for name in os.listdir(target):
        if name not in wanted:
            paths.remove(target, name)
    for name in sorted(wanted):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        there = _look(target, name)
        if not stat.S_ISDIR(status.st_mode):
            if there is None or not _same(source, target, name, status, there):
                copier.file(source, name, status, target, name)
            continue
        if there is not None and not stat.S_ISDIR(there.st_mode):
            paths.remove(target, name)
            there = None
        if there is None:
            os.mkdir(name, 0o700, dir_fd=target)
        below, into = os.open(name, _DIRECTORY, dir_fd=source), os.open(name, _DIRECTORY, dir_fd=target)
        try:
            _directory(below, into, copier)
            if there is None or (there.st_mode, there.st_uid, there.st_gid) != (
                status.st_mode,
                status.st_uid,
                status.st_gid,
            ):
                copier.attributes(below, status, into)
        finally:
            os.close(below)
            os.close(into)


def _look(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _same(source: int, target: int, name: str, new: os.stat_result, old: os.stat_result) -> bool:
    facts = [
        (one.st_mode, one.st_uid, one.st_gid, one.st_size, one.st_mtime_ns, one.st_rdev) for one in (new, old)
    ]
    if facts[0] != facts[1]:
        return False
    if stat.S_ISLNK(new.st_mode):
        return os.readlink(name, dir_fd=source) == os.readlink(name, dir_fd=target)
    return True
