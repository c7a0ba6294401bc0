"""Differences: what a snapshot changed in its parent, as a list for people and as a layer for images.

Snapshotters offer this beside `lading.core.snapshots.Snapshotter`, because each knows best what it changed. The snapshot may be
active and in use; then every file is as it was at some moment between beginning and end, as for any backup.
"""

from collections.abc import Collection, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class ChangeKind(Enum):
    """What happened to a path. Docker shows C, A and D."""

    MODIFY = "modify"
    ADD = "add"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Change:
    """One changed path: absolute, byte-exact through ``surrogateescape``."""

    path: str
    kind: ChangeKind


class Differ(Protocol):
    """Tells how snapshots differ from their parents."""

    async def changes(self, key: str) -> list[Change]:
        """Every changed path, directories before what is in them, in order of name. A directory that only holds changes is
        modified. Raises `NotFoundError`.
        """
        ...

    def open_diff(
        self, key: str, *, epoch: int | None = None, without: Collection[str] = ()
    ) -> AbstractAsyncContextManager[Iterator[bytes]]:
        """The changes as an uncompressed OCI layer (whiteouts, opaque directories, hard links, extended attributes).

        With ``epoch`` (seconds since the epoch) later times are set to it. An added path that is one of ``without`` (relative,
        as in the layer) is left out.

        The iterator blocks and belongs on a data thread, which must have stopped when the context is left. The same
        tree gives the same bytes.

        Raises:
            NotFoundError: There is no such snapshot.
            FailedPreconditionError: While iterating: a changed path has no form in a layer, such as ``.wh.x``.

        """
        ...
