"""The reader: what an image says, with every number checked against the image. For tests, fsck, and looking up paths.

It reads uncompressed images as `lading.formats.erofs.writer` and ``mkfs.erofs`` without compression make them, and trusts
nothing: an offset, count or size that leads out of the image, a directory out of order or a cycle is an `ErofsImageError`.
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from struct import error as struct_error
from typing import Any, Final

import msgspec
from typing_extensions import Buffer

from lading.errors import DataLossError
from lading.formats.erofs import layout
from lading.formats.erofs.superblock import checksum
from lading.formats.erofs.tree import Extent

_KNOWN_INCOMPAT: Final = layout.INCOMPAT_CHUNKED_FILE | layout.INCOMPAT_DEVICE_TABLE
_NANO: Final = 10**9
_LAYOUTS: Final = (layout.LAYOUT_PLAIN, layout.LAYOUT_INLINE, layout.LAYOUT_CHUNKS)
_U16: Final = Struct("<H")
_PREFIXES: Final = {index: prefix for prefix, index in layout.XATTR_PREFIXES.items()}
_DEPTH_MAX: Final = 4096
_PATH_MAX: Final = 1 << 16
"""Characters in a path: those of all directories down to the deepest are held at once."""
_SIZE_MAX: Final = 2**63 - 1


class ErofsImageError(DataLossError):
    """An EROFS image is damaged, hostile, or of a kind that is not read here."""

    code = "invalid-erofs-image"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSlot:
    """An external device as the image describes it."""

    tag: str
    blocks: int
    uniaddr: int


class Inode(msgspec.Struct, frozen=True, gc=False):
    """One inode."""

    nid: int
    mode: int
    nlink: int
    uid: int
    gid: int
    mtime: int
    """Nanoseconds since 1970, negative before."""
    size: int
    layout: int
    u: int
    xattr_icount: int
    body: int
    """Where in the image the attributes begin."""

    @property
    def rdev(self) -> int:
        """Device number of a device node, as `os.makedev` makes it; otherwise 0."""
        if stat.S_IFMT(self.mode) not in (stat.S_IFCHR, stat.S_IFBLK):
            return 0
        major, minor = self.u >> 8 & 0xFFF, (self.u & 0xFF) | (self.u >> 12 & 0xFFF00)
        return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & ~0xFF) << 12

    @property
    def xattr_size(self) -> int:
        """Length of the attributes behind the inode."""
        return layout.XATTR_HEADER.size + 4 * (self.xattr_icount - 1) if self.xattr_icount else 0


class Image:
    """An image in memory, or mapped into it."""

    def __init__(self, data: Buffer) -> None:
        """Read the superblock.

        Raises:
            ErofsImageError: It is damaged or asks for something that is not read here.

        """
        self._view = memoryview(data).cast("B")
        fields = self._unpack(layout.SUPER, layout.SUPER_OFFSET)
        (magic, self._checksum, compat, bits, _, root, self.inodes, epoch, nsec, self.blocks, meta, xattr) = (
            fields[:12]
        )
        self.uuid: bytes = fields[12]
        incompat, algorithms, devices, slot = fields[14:18]
        if magic != layout.MAGIC:
            raise ErofsImageError("not an EROFS image")
        if not 9 <= bits <= 16 or fields[18]:
            raise ErofsImageError(f"an EROFS image has blocks of 2**{bits} bytes, which are not read here")
        if incompat & ~_KNOWN_INCOMPAT or algorithms:
            raise ErofsImageError(f"an EROFS image has features ({incompat:#x}) that are not read here")
        self.block_bits: int = bits
        self.block_size = 1 << bits
        if self.blocks << bits > len(self._view):
            raise ErofsImageError("an EROFS image is cut short")
        self._meta: int = meta << bits
        self._shared: int = xattr << bits
        self._epoch = _signed(epoch)  # the kernel does not add build_time
        self._nsec: int = nsec
        self.root: int = root
        if (
            compat & layout.COMPAT_CHECKSUM
            and checksum(bytes(self._view[: self._checked()]), self.block_size) != self._checksum
        ):
            raise ErofsImageError("the superblock of an EROFS image does not match its checksum")
        self.devices = tuple(self._device(slot * layout.DEVICE_SLOT.size, index) for index in range(devices))

    def _checked(self) -> int:
        return (layout.SUPER_OFFSET // self.block_size + 1) * self.block_size

    def _device(self, table: int, index: int) -> DeviceSlot:
        tag, blocks, address, blocks_high, address_high = self._unpack(
            layout.DEVICE_SLOT, table + index * layout.DEVICE_SLOT.size
        )
        return DeviceSlot(
            tag=tag.rstrip(b"\0").decode("utf-8", "replace"),
            blocks=blocks | blocks_high << 32,
            uniaddr=address | address_high << 32,
        )

    def _bytes(self, at: int, length: int) -> memoryview:
        if at < 0 or length < 0 or at + length > len(self._view):
            raise ErofsImageError("an EROFS image points outside itself")
        return self._view[at : at + length]

    def _unpack(self, form: Struct, at: int) -> tuple[Any, ...]:
        return form.unpack(self._bytes(at, form.size))

    def inode(self, nid: int) -> Inode:
        """The inode with this number. Raises `ErofsImageError`."""
        at = self._meta + nid * layout.SLOT
        form: int = self._unpack(_U16, at)[0]
        kind = form >> layout.FORMAT_LAYOUT_SHIFT
        if kind not in _LAYOUTS:
            raise ErofsImageError(f"inode {nid} of an EROFS image has the unknown layout {kind}")
        if form & layout.FORMAT_EXTENDED:
            _, icount, mode, high, size, u, _, uid, gid, mtime, nsec, nlink = self._unpack(
                layout.EXTENDED, at
            )
            body, mtime = at + layout.EXTENDED.size, _signed(mtime)
            if high or nsec >= _NANO:
                raise ErofsImageError(f"inode {nid} of an EROFS image holds numbers that are not read here")
        else:
            _, icount, mode, nlink, size, mtime, u, _, uid, gid, _ = self._unpack(layout.COMPACT, at)
            body = at + layout.COMPACT.size
            mtime, nsec = self._epoch + mtime, self._nsec
        if stat.S_IFMT(mode) not in layout.FILE_TYPES or size > _SIZE_MAX:
            raise ErofsImageError(f"inode {nid} of an EROFS image has mode {mode:o} and size {size}")
        return Inode(nid, mode, nlink, uid, gid, mtime * _NANO + nsec, size, kind, u, icount, body)

    # Contents.

    def _inner(self, inode: Inode) -> bytes:
        """Content that the image itself holds: a directory's, or the target of a link."""
        size = inode.size
        if size > len(self._view):
            raise ErofsImageError(f"inode {inode.nid} of an EROFS image is larger than the image")
        tail = size % self.block_size if inode.layout == layout.LAYOUT_INLINE else 0
        if inode.layout == layout.LAYOUT_CHUNKS:
            raise ErofsImageError(f"directory or link {inode.nid} of an EROFS image consists of chunks")
        if inode.layout == layout.LAYOUT_INLINE and size and not tail:
            tail = self.block_size  # a full last block may stand behind the inode, too
        start = inode.u << self.block_bits
        data = bytes(self._bytes(start, size - tail)) if size > tail else b""
        if tail:
            at = inode.body + inode.xattr_size
            if at % self.block_size + tail > self.block_size:
                raise ErofsImageError(f"the inline data of inode {inode.nid} crosses a block")
            data += self._bytes(at, tail)
        return data

    def readlink(self, inode: Inode) -> str:
        """The target of a symbolic link. Raises `ErofsImageError`."""
        target = self._inner(inode)
        if not stat.S_ISLNK(inode.mode) or not target or len(target) > 4095 or b"\0" in target:
            raise ErofsImageError(f"inode {inode.nid} of an EROFS image is no proper symbolic link")
        return target.decode("utf-8", "surrogateescape")

    def entries(self, inode: Inode) -> dict[str, int]:
        """The nid of every name in a directory but ``.`` and ``..``. Raises `ErofsImageError`."""
        return {
            name.decode("utf-8", "surrogateescape"): nid
            for name, nid, _ in self._dirents(inode)
            if name not in (b".", b"..")
        }

    def _dirents(self, inode: Inode) -> Iterator[tuple[bytes, int, int]]:
        if not stat.S_ISDIR(inode.mode):
            raise ErofsImageError(f"inode {inode.nid} of an EROFS image is no directory")
        data = self._inner(inode)
        before = b""
        for start in range(0, len(data), self.block_size):
            block = data[start : start + self.block_size]
            for name, nid, kind in _block(block, inode.nid):
                if name <= before:
                    raise ErofsImageError(f"directory {inode.nid} of an EROFS image is out of order")
                before = name
                yield name, nid, kind

    def xattrs(self, inode: Inode) -> dict[str, bytes]:
        """The extended attributes of an inode by full name. Raises `ErofsImageError`."""
        if not inode.xattr_icount:
            return {}
        body = self._bytes(inode.body, inode.xattr_size)
        shared: int = layout.XATTR_HEADER.unpack_from(body)[1]
        at = layout.XATTR_HEADER.size + shared * layout.XATTR_SHARED_ID.size
        if at > len(body):
            raise ErofsImageError(f"inode {inode.nid} of an EROFS image has more shared attributes than room")
        found: dict[str, bytes] = {}
        for place in range(layout.XATTR_HEADER.size, at, layout.XATTR_SHARED_ID.size):
            (number,) = layout.XATTR_SHARED_ID.unpack_from(body, place)
            _xattr(self._view, self._shared + 4 * number, found)
        while at < len(body):
            at = _xattr(body, at, found)
        return found

    def extents(self, inode: Inode) -> list[Extent]:
        """Where the content of a regular file lies; holes are left out; device 0 is the image itself.

        Content inline behind an inode (which the writer does not make) is refused. Raises `ErofsImageError`.
        """
        if not stat.S_ISREG(inode.mode) or inode.layout == layout.LAYOUT_INLINE:
            raise ErofsImageError(f"inode {inode.nid} of an EROFS image has no content on a device")
        if not inode.size:
            return []
        if inode.layout == layout.LAYOUT_PLAIN:
            return [self._flat(inode)]
        if not inode.u & layout.CHUNK_INDEXES or inode.u & ~(layout.CHUNK_INDEXES | layout.CHUNK_BITS_MASK):
            raise ErofsImageError(
                f"inode {inode.nid} of an EROFS image has the unknown chunk format {inode.u:#x}"
            )
        bits = self.block_bits + (inode.u & layout.CHUNK_BITS_MASK)
        count = -(-inode.size >> bits)
        at = inode.body + inode.xattr_size
        at += -at % layout.CHUNK_INDEX.size
        raw = self._bytes(at, count * layout.CHUNK_INDEX.size)
        found: list[Extent] = []
        for index, (high, device, block) in enumerate(layout.CHUNK_INDEX.iter_unpack(raw)):
            if block == layout.NULL_BLOCK:
                continue
            offset = index << bits
            length = min(1 << bits, inode.size - offset)
            if high:
                raise ErofsImageError(f"inode {inode.nid} of an EROFS image needs more than 32-bit blocks")
            extent = self._on_device(Extent(offset, length, device, block))
            if found and _joins(found[-1], extent, self.block_bits):
                last = found.pop()
                extent = Extent(last.offset, last.length + length, device, last.block)
            found.append(extent)
        return found

    def _flat(self, inode: Inode) -> Extent:
        for number, device in enumerate(self.devices, 1):
            if device.uniaddr and device.uniaddr <= inode.u < device.uniaddr + device.blocks:
                return self._on_device(Extent(0, inode.size, number, inode.u - device.uniaddr))
        return self._on_device(Extent(0, inode.size, 0, inode.u))

    def _on_device(self, extent: Extent) -> Extent:
        if extent.device > len(self.devices):
            raise ErofsImageError(f"an EROFS image uses device {extent.device} of {len(self.devices)}")
        limit = self.devices[extent.device - 1].blocks if extent.device else self.blocks
        if extent.block + (-(-extent.length >> self.block_bits)) > limit:
            raise ErofsImageError("a file of an EROFS image lies outside its device")
        return extent

    # The tree.

    def lookup(self, path: str) -> Inode | None:
        """The inode at a clean relative path without symbolic links (empty for the root), or ``None``."""
        inode = self.inode(self.root)
        for part in path.split("/") if path else ():
            if not stat.S_ISDIR(inode.mode):
                return None
            nid = self._find(inode, part.encode("utf-8", "surrogateescape"))
            if nid is None:
                return None
            inode = self.inode(nid)
        return inode

    def _find(self, directory: Inode, wanted: bytes) -> int | None:
        for name, nid, _ in self._dirents(directory):
            if name >= wanted:
                return nid if name == wanted else None
        return None

    def walk(self) -> Iterator[tuple[str, Inode]]:
        """Every path with its inode, directories before what is in them, in order of name; the root's path is empty.

        Checks on the way what the kernel trusts: that ``.`` and ``..`` are right, that types in directories are those of
        inodes, and that no directory has two parents. Raises `ErofsImageError`.
        """
        root = self.inode(self.root)
        yield "", root
        if not stat.S_ISDIR(root.mode):
            return
        seen = {root.nid}
        # Paths are made one by one: all those of a directory deep down would be thousands of times the image.
        pending = [("", root, iter(self._below("", root, root.nid)))]
        while pending:
            above, directory, entries = pending[-1]
            entry = next(entries, None)
            if entry is None:
                pending.pop()
                continue
            name, nid = entry
            path = f"{above}/{name}" if above else name
            inode = self.inode(nid)
            yield path, inode
            if not stat.S_ISDIR(inode.mode):
                continue
            if nid in seen or len(pending) > _DEPTH_MAX or len(path) > _PATH_MAX:
                raise ErofsImageError(
                    f"directory {path[:255]!r} of an EROFS image is part of a cycle, or too deep"
                )
            seen.add(nid)
            pending.append((path, inode, iter(self._below(path, inode, directory.nid))))

    def _below(self, path: str, directory: Inode, parent: int) -> list[tuple[str, int]]:
        """Names and nids in a directory, checked as `walk` says."""
        below: list[tuple[str, int]] = []
        dots: dict[bytes, int] = {}
        for name, child, kind in self._dirents(directory):
            if name in (b".", b".."):
                dots[name] = child
                continue
            if layout.FILE_TYPES[stat.S_IFMT(self.inode(child).mode)] != kind:
                raise ErofsImageError(
                    f"the type of {name!r} in directory {path[:255]!r} of an EROFS image is wrong"
                )
            below.append((name.decode("utf-8", "surrogateescape"), child))
        if dots != {b".": directory.nid, b"..": parent}:
            raise ErofsImageError(
                f"directory {path[:255]!r} of an EROFS image does not know itself or its parent"
            )
        return below


