"""External devices of an image: where they lie in the flat address space, and chunk indexes that point into them."""

from collections.abc import Sequence
from typing import Final

from lading.formats.erofs import layout
from lading.formats.erofs.tree import Device, ErofsLimitError, ErofsTreeError, Extent, Node

FIRST_BLOCK: Final = 1 << 23
"""Of the first device in the flat address space: more blocks than any image of ours has."""
_INDEXES_MAX: Final = 1 << 20


class DeviceTable:
    """The devices, by number from 1."""

    def __init__(self, devices: Sequence[Device], block_bits: int) -> None:
        """Raises `ErofsLimitError` if they are too many or too large."""
        if len(devices) > layout.DEVICES_MAX:
            raise ErofsLimitError(f"{len(devices)} devices are more than an EROFS image can have")
        self._devices = devices
        self._bits = block_bits
        self.addresses = [0]
        """First block of each in the flat address space; the first entry is no device's."""
        self.limits = [0, *[device.blocks for device in devices]]
        """Blocks of each."""
        address = FIRST_BLOCK
        for device in devices:
            self.addresses.append(address)
            address += device.blocks
        if address > layout.NULL_BLOCK:
            raise ErofsLimitError("the devices of an EROFS image hold more blocks than 32 bits can number")

    def __len__(self) -> int:
        return len(self._devices)

    def slots(self, *, flat: bool) -> bytes:
        """The device table; ``flat``: with their places in the flat address space."""
        return b"".join(
            [
                layout.DEVICE_SLOT.pack(device.tag.encode()[:64], device.blocks, address if flat else 0, 0, 0)
                for device, address in zip(self._devices, self.addresses[1:], strict=True)
            ]
        )

    def check(self, device: int, block: int, length: int) -> None:
        """Raise `ErofsTreeError` unless ``length`` bytes from ``block`` are on the device."""
        if not 0 < device < len(self.limits) or block + self._blocks_of(length) > self.limits[device]:
            raise ErofsTreeError(f"block {block} and {length} bytes from there are not on device {device}")

    def chunk_indexes(self, node: Node) -> tuple[int, bytes]:
        """log2 of blocks per chunk, and the indexes of a file.

        Raises:
            ErofsTreeError: Its extents overlap, are misaligned, exceed the file, or are not on their device.
            ErofsLimitError: They cut it into too many chunks.

        """
        extents = node.extents or ((Extent(0, node.size, node.device, node.block),) if node.device else ())
        bits = max(0, (self._blocks_of(node.size) - 1).bit_length())
        end = 0
        for extent in extents:
            last = extent.offset + extent.length == node.size
            if (
                extent.offset < end
                or extent.length <= 0
                or (extent.offset | (0 if last else extent.length)) & ((1 << self._bits) - 1)
                or extent.offset + extent.length > node.size
            ):
                raise ErofsTreeError("the extents of a file overlap, are misaligned, or exceed it")
            self.check(extent.device, extent.block, extent.length)
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

    def _blocks_of(self, length: int) -> int:
        return -(-length >> self._bits)
