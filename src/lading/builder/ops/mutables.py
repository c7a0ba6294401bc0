"""Directories that live on between builds: what clients synchronised, and cache mounts.

Each is an active snapshot and a record.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import anyio

from lading.builder.ops.trees import NOTHING, Tree, Trees
from lading.core.buildcache import BuildCache, BuildRecord
from lading.core.mounts import Mount
from lading.core.session import SyncMemory
from lading.core.snapshots import SnapshotKey
from lading.errors import NotFoundError

_REMEMBERED: Final = 100_000
"""Entries of clients' trees that are remembered beside those of the sync at hand: some 150 bytes each."""


class Sharing(Enum):
    """What happens when a second build wants the same directory."""

    SHARED = "shared"
    """Both use it."""
    PRIVATE = "private"
    """The second gets one of its own."""
    LOCKED = "locked"
    """The second waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutable:
    """One directory, in use."""

    record: str
    key: SnapshotKey
    mounts: tuple[Mount, ...]
    fresh: bool
    """Whether it was made just now."""


class Mutables:
    """All of them, by kind and name."""

    def __init__(self, trees: Trees, cache: BuildCache, used: Callable[[str], None]) -> None:
        self._trees = trees
        self._cache = cache
        self._used = used
        self._users: dict[str, int] = {}
        self._versions: dict[str, int] = {}
        self._memories: dict[str, SyncMemory] = {}
        self._known: dict[tuple[str, str], list[str]] | None = None
        self._lock = anyio.Lock()
        self._freed = anyio.Event()

    def in_use(self) -> set[str]:
        """The records that a build uses now."""
        return set(self._users)

    async def take(
        self, kind: str, name: str, *, sharing: Sharing, description: str, seed: Tree = NOTHING
    ) -> Mutable:
        """A directory of this name, made from ``seed`` if there is none; to be given back with `release`."""
        while True:
            async with self._lock:
                for record in await self._records(kind, name):
                    free = not self._users.get(record)
                    if free or sharing is Sharing.SHARED:
                        found = await self._open(record)
                        if found is not None:
                            return found
                        continue
                    if sharing is Sharing.LOCKED:
                        break
                else:
                    return await self._make(kind, name, description, seed)
                freed = self._freed
            await freed.wait()

    def changed(self, mutable: Mutable) -> None:
        """Its content may be another from now on; see `version`."""
        self._versions[mutable.key] = self.version(mutable) + 1

    def version(self, mutable: Mutable) -> int:
        """A number that is another after each change."""
        return self._versions.get(mutable.key, 0)

    def memory(self, mutable: Mutable) -> SyncMemory:
        """What the last sync into it saw; what was not synced for long is forgotten first, when all are too large."""
        found = self._memories.pop(mutable.key, None) or SyncMemory()
        while sum(len(one.entries) for one in self._memories.values()) > _REMEMBERED:
            del self._memories[next(iter(self._memories))]
        self._memories[mutable.key] = found
        return found

    def release(self, mutable: Mutable) -> None:
        """Give it back."""
        self._users[mutable.record] -= 1
        if not self._users[mutable.record]:
            del self._users[mutable.record]
        self._freed.set()
        self._freed = anyio.Event()

    async def _records(self, kind: str, name: str) -> list[str]:
        if self._known is None:
            self._known = {}
            for record in await self._cache.list():
                if record.mutable:
                    place = (record.kind, record.extra.get("name", ""))
                    self._known.setdefault(place, []).append(record.id)
        return list(self._known.setdefault((kind, name), []))

    async def _open(self, record: str) -> Mutable | None:
        """One that is there; ``None``, and forgotten, if it was pruned."""
        try:
            row = await self._cache.get(record)
            key = SnapshotKey(row.mutable)
            mounts = await self._trees.snapshotter.mounts(key)
        except NotFoundError:
            for records in (self._known or {}).values():
                if record in records:
                    records.remove(record)
            return None
        self._users[record] = self._users.get(record, 0) + 1
        self._used(record)
        return Mutable(record=record, key=key, mounts=tuple(mounts), fresh=False)

    async def _make(self, kind: str, name: str, description: str, seed: Tree) -> Mutable:
        parent = await self._trees.snapshot(seed)
        record = secrets.token_hex(12)
        key = SnapshotKey(f"build-{record}")
        mounts = await self._trees.snapshotter.prepare(key, parent, lease=self._trees.lease)
        now = time.time_ns()
        await self._cache.add(
            BuildRecord(
                id=record,
                kind=kind,
                description=description,
                snapshotter=self._trees.snapshotter.name,
                mutable=key,
                created_at=now,
                used_at=now,
                uses=1,
                extra={"name": name},
            )
        )
        assert self._known is not None
        self._known[(kind, name)].append(record)
        self._users[record] = 1
        return Mutable(record=record, key=key, mounts=tuple(mounts), fresh=True)
