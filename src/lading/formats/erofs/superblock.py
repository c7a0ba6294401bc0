"""The head of an image: the superblock with its checksum, and the device table behind it."""

from lading.formats.erofs import layout


def length(devices: int) -> int:
    """Bytes of the head with so many devices."""
    return layout.SUPER_OFFSET + layout.SUPER.size + devices * layout.DEVICE_SLOT.size


def pack(
    *,
    block_bits: int,
    root: int,
    inodes: int,
    blocks: int,
    xattr_block: int,
    meta_block: int,
    uuid: bytes,
    volume: bytes,
    chunked: bool,
    slots: bytes,
) -> bytearray:
    """The head, in whole blocks. ``root`` is a node ID, ``slots`` the device table; ``chunked``: an inode has chunk indexes."""
    incompat = (layout.INCOMPAT_CHUNKED_FILE if chunked else 0) | (
        layout.INCOMPAT_DEVICE_TABLE if slots else 0
    )
    table = layout.SUPER_OFFSET + layout.SUPER.size
    head = bytearray(layout.SUPER_OFFSET)
    head += layout.SUPER.pack(
        layout.MAGIC,
        0,
        layout.COMPAT_CHECKSUM | layout.COMPAT_MTIME,
        block_bits,
        0,
        root,
        inodes,
        0,
        0,
        blocks,
        meta_block,
        xattr_block,
        uuid,
        volume,
        incompat,
        0,
        len(slots) // layout.DEVICE_SLOT.size,
        table // layout.DEVICE_SLOT.size if slots else 0,
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
    head += bytes(-len(head) % (1 << block_bits))
    place = layout.SUPER_OFFSET + layout.CHECKSUM_OFFSET
    head[place : place + 4] = checksum(head, 1 << block_bits).to_bytes(4, "little")
    return head


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
