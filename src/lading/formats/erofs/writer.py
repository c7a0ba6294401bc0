"""The writer: a tree of nodes in, the metadata image out. File contents lie on external devices and are only pointed to.

The image: superblock and device table, shared attributes, inodes (each directory's with those of its files behind it),
then what does not fit behind an inode (full blocks of directories, long link targets). A file whose content is contiguous
on one device costs one inode: devices have places in the flat address space (``uniaddr``), so no chunk index is needed.
Other files get chunk indexes.

The same tree always gives the same bytes. It is used up by the writer, which numbers its nodes.
"""

import itertools
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import error as StructError  # noqa: N812 -- it is a class
from typing import Final

import msgspec

from lading.errors import InvalidArgumentError, ResourceExhaustedError
from lading.formats.erofs import layout

NO_XATTRS: Final[dict[str, bytes]] = {}
"""The attributes of a node that has none; shared, never changed."""
_NANO: Final = 10**9
_UNIADDR: Final = 1 << 23
"""First block that external devices have in the flat address space: more blocks than any image of ours has."""
_CHUNK: Final = 1 << 18
_INDEXES_MAX: Final = 1 << 20
_U16: Final = 1 << 16
_U32: Final = 1 << 32
_TYPES: Final = {kind >> 12: number for kind, number in layout.FILE_TYPES.items()}
_DEVICE_NODES: Final = (stat.S_IFCHR, stat.S_IFBLK)
_COMPACT_SIZE: Final = layout.COMPACT.size
_EXTENDED_SIZE: Final = layout.EXTENDED.size
_U_PLACE: Final = 16
"""Of ``u``, in both forms of inodes."""
_PLAIN: Final = layout.LAYOUT_PLAIN << layout.FORMAT_LAYOUT_SHIFT
_PLAIN_EXTENDED: Final = _PLAIN | layout.FORMAT_EXTENDED
_pack_compact: Final = layout.COMPACT.pack
_pack_extended: Final = layout.EXTENDED.pack


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


@dataclass(slots=True)
class _Directory:
    node: Node
    parent: Node
    names: list[bytes]
    """In order, ``.`` and ``..`` included."""
    nodes: list[Node]
    """Theirs. Two lists, because pairs would keep the garbage collector busy."""
    starts: list[int]
    """Index of the first entry of each directory block."""
    tail: int
    """Bytes used of the last one."""
    inline: bool = True
    at: int = 0
    """Of its inode, from the first inode."""


def renew(root: Node) -> None:
    """Let a tree that was used up be written once more."""
    pending = [root]
    while pending:
        node = pending.pop()
        node.nlink = node.nid = 0
        if node.children is not None:
            pending += node.children.values()


