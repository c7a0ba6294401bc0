"""`MemoryBuildCache`: the build cache's rows in dictionaries, found by looking at every one of them."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from typing_extensions import override

from lading.core import buildcache
from lading.core.buildcache import BuildRecord, LayerBlob, LinkRow, Step
from lading.core.leases import Lease, LeaseID, Resource
from lading.errors import NotFoundError
from lading.oci.digest import Digest
from lading.testing.memory.rows import Space


class MemoryBuildCache(buildcache.BuildCache):
    """`buildcache.BuildCache` of one namespace. ``change`` gives the rows once writing is allowed."""

    def __init__(
        self,
        space: Callable[[], Space],
        change: Callable[[], Awaitable[Space]],
        clock: Callable[[], datetime],
    ) -> None:
        self._space = space
        self._change = change
        self._clock = clock

    @override
    async def find(self, output: str, inputs: Sequence[Sequence[Step]]) -> tuple[frozenset[str], str | None]:
        links = self._space().cache.links
        keys = frozenset({output} if not inputs else {link.target for link in links})
        for number, steps in enumerate(inputs):
            keys &= {
                link.target
                for link in links
                if (link.output, link.input) == (output, number) and Step(link.source, link.selector) in steps
            }
        return keys, self._newest(keys)

    def _newest(self, keys: Collection[str]) -> str | None:
        cache = self._space().cache
        found = [cache.records[record] for key in keys for record in cache.keys.get(key, ())]
        return max(found, key=lambda one: (one.created_at, one.id)).id if found else None

    @override
    async def add(
        self,
        record: BuildRecord,
        *,
        keys: Sequence[str] = (),
        output: str = "",
        inputs: Sequence[Sequence[Step]] = (),
    ) -> None:
        space = await self._change()
        for key in keys:
            for older in list(space.cache.keys.get(key, ())):
                _erase(space, older)
        space.cache.records[record.id] = record
        for key in keys:
            space.cache.keys.setdefault(key, set()).add(record.id)
        _link(space, output, inputs, keys)
        lease = LeaseID(f"build-{record.id}")
        space.leases[lease] = Lease(id=lease, created_at=self._clock())
        names = [*record.layers, *([record.mutable] if record.mutable else [])]
        space.held[lease] = {
            *(Resource(kind="snapshot", id=name, snapshotter=record.snapshotter) for name in names),
            *(Resource(kind="content", id=digest) for digest in record.blobs),
        }

    @override
    async def connect(self, output: str, inputs: Sequence[Sequence[Step]], keys: Sequence[str]) -> None:
        _link(await self._change(), output, inputs, keys)

    @override
    async def get(self, id: str) -> BuildRecord:
        found = self._space().cache.records.get(id)
        if found is None:
            raise NotFoundError(f"no build cache record {id}", subject=id)
        return found

    @override
    async def list(self) -> Sequence[BuildRecord]:
        return sorted(self._space().cache.records.values(), key=lambda one: (one.used_at, one.id))

    @override
    async def touch(self, ids: Sequence[str], *, now: int) -> None:
        records = (await self._change()).cache.records
        for one in ids:
            if one in records:
                records[one] = replace(records[one], used_at=now, uses=records[one].uses + 1)

    @override
    async def resize(self, id: str, size: int) -> None:
        records = (await self._change()).cache.records
        if id in records:
            records[id] = replace(records[id], size=size)

    @override
    async def delete(self, ids: Sequence[str]) -> "list[str]":
        space = await self._change()
        gone = [one for one in ids if _erase(space, one)]
        while gone:
            links = space.cache.links
            sources = {link.source for link in links}
            dead = {
                link for link in links if not space.cache.keys.get(link.target) and link.target not in sources
            }
            if not dead:
                break
            links -= dead
        return gone

    @override
    async def history(self, keys: Sequence[str]) -> "tuple[Sequence[LinkRow], Mapping[str, str]]":
        links = self._space().cache.links
        way: set[str] = set()
        pending = list(keys)
        while pending:
            key = pending.pop()
            if key not in way:
                way.add(key)
                pending += [link.source for link in links if link.target == key]
        found = [link for link in links if link.target in way]
        found.sort(key=lambda one: (one.target, one.input, one.source, one.selector))
        newest = {key: self._newest([key]) for key in sorted(way)}
        return found, {key: record for key, record in newest.items() if record is not None}

    # What is said of a snapshot is said of its row: another one of the same name is another.

    @override
    async def layer(self, snapshotter: str, snapshot: str, form: str) -> LayerBlob | None:
        number = self._number(snapshotter, snapshot)
        return None if number is None else self._space().cache.layers.get((number, form))

    @override
    async def put_layer(self, snapshotter: str, snapshot: str, form: str, layer: LayerBlob) -> None:
        cache = (await self._change()).cache
        number = self._number(snapshotter, snapshot)
        if number is not None:
            cache.layers[number, form] = layer

    @override
    async def digest(self, snapshotter: str, snapshot: str, part: str) -> Digest | None:
        number = self._number(snapshotter, snapshot)
        return None if number is None else self._space().cache.digests.get((number, part))

    @override
    async def put_digest(self, snapshotter: str, snapshot: str, part: str, digest: Digest) -> None:
        cache = (await self._change()).cache
        number = self._number(snapshotter, snapshot)
        if number is not None:
            cache.digests[number, part] = digest

    def _number(self, snapshotter: str, snapshot: str) -> int | None:
        row = self._space().snapshots.get((snapshotter, snapshot))
        return None if row is None else row.id


def _erase(space: Space, record: str) -> bool:
    for records in space.cache.keys.values():
        records.discard(record)
    lease = LeaseID(f"build-{record}")
    space.leases.pop(lease, None)
    space.held.pop(lease, None)
    return space.cache.records.pop(record, None) is not None


def _link(space: Space, output: str, inputs: Sequence[Sequence[Step]], keys: Sequence[str]) -> None:
    space.cache.links |= {
        LinkRow(step.key, output, number, step.selector, key)
        for number, steps in enumerate(inputs)
        for step in steps
        for key in keys
    }
