"""Directories of an image: in which order they and their names come, and the blocks that hold the names."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from lading.formats.erofs import layout
from lading.formats.erofs.tree import ErofsTreeError, Node

_TYPES: Final = {kind >> 12: number for kind, number in layout.FILE_TYPES.items()}
_DOTS: Final = (b".", b"..")
_DIRENT_SIZE: Final = layout.DIRENT.size


@dataclass(slots=True)
class Directory:
    """One directory and what is in it."""

    node: Node
    names: list[bytes]
    """In order, ``.`` and ``..`` included."""
    nodes: list[Node]
    """Theirs. Two lists, because pairs would keep the garbage collector busy."""
    starts: list[int]
    """Index of the first entry of each directory block."""
    tail: int
    """Bytes used of the last one."""
    inline: bool = True
    """Whether the last block stands behind the inode; set by the writer."""
    at: int = 0
    """Where, from the first inode; set by the writer."""

    def content(self, block_size: int) -> bytes:
        """Its blocks, the last as far as it is used. All nodes have their numbers."""
        names, nodes, starts = self.names, self.nodes, self.starts
        if len(starts) == 1:
            return _dirents(names, nodes)
        return b"".join(
            [
                _dirents(names[start:stop], nodes[start:stop]).ljust(block_size, b"\0")
                for start, stop in itertools.pairwise(starts)
            ]
        ) + _dirents(names[starts[-1] :], nodes[starts[-1] :])


def gather(
    root: Node, block_size: int, count_xattrs: Callable[[Mapping[str, bytes]], None]
) -> list[Directory]:
    """All directories in order, with the links of all nodes counted; ``count_xattrs`` is told of each node's attributes.

    Raises:
        ErofsTreeError: A directory stands in the tree twice, or a name has no form on disk.

    """
    directories: list[Directory] = []
    pending = [(root, root)]
    while pending:
        node, parent = pending.pop()
        if node.nlink or node.children is None:
            raise ErofsTreeError("a directory stands in an EROFS tree twice, or without children")
        node.nlink = 2
        if node.xattrs:
            count_xattrs(node.xattrs)
        children = node.children
        for child in children.values():
            if child.children is None:
                child.nlink += 1
                if child.nlink == 1 and child.xattrs:
                    count_xattrs(child.xattrs)
            else:
                node.nlink += 1
        found = {name.encode("utf-8", "surrogateescape"): child for name, child in children.items()}
        names = _names(found, len(children))
        found[b"."], found[b".."] = node, parent
        nodes = list(map(found.__getitem__, names))
        used = _DIRENT_SIZE * len(names) + len(b"".join(names))
        starts = [0]
        if used > block_size:
            used = 0
            for index, name in enumerate(names):
                need = _DIRENT_SIZE + len(name)
                if used + need > block_size:
                    starts.append(index)
                    used = 0
                used += need
        directories.append(Directory(node, names, nodes, starts, used))
        if node.nlink > 2:
            pending += [
                (child, node)
                for name, child in zip(reversed(names), reversed(nodes), strict=True)
                if child.children is not None and name not in _DOTS
            ]
    return directories


def _names(found: dict[bytes, Node], count: int) -> list[bytes]:
    """Names of a directory in order, ``.`` and ``..`` included."""
    joined = b"".join(found)
    if (
        b"/" in joined
        or b"\0" in joined
        or b"" in found
        or len(found) != count
        or len(max(found, key=len, default=b"")) > layout.NAME_MAX
    ):
        raise ErofsTreeError(
            f"one of {count} names in a directory cannot be the name of a file, or stands twice"
        )
    if b"." in found or b".." in found:
        raise ErofsTreeError("a directory has an entry named '.' or '..'")
    return sorted([*found, b".", b".."])


def _dirents(names: list[bytes], nodes: list[Node]) -> bytes:
    """One directory block, without what it lacks at its end."""
    pack = layout.DIRENT.pack
    types = _TYPES
    at = _DIRENT_SIZE * len(names)
    parts: list[bytes] = []
    for name, node in zip(names, nodes, strict=True):
        parts.append(pack(node.nid, at, types[node.mode >> 12]))
        at += len(name)
    return b"".join(parts + names)
