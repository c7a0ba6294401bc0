"""What the runtime makes in a container's tree to mount something there: no change of the container's.

Docker has these paths in a layer below the container's own; here they are made in that itself, and left out of what it tells.
Nobody in the container can have made one of them, since something is mounted there.
"""

from collections.abc import Sequence
from typing import Final

from lading.core.diff import Change, ChangeKind

MADE: Final = frozenset(
    {
        "dev",
        "dev/console",
        "dev/mqueue",
        "dev/pts",
        "dev/shm",
        "etc/hostname",
        "etc/hosts",
        "etc/resolv.conf",
        "proc",
        "sys",
    }
)
"""Relative, as in a layer."""
_ETC: Final = "/etc"


def own(changes: Sequence[Change]) -> list[Change]:
    """The container's own changes; ``/etc`` has none if only these files were made in it."""
    made = {each.path for each in changes if each.kind is ChangeKind.ADD and each.path[1:] in MADE}
    left = [each for each in changes if each.path not in made]
    below = f"{_ETC}/"
    if any(path.startswith(below) for path in made) and not any(each.path.startswith(below) for each in left):
        left = [each for each in left if each.path != _ETC]
    return left
