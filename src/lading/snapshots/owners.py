"""Owners that files can have here: all of them, but for a daemon in a user namespace."""

import functools
from pathlib import Path

from lading.core import idmap
from lading.core.idmap import IdMap
from lading.errors import FailedPreconditionError, InvalidArgumentError


@functools.cache
def own() -> IdMap:
    """The user namespace of this process. Blocking."""
    uids, gids = (
        idmap.parse(Path(f"/proc/self/{name}").read_text("ascii")) for name in ("uid_map", "gid_map")
    )
    return IdMap(uids=uids, gids=gids)


def check(uid: int, gid: int, doing: str) -> None:
    """Raise `FailedPreconditionError` if no file here can have this owner; ``doing`` says what failed for it."""
    try:
        own().outside(uid, gid)
    except InvalidArgumentError as exc:
        raise FailedPreconditionError(
            f"{doing}: {exc.message} of this daemon",
            hint="give its user more IDs in /etc/subuid and /etc/subgid, and start it again",
        ) from exc
