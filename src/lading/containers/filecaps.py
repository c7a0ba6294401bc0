"""``security.capability``, the capabilities that a file gives. Sans-I/O. linux/capability.h, ``struct vfs_ns_cap_data``.

Version 2 counts in the machine's user namespace. Version 3 adds the user who is root in the namespace where it counts; the kernel
takes no other on a mount with a container's owners. Archives have version 2, as Docker's.
"""

import struct
from typing import Final

XATTR: Final = "security.capability"
_SECOND: Final = struct.Struct("<I16s")
_THIRD: Final = struct.Struct("<I16sI")
_REVISION: Final = 0xFF000000
_TWO, _THREE = 0x02000000, 0x03000000


def bound(value: bytes, root: int) -> bytes:
    """The same capabilities where ``root``, a user of the machine, is root; what is no such value stays as it is."""
    if len(value) not in (_SECOND.size, _THIRD.size):
        return value
    magic, sets = _SECOND.unpack_from(value)
    return (
        _THIRD.pack(magic & ~_REVISION | _THREE, sets, root) if magic & _REVISION in (_TWO, _THREE) else value
    )


def portable(value: bytes) -> bytes:
    """The same capabilities as archives have them; what is no such value stays as it is."""
    if len(value) != _THIRD.size:
        return value
    magic, sets, _ = _THIRD.unpack(value)
    return _SECOND.pack(magic & ~_REVISION | _TWO, sets) if magic & _REVISION == _THREE else value
