"""The on-disk format, as far as uncompressed images need it: structures, constants, and nothing that runs.

Source: Linux ``fs/erofs/erofs_fs.h`` and ``Documentation/filesystems/erofs.rst``; all integers are little-endian. An image
begins with a superblock at byte 1024; the device table follows it; inodes are numbered by their place: node ID (nid) times
32 bytes from ``meta_blkaddr``.
"""

import stat
from struct import Struct
from typing import Final

MAGIC: Final = 0xE0F5E1E2
SUPER_OFFSET: Final = 1024
SUPER: Final = Struct("<IIIBBHQQIIII16s16sIHHHBBIQBB2xIQ8x")
"""``struct erofs_super_block``: magic, checksum, feature_compat, blkszbits, sb_extslots, root nid, inos, epoch,
fixed_nsec, blocks, meta_blkaddr, xattr_blkaddr, uuid, volume name, feature_incompat, compression algorithms,
extra_devices, devt_slotoff, dirblkbits, xattr_prefix_count, xattr_prefix_start, packed_nid, xattr filter, ishare prefix,
build_time, 64-bit root nid.
"""
CHECKSUM_OFFSET: Final = 4
"""Of the checksum in the superblock: CRC-32C, initial value all ones, not inverted at the end, over what lies between byte
1024 and the end of its block with this field as zero."""

COMPAT_CHECKSUM: Final = 0x1
COMPAT_MTIME: Final = 0x2
INCOMPAT_CHUNKED_FILE: Final = 0x4
INCOMPAT_DEVICE_TABLE: Final = 0x8

DEVICE_SLOT: Final = Struct("<64sIIHH52x")
"""``struct erofs_deviceslot``: tag, blocks, uniaddr (where the device lies in the flat address space; 0: nowhere), and
the high halves of both."""
DEVICES_MAX: Final = 0xFFFF

SLOT: Final = 32
"""Inodes begin at multiples of this; `SLOT` times nid is an inode's distance from ``meta_blkaddr``."""
COMPACT: Final = Struct("<HHHHIIIIHHI")
"""``struct erofs_inode_compact``: format, xattr_icount, mode, nlink, size, mtime (seconds since the epoch of the
superblock; before Linux 6.15 ignored in favour of that epoch), u, ino, uid, gid, reserved."""
EXTENDED: Final = Struct("<HHHHQIIIIQII16x")
"""``struct erofs_inode_extended``: format, xattr_icount, mode, high half of the start block, size, u, ino, uid, gid, mtime,
mtime_nsec, nlink."""
NUMBERS: Final = Struct("<HIIQI")
"""Mode, uid, gid, mtime and mtime_nsec of an extended inode, which stand in it at `NUMBERS_AT`: three runs of bytes."""
NUMBERS_AT: Final = ((4, 6), (24, 32), (32, 44))
FORMAT_EXTENDED: Final = 0x1
FORMAT_LAYOUT_SHIFT: Final = 1
LAYOUT_PLAIN: Final = 0
"""``u`` is the start block of contiguous data; or a device number for device nodes."""
LAYOUT_INLINE: Final = 2
"""As `LAYOUT_PLAIN`, but the last, partial block stands behind the inode and its attributes, within one block."""
LAYOUT_CHUNKS: Final = 4
"""``u`` is a chunk format; chunk indexes stand behind the inode and its attributes, at a multiple of 8."""
NULL_BLOCK: Final = 0xFFFFFFFF

CHUNK_BITS_MASK: Final = 0x1F
"""Of a chunk format: log2 of blocks per chunk."""
CHUNK_INDEXES: Final = 0x20
"""Of a chunk format: indexes of 8 bytes, not mere block numbers."""
CHUNK_INDEX: Final = Struct("<HHI")
"""``struct erofs_inode_chunk_index``: high half of the block, device (1-based; 0 is the image itself), block."""
NULL_CHUNK: Final = (0xFFFF, 0xFFFF, 0xFFFFFFFF)
"""A hole. Some versions of Linux look at the block alone."""

DIRENT: Final = Struct("<QHBx")
"""``struct erofs_dirent``: nid, offset of the name in this directory block, file type. Names follow the dirents of a block
without gaps; the first one's offset tells how many there are; all names of a directory ascend as unsigned bytes."""
NAME_MAX: Final = 255
FILE_TYPES: Final = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}

XATTR_HEADER: Final = Struct("<IB7x")
"""``struct erofs_xattr_ibody_header``: name filter (0 without the feature), number of shared attributes, whose IDs (u32, byte
offset from ``xattr_blkaddr`` in units of 4) come first. An inode's xattr_icount is the body's size beyond this header in
units of 4, plus 1."""
XATTR_ENTRY: Final = Struct("<BBH")
"""``struct erofs_xattr_entry``: length of name, name index, length of value; then both; padded to a multiple of 4."""
XATTR_SHARED_ID: Final = Struct("<I")
XATTR_ICOUNT_MAX: Final = 0xFFFF
XATTR_SHARED_MAX: Final = 0xFF
XATTR_PREFIXES: Final = {
    "user.": 1,
    "system.posix_acl_access": 2,
    "system.posix_acl_default": 3,
    "trusted.": 4,
    "security.": 6,
}
"""Prefix to name index. Those of the ACLs are whole names."""


def _crc32c_table() -> tuple[int, ...]:
    table: list[int] = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


CRC32C_TABLE: Final = _crc32c_table()
"""Of CRC-32C (Castagnoli, reflected), by byte."""
