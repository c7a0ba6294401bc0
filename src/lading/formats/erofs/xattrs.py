"""Extended attributes of an image: those that recur are stored once, the others behind their inodes."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from lading.formats.erofs import layout
from lading.formats.erofs.tree import ErofsLimitError, ErofsTreeError

_VALUE_MAX: Final = 0xFFFF
_BODIES_KEPT: Final = 4096


class XattrTable:
    """Attributes of all nodes: first `count` them all, then `share`, and then ask for each `body`."""

    def __init__(self) -> None:
        self._uses: Counter[tuple[str, bytes]] = Counter()
        self._shared: dict[tuple[str, bytes], int] = {}
        self._bodies: dict[tuple[tuple[str, bytes], ...], bytes] = {}
        self.area = bytearray()
        """What is shared, to be written at ``xattr_blkaddr``."""

    def count(self, xattrs: Mapping[str, bytes]) -> None:
        """A node has these."""
        self._uses.update(xattrs.items())

    def share(self) -> None:
        """Store those that recur. Raises `ErofsTreeError` if one has no form on disk."""
        for (name, value), uses in self._uses.items():
            if uses > 1:
                self._shared[name, value] = len(self.area) // 4
                self.area += _entry(name, value)

    def body(self, xattrs: Mapping[str, bytes]) -> tuple[int, bytes]:
        """xattr_icount and the attributes that stand behind an inode with these.

        Raises:
            ErofsTreeError: One has no form on disk.
            ErofsLimitError: They are too large for one inode.

        """
        if not xattrs:
            return 0, b""
        key = tuple(xattrs.items())
        body = self._bodies.get(key)
        if body is None:
            shared = [self._shared[item] for item in key if item in self._shared][: layout.XATTR_SHARED_MAX]
            ids = set(shared)
            parts = [layout.XATTR_HEADER.pack(0, len(shared))]
            parts += map(layout.XATTR_SHARED_ID.pack, shared)
            parts += [_entry(*item) for item in key if self._shared.get(item, -1) not in ids]
            body = b"".join(parts)
            if len(self._bodies) < _BODIES_KEPT:
                self._bodies[key] = body
        icount = (len(body) - layout.XATTR_HEADER.size) // 4 + 1
        if icount > layout.XATTR_ICOUNT_MAX:
            raise ErofsLimitError("the extended attributes of a file are too large for an EROFS image")
        return icount, body


def _entry(name: str, value: bytes) -> bytes:
    split = split_name(name)
    if split is None or len(value) > _VALUE_MAX:
        raise ErofsTreeError(f"extended attribute {name[:80]!r} has no form in an EROFS image")
    index, rest = split
    entry = layout.XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value
    return entry + bytes(-len(entry) % 4)


def split_name(name: str) -> tuple[int, bytes] | None:
    """Index and rest of an attribute's name; ``None`` if an image has no form for it."""
    for prefix, index in layout.XATTR_PREFIXES.items():
        if name.startswith(prefix):
            rest = name[len(prefix) :].encode("utf-8", "surrogateescape")
            whole = not prefix.endswith(".")
            return (index, rest) if bool(rest) != whole and len(rest) <= layout.NAME_MAX else None
    return None
