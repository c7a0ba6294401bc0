"""`Devices` whose bytes are all decoded when they are attached: nothing has to serve them, and nothing ends."""

import os
from pathlib import Path

from typing_extensions import override

from lading.core.devices import FILLED_HEADER, Device, Devices, is_complete
from lading.errors import DataLossError
from lading.formats.seek import decoding, index


class MemoryDevices(Devices):
    """Keeps them as ordinary files below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root / "devices"
        self._root.mkdir()
        self._served: set[int] = set()

    @override
    def attach(self, device: Device) -> str:
        content = _content(device)
        Path(self.path(device.number)).write_bytes(content)
        self._served.add(device.number)
        return self.path(device.number)

    @override
    def path(self, number: int) -> str:
        return str(self._root / str(number))

    @override
    def serves(self, number: int) -> bool:
        return number in self._served

    @override
    def close(self) -> None:
        pass


def _content(device: Device) -> bytes:
    """All bytes of a device, from its files or the blob."""
    raw = Path(device.index).read_bytes()
    found = index.decode(raw)
    data, filled = Path(device.data), Path(device.filled)
    if filled.exists() and data.exists():
        known = filled.read_bytes()
        if known[:FILLED_HEADER] == raw[-FILLED_HEADER:] and is_complete(known):
            return data.read_bytes()
    blob = os.pread(device.blob, found.source_length + 1, 0)
    if len(blob) != found.source_length:
        raise DataLossError("the seek index is of another blob")
    ranges = [found.source(number) for number in range(len(found.segments))]
    parts = [decoding.segment(found, number, blob[begin:end]) for number, (begin, end) in enumerate(ranges)]
    content = b"".join(parts).ljust(device.length, b"\0")
    data.write_bytes(content)
    filled.write_bytes(raw[-FILLED_HEADER:] + b"\1" * len(parts))
    return content