def _signed(seconds: int) -> int:
    return seconds - (1 << 64) if seconds >> 63 else seconds


def _joins(first: Extent, second: Extent, bits: int) -> bool:
    return (
        first.device == second.device
        and first.offset + first.length == second.offset
        and first.block + (first.length >> bits) == second.block
    )


def _block(block: bytes, nid: int) -> Iterator[tuple[bytes, int, int]]:
    """Names of one directory block with nid and type."""
    size = layout.DIRENT.size
    try:
        first: int = layout.DIRENT.unpack_from(block)[1]
    except struct_error as exc:
        raise ErofsImageError(f"directory {nid} of an EROFS image is cut short") from exc
    if first < size or first % size or first > len(block):
        raise ErofsImageError(f"directory {nid} of an EROFS image is damaged")
    dirents = list(layout.DIRENT.iter_unpack(block[:first]))
    ends = [offset for _, offset, _ in dirents[1:]] + [len(block)]
    for (child, start, kind), end in zip(dirents, ends, strict=True):
        name = block[start:end]
        if end == len(block):
            name = name.partition(b"\0")[0]
        if (
            not first <= start < end <= len(block)
            or not 0 < len(name) <= layout.NAME_MAX
            or b"/" in name
            or b"\0" in name
        ):
            raise ErofsImageError(f"directory {nid} of an EROFS image holds a damaged name")
        yield name, child, kind


def _xattr(view: memoryview, at: int, found: dict[str, bytes]) -> int:
    try:
        length, index, size = layout.XATTR_ENTRY.unpack_from(view, at)
    except struct_error as exc:
        raise ErofsImageError("an extended attribute of an EROFS image lies outside") from exc
    start = at + layout.XATTR_ENTRY.size
    end = start + length + size
    if end > len(view) or index not in _PREFIXES:
        raise ErofsImageError("an extended attribute of an EROFS image is damaged")
    name = _PREFIXES[index] + bytes(view[start : start + length]).decode("utf-8", "surrogateescape")
    found[name] = bytes(view[start + length : end])
    return end + -end % 4