class ImageWriter:
    """Builds one image from one tree. Blocking, in memory: about 100 bytes per entry besides the tree."""

    def __init__(
        self,
        root: Node,
        devices: Sequence[Device] = (),
        *,
        block_bits: int = 9,
        compact: bool = True,
        flat: bool = True,
        uuid: bytes = bytes(16),
        volume: str = "",
    ) -> None:
        """Lay the image out.

        Args:
            root: The root directory.
            devices: External devices; a node's ``device`` 1 is the first of them.
            block_bits: log2 of the block size, 9 to 12.
            compact: Use inodes of 32 bytes where they can hold the numbers. Linux before 6.15 shows wrong times for them.
            flat: Point to contiguous contents by the flat address space rather than by chunk indexes.
            uuid: Of the file system.
            volume: Its label, up to 15 bytes.

        Raises:
            ErofsTreeError: The tree holds something that has no form on disk.
            ErofsLimitError: It is too large.

        """
        if len(devices) > layout.DEVICES_MAX:
            raise ErofsLimitError(f"{len(devices)} devices are more than an EROFS image can have")
        if not stat.S_ISDIR(root.mode):
            raise ErofsTreeError("the root of an EROFS tree is no directory")
        self._devices = devices
        self._bits = block_bits
        self._size = 1 << block_bits
        self._compact = compact
        self._flat = flat
        self._uuid = uuid
        self._volume = volume.encode()[:15]
        self._uniaddrs = [0]
        self._limits = [0, *[device.blocks for device in devices]]
        address = _UNIADDR
        for device in devices:
            self._uniaddrs.append(address)
            address += device.blocks
        if address > layout.NULL_BLOCK:
            raise ErofsLimitError("the devices of an EROFS image hold more blocks than 32 bits can number")
        self._directories: list[_Directory] = []
        self._uses: Counter[tuple[str, bytes]] = Counter()
        self._xattr_nodes: list[Node] = []
        self._shared: dict[tuple[str, bytes], int] = {}
        self._table = bytearray()  # shared attributes
        self._bodies: dict[tuple[tuple[str, bytes], ...], bytes] = {}
        self._inodes = bytearray(layout.SLOT)  # so that nid 0 is nobody's
        self._blocks: list[bytes] = []  # what stands behind the inodes, in whole blocks
        self._block_count = 0
        self._block_pointers: list[tuple[int, int]] = []  # (place of u in an inode, block behind the inodes)
        self._chunked = False
        self.inodes: int = 0
        """How many the image has."""
        self._gather(root)
        self._share_xattrs()
        self._place()
        self._fill()
        first = layout.SUPER_OFFSET + layout.SUPER.size + len(devices) * layout.DEVICE_SLOT.size
        self._xattr_block = -(-first >> block_bits)
        self._meta_block = self._xattr_block + self._blocks_of(len(self._table))
        self._data_block = self._meta_block + self._blocks_of(len(self._inodes))
        self.blocks: int = self._data_block + self._block_count
        """Length of the image in blocks."""
        if devices and self.blocks > _UNIADDR:
            raise ErofsLimitError("the metadata of an EROFS image is too large")
        for place, block in self._block_pointers:
            self._inodes[place : place + 4] = (self._data_block + block).to_bytes(4, "little")
        self._root = root.nid
        self._directories.clear()  # they take more memory than the image

    def amend(self, node: Node) -> None:
        """Write mode, owner and time of a node again, which have changed; nothing else of it may have.

        Raises:
            ErofsTreeError: A number is out of range, or the inode was small enough for a compact one.

        """
        at = node.nid * layout.SLOT
        form = int.from_bytes(self._inodes[at : at + 2], "little")
        if not form & layout.FORMAT_EXTENDED:
            raise ErofsTreeError("a compact inode of an EROFS image cannot be amended")
        try:
            numbers = layout.NUMBERS.pack(node.mode, node.uid, node.gid, *divmod(node.mtime, _NANO))
        except StructError as exc:
            raise ErofsTreeError("a number in an EROFS tree is out of range") from exc
        for first, end in layout.NUMBERS_AT:
            self._inodes[at + first : at + end], numbers = numbers[: end - first], numbers[end - first :]

    @property
    def size(self) -> int:
        """Length of the image in bytes."""
        return self.blocks << self._bits

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The image, in pieces of at most 256 KiB, to be written one after another."""
        for part in (self._head(), self._padded(self._table), self._padded(self._inodes)):
            view = memoryview(part)
            for at in range(0, len(view), _CHUNK):
                yield view[at : at + _CHUNK]
        gathered: list[bytes] = []
        length = 0
        for block in self._blocks:
            if length + len(block) > _CHUNK and gathered:
                yield b"".join(gathered)
                gathered, length = [], 0
            gathered.append(block)
            length += len(block)
        if gathered:
            yield b"".join(gathered)

    def _blocks_of(self, length: int) -> int:
        return -(-length >> self._bits)

    def _padded(self, part: bytearray) -> bytearray:
        return part + bytes(-len(part) % self._size)

    # First pass: the order of directories and of what is in them, how often each inode is linked, which attributes recur.

    def _gather(self, root: Node) -> None:
        pending = [(root, root)]
        directories = self._directories
        size = self._size
        while pending:
            node, parent = pending.pop()
            if node.nlink or node.children is None:
                raise ErofsTreeError("a directory stands in an EROFS tree twice, or without children")
            node.nlink = 2
            if node.xattrs:
                self._count_xattrs(node)
            children = node.children
            for child in children.values():
                if child.children is None:
                    child.nlink += 1
                    if child.nlink == 1 and child.xattrs:
                        self._count_xattrs(child)
                else:
                    node.nlink += 1
            found = {name.encode("utf-8", "surrogateescape"): child for name, child in children.items()}
            names = _names(found, len(children))
            found[b"."], found[b".."] = node, parent
            nodes = list(map(found.__getitem__, names))
            used = 12 * len(names) + len(b"".join(names))
            starts = [0]
            if used > size:
                used = 0
                for index, name in enumerate(names):
                    need = 12 + len(name)
                    if used + need > size:
                        starts.append(index)
                        used = 0
                    used += need
            directories.append(_Directory(node, parent, names, nodes, starts, used))
            if node.nlink > 2:
                pending += [
                    (child, node)
                    for name, child in zip(reversed(names), reversed(nodes), strict=True)
                    if child.children is not None and name not in _DOTS
                ]

    def _count_xattrs(self, node: Node) -> None:
        self._uses.update(node.xattrs.items())

    def _share_xattrs(self) -> None:
        for (name, value), uses in self._uses.items():
            if uses > 1:
                self._shared[name, value] = len(self._table) // 4
                self._table += _xattr_entry(name, value)

    # Second pass: all inodes but the contents of directories.

    def _place(self) -> None:
        try:
            for directory in self._directories:
                self._place_directory(directory)
                self._place_nodes(directory.nodes)
        except StructError as exc:
            raise ErofsTreeError("a number in an EROFS tree is out of range") from exc

    def _place_nodes(self, nodes: list[Node]) -> None:
        inodes, addresses, limits = self._inodes, self._uniaddrs, self._limits
        bits, round_up = self._bits, self._size - 1
        compact, devices = self._compact, len(limits) if self._flat else 1
        for child in nodes:
            if child.nid:
                continue
            mode = child.mode
            kind = mode & 0o170000
            if kind == 0o040000:
                continue
            if kind != 0o100000:
                if kind == 0o120000:
                    self._place_symlink(child)
                else:
                    self._place_special(child, kind)
                continue
            size, device, block = child.size, child.device, child.block
            if not child.xattrs:
                # What nearly all nodes are, at the price of three functions' bodies written out.
                if not size:
                    address = layout.NULL_BLOCK
                elif 0 < device < devices and block + (size + round_up >> bits) <= limits[device]:
                    address = addresses[device] + block
                else:
                    self._place_file(child)
                    continue
                seconds, fraction = divmod(child.mtime, _NANO)
                child.nid = len(inodes) >> 5
                self.inodes += 1
                if compact and self._is_compact(child, seconds, fraction, size):
                    inodes += _pack_compact(
                        _PLAIN,
                        0,
                        mode,
                        child.nlink,
                        size,
                        seconds,
                        address,
                        self.inodes,
                        child.uid,
                        child.gid,
                        0,
                    )
                else:
                    inodes += _pack_extended(
                        _PLAIN_EXTENDED,
                        0,
                        mode,
                        0,
                        size,
                        address,
                        self.inodes,
                        child.uid,
                        child.gid,
                        seconds,
                        fraction,
                        child.nlink,
                    )
            else:
                self._place_file(child)

    def _inode(self, node: Node, form: int, icount: int, size: int, u: int) -> bytes:
        self.inodes += 1
        seconds, fraction = divmod(node.mtime, _NANO)
        if self._is_compact(node, seconds, fraction, size):
            return layout.COMPACT.pack(
                form, icount, node.mode, node.nlink, size, seconds, u, self.inodes, node.uid, node.gid, 0
            )
        return layout.EXTENDED.pack(
            form | layout.FORMAT_EXTENDED,
            icount,
            node.mode,
            0,
            size,
            u,
            self.inodes,
            node.uid,
            node.gid,
            seconds,
            fraction,
            node.nlink,
        )

    def _is_compact(self, node: Node, seconds: int, fraction: int, size: int) -> bool:
        return (
            self._compact
            and not fraction
            and (node.uid | node.gid | node.nlink) < _U16
            and (size | seconds) < _U32
            and seconds >= 0
        )

    def _inode_size(self, node: Node, size: int) -> int:
        compact = self._is_compact(node, *divmod(node.mtime, _NANO), size)
        return _COMPACT_SIZE if compact else _EXTENDED_SIZE

    def _append(self, node: Node, record: bytes) -> int:
        """Append an inode and what stands behind it; where it begins."""
        inodes = self._inodes
        at = len(inodes)
        node.nid = at >> 5
        inodes += record
        inodes += bytes(-len(record) % layout.SLOT)
        return at

    def _check_device(self, device: int, block: int, length: int) -> None:
        if (
            not 0 < device <= len(self._devices)
            or block + self._blocks_of(length) > self._devices[device - 1].blocks
        ):
            raise ErofsTreeError(f"block {block} and {length} bytes from there are not on device {device}")

    def _place_file(self, node: Node) -> None:
        icount, body = self._xattr_body(node)
        if not node.size:
            record = self._inode(node, _PLAIN, icount, 0, layout.NULL_BLOCK) + body
        elif node.device and self._flat:
            self._check_device(node.device, node.block, node.size)
            record = (
                self._inode(node, _PLAIN, icount, node.size, self._uniaddrs[node.device] + node.block) + body
            )
        else:
            self._chunked = True
            bits, indexes = self._indexes(node)
            form = layout.LAYOUT_CHUNKS << layout.FORMAT_LAYOUT_SHIFT
            record = self._inode(node, form, icount, node.size, layout.CHUNK_INDEXES | bits) + body
            record += bytes(-len(record) % layout.CHUNK_INDEX.size) + indexes
        self._append(node, record)

    def _indexes(self, node: Node) -> tuple[int, bytes]:
        """log2 of blocks per chunk, and the indexes of a file."""
        extents = node.extents or ((Extent(0, node.size, node.device, node.block),) if node.device else ())
        bits = max(0, (self._blocks_of(node.size) - 1).bit_length())
        end = 0
        for extent in extents:
            last = extent.offset + extent.length == node.size
            if (
                extent.offset < end
                or extent.length <= 0
                or (extent.offset | (0 if last else extent.length)) & (self._size - 1)
                or extent.offset + extent.length > node.size
            ):
                raise ErofsTreeError("the extents of a file overlap, are misaligned, or exceed it")
            self._check_device(extent.device, extent.block, extent.length)
            end = extent.offset + extent.length
            # A chunk is as large as every place where something else begins allows.
            for place in (extent.offset, end if end < node.size else 0):
                if place:
                    bits = min(bits, (place & -place).bit_length() - 1 - self._bits)
        bits = min(bits, layout.CHUNK_BITS_MASK)
        chunk = 1 << bits + self._bits
        count = -(-node.size // chunk)
        if count > _INDEXES_MAX:
            raise ErofsLimitError(f"a file of {node.size} bytes is cut into more than {_INDEXES_MAX} chunks")
        hole = layout.CHUNK_INDEX.pack(*layout.NULL_CHUNK)
        indexes: list[bytes] = []
        for extent in extents:
            indexes += [hole] * (extent.offset // chunk - len(indexes))
            indexes += [
                layout.CHUNK_INDEX.pack(0, extent.device, extent.block + (at >> self._bits))
                for at in range(0, extent.length, chunk)
            ]
        indexes += [hole] * (count - len(indexes))
        return bits, b"".join(indexes)

    def _place_symlink(self, node: Node) -> None:
        target = node.target.encode("utf-8", "surrogateescape")
        if not target or b"\0" in target or len(target) > 4095:
            raise ErofsTreeError("the target of a symbolic link is empty, too long, or contains NUL")
        icount, body = self._xattr_body(node)
        need = self._inode_size(node, len(target)) + len(body) + len(target)
        if need <= self._size:
            # Linux follows a link without another read if its inode and target lie in one block.
            room = -len(self._inodes) % self._size
            if need > (room or self._size):
                self._inodes += bytes(room)
            form = layout.LAYOUT_INLINE << layout.FORMAT_LAYOUT_SHIFT
            self._append(node, self._inode(node, form, icount, len(target), 0) + body + target)
            return
        at = self._append(node, self._inode(node, _PLAIN, icount, len(target), 0) + body)
        self._point_to(at)
        self._store(target)

    def _place_special(self, node: Node, kind: int) -> None:
        u = 0
        if kind in _DEVICE_NODES:
            major, minor = _major(node.rdev), _minor(node.rdev)
            # new_encode_dev() of the kernel.
            u = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
            if u >= _U32:
                raise ErofsTreeError(f"device number {major}:{minor} is out of range")
        elif kind >> 12 not in _TYPES:
            raise ErofsTreeError(f"mode {node.mode:o} is of no type of file")
        icount, body = self._xattr_body(node)
        self._append(node, self._inode(node, _PLAIN, icount, 0, u) + body)

    def _point_to(self, at: int) -> None:
        """Let ``u`` of the inode at ``at`` be the next block behind the inodes."""
        self._block_pointers.append((at + _U_PLACE, self._block_count))

    def _store(self, data: bytes) -> None:
        """Add whole blocks behind the inodes."""
        self._blocks.append(data + bytes(-len(data) % self._size))
        self._block_count += self._blocks_of(len(data))

    def _place_directory(self, directory: _Directory) -> None:
        """Reserve the room of a directory: inode, attributes and, if it fits, the last block; see `_fill`."""
        node, tail = directory.node, directory.tail
        full = len(directory.starts) - 1
        size = (full << self._bits) + tail
        icount, body = self._xattr_body(node)
        head = self._inode_size(node, size) + len(body)
        block = self._size
        at = len(self._inodes)
        offset = (at + head) % block
        if offset + tail > block:
            pad = -(-(block - offset) // layout.SLOT) * layout.SLOT
            # Either the inode moves up until its last block lies in one block of the image, or that one stands alone.
            if pad > block - tail or (offset + pad) % block + tail > block:
                directory.inline = False
            else:
                self._inodes += bytes(pad)
        form = (
            layout.LAYOUT_INLINE if directory.inline else layout.LAYOUT_PLAIN
        ) << layout.FORMAT_LAYOUT_SHIFT
        u = 0 if full or not directory.inline else layout.NULL_BLOCK
        record = self._inode(node, form, icount, size, u) + body
        directory.at = self._append(node, record + bytes(tail if directory.inline else 0)) + len(record)
        if not u:
            self._point_to(directory.at - len(record))
            self._block_count += full + (not directory.inline)
            self._blocks.append(b"")

    # Third pass: names, now that all inodes have their numbers.

    def _fill(self) -> None:
        inodes = self._inodes
        slots = iter([index for index, block in enumerate(self._blocks) if not block])
        for directory in self._directories:
            names, nodes, starts = directory.names, directory.nodes, directory.starts
            if len(starts) == 1:
                data = _dirents(names, nodes)
            else:
                data = b"".join(
                    [
                        _dirents(names[start:stop], nodes[start:stop]).ljust(self._size, b"\0")
                        for start, stop in itertools.pairwise(starts)
                    ]
                ) + _dirents(names[starts[-1] :], nodes[starts[-1] :])
            split = len(data)
            if directory.inline:
                split -= directory.tail
                inodes[directory.at : directory.at + directory.tail] = data[split:]
            if split:
                self._blocks[next(slots)] = data[:split] + bytes(-split % self._size)

    # Attributes.

    def _xattr_body(self, node: Node) -> tuple[int, bytes]:
        """xattr_icount and the attributes that stand behind an inode."""
        if not node.xattrs:
            return 0, b""
        key = tuple(node.xattrs.items())
        body = self._bodies.get(key)
        if body is None:
            shared = [self._shared[item] for item in key if item in self._shared][: layout.XATTR_SHARED_MAX]
            ids = set(shared)
            parts = [layout.XATTR_HEADER.pack(0, len(shared))]
            parts += map(layout.XATTR_SHARED_ID.pack, shared)
            parts += [_xattr_entry(*item) for item in key if self._shared.get(item, -1) not in ids]
            body = b"".join(parts)
            if len(self._bodies) < 4096:
                self._bodies[key] = body
        icount = (len(body) - layout.XATTR_HEADER.size) // 4 + 1
        if icount > layout.XATTR_ICOUNT_MAX:
            raise ErofsLimitError("the extended attributes of a file are too large for an EROFS image")
        return icount, body

    # Superblock.

    def _head(self) -> bytearray:
        slots = b"".join(
            [
                layout.DEVICE_SLOT.pack(
                    device.tag.encode()[:64], device.blocks, address if self._flat else 0, 0, 0
                )
                for device, address in zip(self._devices, self._uniaddrs[1:], strict=True)
            ]
        )
        incompat = (layout.INCOMPAT_CHUNKED_FILE if self._chunked else 0) | (
            layout.INCOMPAT_DEVICE_TABLE if self._devices else 0
        )
        table = layout.SUPER_OFFSET + layout.SUPER.size
        head = bytearray(layout.SUPER_OFFSET)
        head += layout.SUPER.pack(
            layout.MAGIC,
            0,
            layout.COMPAT_CHECKSUM | layout.COMPAT_MTIME,
            self._bits,
            0,
            self._root,
            self.inodes,
            0,
            0,
            self.blocks,
            self._meta_block,
            self._xattr_block,
            self._uuid,
            self._volume,
            incompat,
            0,
            len(self._devices),
            table // layout.DEVICE_SLOT.size if self._devices else 0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        )
        head += slots
        head += bytes(-len(head) % self._size)
        place = layout.SUPER_OFFSET + layout.CHECKSUM_OFFSET
        head[place : place + 4] = checksum(head, self._size).to_bytes(4, "little")
        return head


_DOTS: Final = (b".", b"..")


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
    at = 12 * len(names)
    parts: list[bytes] = []
    for name, node in zip(names, nodes, strict=True):
        parts.append(pack(node.nid, at, types[node.mode >> 12]))
        at += len(name)
    return b"".join(parts + names)


def _xattr_entry(name: str, value: bytes) -> bytes:
    split = split_xattr(name)
    if split is None or len(value) >= _U16:
        raise ErofsTreeError(f"extended attribute {name[:80]!r} has no form in an EROFS image")
    index, rest = split
    entry = layout.XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value
    return entry + bytes(-len(entry) % 4)


def split_xattr(name: str) -> tuple[int, bytes] | None:
    """Index and rest of an attribute's name; ``None`` if an image has no form for it."""
    for prefix, index in layout.XATTR_PREFIXES.items():
        if name.startswith(prefix):
            rest = name[len(prefix) :].encode("utf-8", "surrogateescape")
            whole = not prefix.endswith(".")
            return (index, rest) if bool(rest) != whole and len(rest) <= layout.NAME_MAX else None
    return None


def checksum(head: bytes | bytearray, block_size: int) -> int:
    """The checksum of an image that begins with ``head``; its own field counts as zero."""
    start = layout.SUPER_OFFSET
    data = bytearray(head[start : (start // block_size + 1) * block_size])
    data[layout.CHECKSUM_OFFSET : layout.CHECKSUM_OFFSET + 4] = bytes(4)
    table = layout.CRC32C_TABLE
    value = 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value


def _major(device: int) -> int:
    # glibc's gnu_dev_major, as os.major has it; this room does not import os.
    return (device >> 8 & 0xFFF) | (device >> 32 & ~0xFFF)


def _minor(device: int) -> int:
    return (device & 0xFF) | (device >> 12 & ~0xFF & 0xFFFFFFFF)
