"""Whether two trees, unpacked from the same stream, are the same in everything that a layer says: names, attributes, bytes."""

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from lading.snapshots import trees

_CHUNK: Final = 1 << 20
_Place = tuple[int, str]
"""An open directory, and a name in it."""
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _fields(status: os.stat_result) -> dict[str, object]:
    """What a layer says of a file. A directory's size and links are the file system's.

    Its time, like a whiteout's, may be that of unpacking: not every one has an entry in the stream.
    """
    plain = not stat.S_ISDIR(status.st_mode)
    return {
        "type or mode": status.st_mode,
        "owner": (status.st_uid, status.st_gid),
        "device number": status.st_rdev,
        "time": status.st_mtime_ns if plain and not trees.is_whiteout(status) else 0,
        "size": status.st_size if plain else 0,
        "number of links": status.st_nlink if plain else 0,
    }


def difference(tree: int, other: int) -> str:
    """How the first tree differs from the other one, in words, or empty. Takes directory descriptors; blocking."""
    return next(_differences(tree, other), "")


def _differences(tree: int, other: int) -> Iterator[str]:
    yield from _attributes("the root", (tree, "."), (other, "."))
    with closing(trees.walk(tree)) as ours, closing(trees.walk(other)) as theirs:
        # A name that only one of them has shows before they get out of step.
        for (path, fd, entries), (_, other_fd, expected) in zip(ours, theirs, strict=False):
            names, wanted = {each.name for each in entries}, {each.name for each in expected}
            for name in sorted(names ^ wanted):
                yield f"{trees.join(path, name)} is {'missing' if name in wanted else 'too many'}"
            for name in sorted(names & wanted):
                yield from _entry(trees.join(path, name), (fd, name), (other_fd, name))


def _entry(path: str, one: _Place, other: _Place) -> Iterator[str]:
    yield from _attributes(path, one, other)
    mode = _status(one).st_mode
    if stat.S_ISLNK(mode) and os.readlink(one[1], dir_fd=one[0]) != os.readlink(other[1], dir_fd=other[0]):
        yield f"{path} leads elsewhere"
    if stat.S_ISREG(mode) and not same_bytes(trees.handle(*one), trees.handle(*other)):
        yield f"{path} has other bytes"


def _attributes(path: str, one: _Place, other: _Place) -> Iterator[str]:
    found, expected = _fields(_status(one)), _fields(_status(other))
    for name, value in found.items():
        if value != expected[name]:
            yield f"{path} has another {name}"
    if _xattrs(one) != _xattrs(other):
        yield f"{path} has other extended attributes"


def _status(place: _Place) -> os.stat_result:
    return os.stat(place[1], dir_fd=place[0], follow_symlinks=False)


def _xattrs(place: _Place) -> dict[str, bytes]:
    """All of them, also those by which overlayfs marks what a layer hides."""
    path = trees.handle(*place)
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }


def same_bytes(one: str | Path, other: str | Path) -> bool:
    """Whether two files have the same bytes; neither is followed if it is a link. Blocking."""
    first = os.open(one, _READ)
    try:
        second = os.open(other, _READ)
        try:
            offset = 0
            while (data := os.pread(first, _CHUNK, offset)) == os.pread(second, _CHUNK, offset):
                if not data:
                    return True
                offset += len(data)
            return False
        finally:
            os.close(second)
    finally:
        os.close(first)
