"""What an image is made from: nodes in a tree, and the devices that hold their contents."""

from dataclasses import dataclass
from typing import Final

import msgspec

from lading.errors import InvalidArgumentError, ResourceExhaustedError

NO_XATTRS: Final[dict[str, bytes]] = {}
"""The attributes of a node that has none; shared, never changed."""


class ErofsTreeError(InvalidArgumentError):
    """The tree holds something that an EROFS image cannot."""

    code = "invalid-erofs-tree"


class ErofsLimitError(ResourceExhaustedError):
    """The tree is larger than one image can be."""

    code = "erofs-limit"


class Extent(msgspec.Struct, frozen=True, gc=False):
    """Content of a file on a device. What no extent covers is a hole, and reads as zeros."""

    offset: int
    """In the file, in bytes: a multiple of the block size."""
    length: int
    """In bytes. Only the last extent of a file may end within a block."""
    device: int
    """Number of the device, from 1."""
    block: int
    """First block on the device."""


class Node(msgspec.Struct, gc=False):
    """One inode. Used under several names (also of several directories) it is a hard link.

    A struct for the same reason as `lading.formats.tar.entry.Entry`: tens of thousands are made per layer. Nodes of a tree
    must not form a cycle.
    """

    mode: int
    """File type and permission bits, as ``st_mode``."""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    """Nanoseconds since 1970, not negative."""
    size: int = 0
    """Of regular files, in bytes."""
    device: int = 0
    """Of regular files whose content is contiguous: the number of the device that holds it, from 1; otherwise 0."""
    block: int = 0
    """First block on ``device``."""
    xattrs: dict[str, bytes] = NO_XATTRS
    """By full name. ACLs as setxattr(2) takes them."""
    target: str = ""
    """Of symbolic links; text is byte-exact by ``surrogateescape``, as all names are."""
    rdev: int = 0
    """Of device nodes, as `os.makedev` makes it."""
    extents: tuple[Extent, ...] = ()
    """Of regular files without ``device``: ascending, not overlapping."""
    children: "dict[str, Node] | None" = None
    """Of directories, and ``None`` for everything else. Without ``.`` and ``..``."""
    nlink: int = 0
    """Set by the writer."""
    nid: int = 0
    """Set by the writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An external device: a file whose blocks hold contents."""

    blocks: int
    """Whole blocks that the image may point to. The file must be at least as long."""
    tag: str = ""
    """Up to 64 bytes for whoever looks at the image."""


def renew(root: Node) -> None:
    """Let a tree that was used up be written once more."""
    pending = [root]
    while pending:
        node = pending.pop()
        node.nlink = node.nid = 0
        if node.children is not None:
            pending += node.children.values()
