"""The writer: a tree of nodes in, the metadata image out. File contents lie on external devices and are only pointed to.

The image: superblock and device table, shared attributes, inodes (each directory's with those of its files behind it),
then what does not fit behind an inode (full blocks of directories, long link targets). A file whose content is contiguous
on one device costs one inode: devices have places in the flat address space (``uniaddr``), so no chunk index is needed.
Other files get chunk indexes.

The same tree always gives the same bytes. It is used up by the writer, which numbers its nodes.
"""

import stat
from collections.abc import Iterator, Sequence
from struct import error as StructError  # noqa: N812 -- it is a class
from typing import Final

from lading.formats.erofs import directories, layout, superblock
from lading.formats.erofs.devices import FIRST_BLOCK, DeviceTable
from lading.formats.erofs.directories import Directory
from lading.formats.erofs.tree import Device, ErofsLimitError, ErofsTreeError, Node
from lading.formats.erofs.xattrs import XattrTable

_NANO: Final = 10**9
_CHUNK: Final = 1 << 18
_U16: Final = 1 << 16
_U32: Final = 1 << 32
_DEVICE_NODES: Final = (stat.S_IFCHR, stat.S_IFBLK)
_COMPACT_SIZE: Final = layout.COMPACT.size
_EXTENDED_SIZE: Final = layout.EXTENDED.size
_U_PLACE: Final = 16
"""Of ``u``, in both forms of inodes."""
_PLAIN: Final = layout.LAYOUT_PLAIN << layout.FORMAT_LAYOUT_SHIFT
_PLAIN_EXTENDED: Final = _PLAIN | layout.FORMAT_EXTENDED
_pack_compact: Final = layout.COMPACT.pack
_pack_extended: Final = layout.EXTENDED.pack


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
        self._devices = DeviceTable(devices, block_bits)
        if not stat.S_ISDIR(root.mode):
            raise ErofsTreeError("the root of an EROFS tree is no directory")
        self._bits = block_bits
        self._size = 1 << block_bits
        self._compact = compact
        self._flat = flat
        self._uuid = uuid
        self._volume = volume.encode()[:15]
        self._xattrs = XattrTable()
        self._inodes = bytearray(layout.SLOT)  # so that nid 0 is nobody's
        self._blocks: list[bytes] = []  # what stands behind the inodes, in whole blocks
        self._block_count = 0
        self._block_pointers: list[tuple[int, int]] = []  # (place of u in an inode, block behind the inodes)
        self._chunked = False
        self.inodes: int = 0
        """How many the image has."""
        self._directories = directories.gather(root, self._size, self._xattrs.count)
        self._xattrs.share()
        self._place()
        self._fill()
        self._xattr_block = self._blocks_of(superblock.length(len(devices)))
        self._meta_block = self._xattr_block + self._blocks_of(len(self._xattrs.area))
        self._data_block = self._meta_block + self._blocks_of(len(self._inodes))
        self.blocks: int = self._data_block + self._block_count
        """Length of the image in blocks."""
        if devices and self.blocks > FIRST_BLOCK:
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
        for part in (self._head(), self._padded(self._xattrs.area), self._padded(self._inodes)):
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

    # First pass: all inodes but the contents of directories.

    def _place(self) -> None:
        try:
            for directory in self._directories:
                self._place_directory(directory)
                self._place_nodes(directory.nodes)
        except StructError as exc:
            raise ErofsTreeError("a number in an EROFS tree is out of range") from exc

    def _place_nodes(self, nodes: list[Node]) -> None:
        inodes, addresses, limits = self._inodes, self._devices.addresses, self._devices.limits
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

    def _place_file(self, node: Node) -> None:
        icount, body = self._xattrs.body(node.xattrs)
        if not node.size:
            record = self._inode(node, _PLAIN, icount, 0, layout.NULL_BLOCK) + body
        elif node.device and self._flat:
            self._devices.check(node.device, node.block, node.size)
            record = (
                self._inode(
                    node, _PLAIN, icount, node.size, self._devices.addresses[node.device] + node.block
                )
                + body
            )
        else:
            self._chunked = True
            bits, indexes = self._devices.chunk_indexes(node)
            form = layout.LAYOUT_CHUNKS << layout.FORMAT_LAYOUT_SHIFT
            record = self._inode(node, form, icount, node.size, layout.CHUNK_INDEXES | bits) + body
            record += bytes(-len(record) % layout.CHUNK_INDEX.size) + indexes
        self._append(node, record)

    def _place_symlink(self, node: Node) -> None:
        target = node.target.encode("utf-8", "surrogateescape")
        if not target or b"\0" in target or len(target) > 4095:
            raise ErofsTreeError("the target of a symbolic link is empty, too long, or contains NUL")
        icount, body = self._xattrs.body(node.xattrs)
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
        elif kind not in layout.FILE_TYPES:
            raise ErofsTreeError(f"mode {node.mode:o} is of no type of file")
        icount, body = self._xattrs.body(node.xattrs)
        self._append(node, self._inode(node, _PLAIN, icount, 0, u) + body)

    def _point_to(self, at: int) -> None:
        """Let ``u`` of the inode at ``at`` be the next block behind the inodes."""
        self._block_pointers.append((at + _U_PLACE, self._block_count))

    def _store(self, data: bytes) -> None:
        """Add whole blocks behind the inodes."""
        self._blocks.append(data + bytes(-len(data) % self._size))
        self._block_count += self._blocks_of(len(data))

    def _place_directory(self, directory: Directory) -> None:
        """Reserve the room of a directory: inode, attributes and, if it fits, the last block; see `_fill`."""
        node, tail = directory.node, directory.tail
        full = len(directory.starts) - 1
        size = (full << self._bits) + tail
        icount, body = self._xattrs.body(node.xattrs)
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

    # Second pass: names, now that all inodes have their numbers.

    def _fill(self) -> None:
        inodes = self._inodes
        slots = iter([index for index, block in enumerate(self._blocks) if not block])
        for directory in self._directories:
            data = directory.content(self._size)
            split = len(data)
            if directory.inline:
                split -= directory.tail
                inodes[directory.at : directory.at + directory.tail] = data[split:]
            if split:
                self._blocks[next(slots)] = data[:split] + bytes(-split % self._size)

    def _head(self) -> bytearray:
        return superblock.pack(
            block_bits=self._bits,
            root=self._root,
            inodes=self.inodes,
            blocks=self.blocks,
            xattr_block=self._xattr_block,
            meta_block=self._meta_block,
            uuid=self._uuid,
            volume=self._volume,
            chunked=self._chunked,
            slots=self._devices.slots(flat=self._flat),
        )


def _major(device: int) -> int:
    # glibc's gnu_dev_major, as os.major has it; this room does not import os.
    return (device >> 8 & 0xFFF) | (device >> 32 & ~0xFFF)


def _minor(device: int) -> int:
    return (device & 0xFF) | (device >> 12 & ~0xFF & 0xFFFFFFFF)
