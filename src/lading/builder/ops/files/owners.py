"""Names of users and groups, looked up in a tree's own files."""

import os
import stat
from collections.abc import Callable
from typing import Final

from lading.builder.ops.files import paths
from lading.errors import InvalidArgumentError
from lading.formats.llb import ops

_LIMIT: Final = 10 * 1024 * 1024
_ID_LIMIT: Final = 2**32 - 2


def resolve(owner: ops.Owner | None, root_of: Callable[[int | None], int | None]) -> tuple[int, int] | None:
    """Numbers of an owner; ``None`` leaves what it would be. ``root_of`` opens the tree with the files of a name's input.

    A user without a group brings his own from ``/etc/passwd``; a number is its own group. A name that the files do not have is
    root, as in BuildKit. Raises `InvalidArgumentError` for a number that is no ID, and for a name without a tree to look in.
    """
    if owner is None or (owner.user is None and owner.group is None):
        return None
    uid = gid = 0
    if isinstance(owner.user, ops.NamedUser):
        found = _find(owner.user, root_of, "/etc/passwd", 4)
        if found is not None:
            uid, gid = int(found[2]), int(found[3])
    elif owner.user is not None:
        uid = gid = _checked(owner.user)
    if isinstance(owner.group, ops.NamedUser):
        found = _find(owner.group, root_of, "/etc/group", 3)
        gid = int(found[2]) if found is not None else gid
    elif owner.group is not None:
        gid = _checked(owner.group)
    return uid, gid


def _checked(number: int) -> int:
    if not 0 <= number <= _ID_LIMIT:
        raise InvalidArgumentError(f"{number} is no user or group ID")
    return number


def _find(
    named: ops.NamedUser, root_of: Callable[[int | None], int | None], path: str, least: int
) -> list[str] | None:
    """The fields of a name's line, of which the third (and the fourth of ``least`` four) are IDs."""
    if named.input is None:
        raise InvalidArgumentError("invalid user index: -1", subject=named.name)
    for line in _lines(root_of(named.input), path):
        fields = line.strip().split(":")
        if fields[0] == named.name and len(fields) >= least and all(map(_is_id, fields[2:least])):
            return fields
    return None


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10


def _lines(root: int | None, path: str) -> list[str]:
    if root is None:
        return []
    try:
        with paths.opened(root, path) as fd:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LIMIT:
                raise InvalidArgumentError(f"{path} in the image is no regular file, or over {_LIMIT} bytes")
            with open(f"/proc/self/fd/{fd}", "rb") as file:
                return file.read(_LIMIT).decode("utf-8", "replace").split("\n")
    except OSError:
        return []
