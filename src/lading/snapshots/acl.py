"""POSIX ACLs as setxattr(2) takes them, and what the kernel does with them when a file is made from an archive.

Source: Linux ``include/uapi/linux/posix_acl_xattr.h`` and ``fs/posix_acl.c``. A file system that the kernel writes checks an ACL
when it is set and fits it to the mode afterwards; one that we write ourselves has to be given the result.
"""

import errno
import os
from struct import Struct
from typing import Final

from lading.errors import InvalidArgumentError

ACCESS: Final = "system.posix_acl_access"
DEFAULT: Final = "system.posix_acl_default"
_VERSION: Final = (2).to_bytes(4, "little")
_ENTRY: Final = Struct("<HHI")
_USER_OBJ: Final = 0x01
_USER: Final = 0x02
_GROUP_OBJ: Final = 0x04
_GROUP: Final = 0x08
_MASK: Final = 0x10
_OTHER: Final = 0x20
_NAMED: Final = (_USER, _GROUP)
_ORDER: Final = (_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER)
_NO_ID: Final = 0xFFFFFFFF


class InvalidACLError(InvalidArgumentError):
    """An ACL that setxattr(2) refuses."""

    code = "invalid-acl"


def parse(value: bytes) -> list[tuple[int, int, int]]:
    """Tag, permissions and ID of every entry, in order; empty for an ACL that says nothing.

    Raises:
        InvalidACLError: The kernel would refuse it.

    """
    if len(value) < 4 or value[:4] != _VERSION or (len(value) - 4) % _ENTRY.size:
        raise InvalidACLError("malformed POSIX ACL")
    entries = list(_ENTRY.iter_unpack(value[4:]))
    if not entries:
        return []
    tags = [tag for tag, _, _ in entries]
    if (
        any(tag not in _ORDER or rights & ~7 for tag, rights, _ in entries)
        or [_ORDER.index(tag) for tag in tags] != sorted(_ORDER.index(tag) for tag in tags)
        or any(tags.count(tag) != 1 for tag in (_USER_OBJ, _GROUP_OBJ, _OTHER))
        or tags.count(_MASK) > 1
        or (any(tag in _NAMED for tag in tags) and _MASK not in tags)
        or any(tag in _NAMED and who == _NO_ID for tag, _, who in entries)
    ):
        raise InvalidACLError("invalid POSIX ACL")
    return entries


def access(value: bytes, mode: int) -> bytes | None:
    """An access ACL after chmod(2) to ``mode``; ``None`` if it says no more than the mode. Raises `InvalidACLError`."""
    entries = parse(value)
    tags = {tag for tag, _, _ in entries}
    if tags <= {_USER_OBJ, _GROUP_OBJ, _OTHER}:
        return None
    group = _MASK if _MASK in tags else _GROUP_OBJ
    shifts = {_USER_OBJ: 6, group: 3, _OTHER: 0}
    return _VERSION + b"".join(
        [
            _ENTRY.pack(
                tag, mode >> shifts[tag] & 7 if tag in shifts else rights, who if tag in _NAMED else _NO_ID
            )
            for tag, rights, who in entries
        ]
    )


def default(value: bytes) -> bytes | None:
    """A default ACL as it is kept; ``None`` if it is empty. Raises `InvalidACLError`."""
    entries = parse(value)
    if not entries:
        return None
    return _VERSION + b"".join(
        [_ENTRY.pack(tag, rights, who if tag in _NAMED else _NO_ID) for tag, rights, who in entries]
    )


def strip(target: int | str) -> None:
    """Take off the ACLs that a file or directory was given when it was made. Blocking."""
    for name in (DEFAULT, ACCESS):
        try:
            os.removexattr(target, name)
        except OSError as exc:
            if exc.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise
