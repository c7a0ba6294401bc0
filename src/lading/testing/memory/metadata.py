"""`MemoryDatabase`: the metadata port in dictionaries; it forgets everything when it goes.

Every call is atomic because nothing in it awaits. It decides by reading everything again where the real one keeps books,
which makes it the oracle of the real one.
"""

import copy
import itertools
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

import anyio
import anyio.lowlevel
from typing_extensions import override

from lading.core import builds, containers, content, images, leases, metadata, networks, volumes
from lading.core import labels as label_rules
from lading.core.builds import BuildRecord
from lading.core.containers import ContainerRecord
from lading.core.content import Info, IngestRef
from lading.core.images import Image, Pointed
from lading.core.leases import Lease, LeaseID, Resource
from lading.core.metadata import Graph, IngestRow, Marked, Namespace, Node, SnapshotRow
from lading.core.networks import Network, NetworkID
from lading.core.snapshots import Kind, Labels, SnapshotInfo, SnapshotName, Usage
from lading.core.volumes import Volume
from lading.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.testing.memory.buildcache import MemoryBuildCache
from lading.testing.memory.facts import MemoryFacts
from lading.testing.memory.rows import Space, children_first, erase, graph_of, marked

_holder: ContextVar[object] = ContextVar("lading.testing.memory.holder", default=None)


class MemoryDatabase(metadata.Database):
    """`metadata.Database` in memory."""

    def __init__(self, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.clock = clock
        self.spaces: dict[Namespace, Space] = {}
        self.snapshot_ids = itertools.count(1)
        self._settings: dict[str, str] = {}
        self._turn = anyio.Lock()
        self._open = anyio.Event()
        self._open.set()

    def space(self, namespace: Namespace) -> Space:
        """The rows of a namespace."""
        return self.spaces.setdefault(namespace, Space())

    async def change(self, namespace: Namespace, *renewed: Node) -> Space:
        """Wait until writing is allowed; the rows to change, until the next await. ``renewed`` is what will be there."""
        await anyio.lowlevel.checkpoint()
        while not self._open.is_set() and _holder.get() is not self:
            await self._open.wait()
        space = self.space(namespace)
        space.version += 1
        space.renewed.update(dict.fromkeys(renewed, space.version))
        return space

    @override
    def blobs(self, namespace: Namespace) -> "MemoryBlobs":
        return MemoryBlobs(self, namespace)

    @override
    def snapshots(self, namespace: Namespace, snapshotter: str) -> "MemorySnapshots":
        return MemorySnapshots(self, namespace, snapshotter)

    @override
    def images(self, namespace: Namespace) -> "MemoryImages":
        return MemoryImages(self, namespace)

    @override
    def facts(self, namespace: Namespace) -> MemoryFacts:
        return MemoryFacts(lambda: self.space(namespace))

    @override
    def leases(self, namespace: Namespace) -> "MemoryLeases":
        return MemoryLeases(self, namespace)

    @override
    def containers(self, namespace: Namespace) -> "MemoryContainers":
        return MemoryContainers(self, namespace)

    @override
    def builds(self, namespace: Namespace) -> "MemoryBuilds":
        return MemoryBuilds(self, namespace)

    @override
    def build_cache(self, namespace: Namespace) -> MemoryBuildCache:
        return MemoryBuildCache(lambda: self.space(namespace), lambda: self.change(namespace), self.clock)

    @override
    def networks(self, namespace: Namespace) -> "MemoryNetworks":
        return MemoryNetworks(self, namespace)

    @override
    def volumes(self, namespace: Namespace) -> "MemoryVolumes":
        return MemoryVolumes(self, namespace)

    @override
    async def namespaces(self) -> list[Namespace]:
        return sorted(
            name
            for name, space in self.spaces.items()
            if space.blobs
            or space.ingests
            or space.images
            or space.leases
            or space.snapshots
            or space.containers
            or space.networks
            or space.volumes
        )

    @override
    async def graph(self, namespace: Namespace, *, now: datetime) -> Graph:
        return graph_of(self.space(namespace), now)

    @override
    async def mark(self, namespace: Namespace, *, now: datetime, without: Collection[str] = ()) -> Marked:
        return marked(self.space(namespace), now, without)

    @override
    async def condemn(
        self, namespace: Namespace, nodes: Sequence[Node], *, version: int, now: datetime
    ) -> list[Node]:
        space = await self.change(namespace)
        fresh = graph_of(space, now)
        # What was written again since the mark is wanted by whoever wrote it.
        renewed = [node for node, changed in space.renewed.items() if changed > version]
        needed = metadata.reachable([*fresh.roots, *renewed], fresh.edges)
        doomed = [node for node in nodes if node not in needed]
        return [node for node in children_first(space, doomed) if erase(space, node)]

    @override
    @asynccontextmanager
    async def exclusive(self) -> AsyncGenerator[None]:
        async with self._turn:
            self._open = anyio.Event()
            token = _holder.set(self)
            try:
                yield
            finally:
                _holder.reset(token)
                self._open.set()

    @override
    async def setting(self, key: str) -> str | None:
        return self._settings.get(key)

    @override
    async def set_setting(self, key: str, value: str) -> None:
        await self.change(Namespace(""))
        self._settings[key] = value

    @override
    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()


class MemoryBlobs(metadata.Blobs):
    """`metadata.Blobs` in memory."""

    def __init__(self, database: MemoryDatabase, namespace: Namespace) -> None:
        self._database = database
        self._namespace = namespace

    @override
    async def get(self, digest: Digest) -> Info:
        return _find(self._database.space(self._namespace).blobs, digest, "blob")

    @override
    async def list(self) -> Sequence[Info]:
        blobs = self._database.space(self._namespace).blobs
        return [blobs[digest] for digest in sorted(blobs)]

    @override
    async def infos(self, digests: Collection[Digest]) -> Mapping[Digest, Info]:
        here = self._database.space(self._namespace).blobs
        return {digest: here[digest] for digest in digests if digest in here}

    @override
    async def away(self) -> AbstractSet[Digest]:
        return frozenset(self._database.space(self._namespace).away)

    @override
    async def set_away(self, away: Mapping[Digest, bool]) -> None:
        space = await self._database.change(self._namespace)
        here = away.keys() & space.blobs.keys()
        space.away = (space.away - here) | {digest for digest in here if away[digest]}

    @override
    async def sizes(self, digests: Collection[Digest]) -> Mapping[str, int]:
        here = self._database.space(self._namespace).blobs
        return {digest: here[digest].size for digest in digests if digest in here}

    @override
    async def add(
        self,
        digest: Digest,
        size: int,
        *,
        labels: content.Labels,
        ref: IngestRef | None = None,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> Info:
        del durable
        label_rules.check(labels)
        space = await self._database.change(self._namespace, Node("content", digest))
        if lease is not None:
            space.hold(lease, Resource(kind="content", id=digest))
        now = self._database.clock()
        old = space.blobs.get(digest)
        space.blobs[digest] = Info(
            digest=digest,
            size=old.size if old else size,
            created_at=old.created_at if old else now,
            updated_at=now,
            labels={**(old.labels if old else {}), **labels},
        )
        for other in self._database.spaces.values():
            other.away.discard(digest)
        if ref is not None:
            _close_ingest(space, ref)
        return space.blobs[digest]

    @override
    async def add_many(
        self,
        sizes: Mapping[Digest, int],
        *,
        labels: Mapping[Digest, content.Labels] = content.NO_LABELS_OF_MANY,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> None:
        for digest, size in sizes.items():
            await self.add(digest, size, labels=labels.get(digest, {}), lease=lease)

    @override
    async def label(self, labels: Mapping[Digest, content.Labels], *, lease: LeaseID | None = None) -> None:
        for digest in labels.keys() & self._database.space(self._namespace).blobs.keys():
            await self.update(digest, dict(labels[digest]))
            if lease is not None:
                await self.hold(digest, lease)

    @override
    async def hold(self, digest: Digest, lease: LeaseID) -> bool:
        space = await self._database.change(self._namespace)
        if digest in space.blobs:
            space.hold(lease, Resource(kind="content", id=digest))
        return digest in space.blobs

    @override
    async def update(self, digest: Digest, labels: Mapping[str, str | None], *, durable: bool = True) -> Info:
        del durable
        label_rules.check(labels)
        space = await self._database.change(self._namespace)
        old = _find(space.blobs, digest, "blob")
        space.blobs[digest] = replace(
            old, labels=label_rules.merge(old.labels, labels), updated_at=self._database.clock()
        )
        return space.blobs[digest]

    @override
    async def delete(self, digest: Digest) -> bool:
        space = await self._database.change(self._namespace)
        _find(space.blobs, digest, "blob")
        space.drop_blob(digest)
        return await self.present(digest) is None

    @override
    async def present(self, digest: Digest) -> int | None:
        spaces = self._database.spaces.values()
        return next((space.blobs[digest].size for space in spaces if digest in space.blobs), None)

    @override
    async def elsewhere(self, digest: Digest) -> bool:
        spaces = self._database.spaces.items()
        return any(digest in space.blobs for name, space in spaces if name != self._namespace)

    @override
    async def open_ingest(self, row: IngestRow, *, lease: LeaseID | None = None) -> None:
        space = await self._database.change(self._namespace, Node("ingest", row.ref))
        if lease is not None:
            space.hold(lease, Resource(kind="ingest", id=row.ref))
        space.ingests[row.ref] = row

    @override
    async def ingests(self) -> Sequence[IngestRow]:
        ingests = self._database.space(self._namespace).ingests
        return [ingests[ref] for ref in sorted(ingests)]

    @override
    async def close_ingest(self, ref: IngestRef) -> None:
        _close_ingest(await self._database.change(self._namespace), ref)


class MemoryImages(images.Store):
    """`images.Store` in memory."""

    def __init__(self, database: MemoryDatabase, namespace: Namespace) -> None:
        self._database = database
        self._namespace = namespace

    @override
    async def get(self, name: str) -> Image:
        return _find(self._database.space(self._namespace).images, name, "image")

    @override
    async def list(self) -> "list[Image]":
        rows = self._database.space(self._namespace).images
        return [rows[name] for name in sorted(rows)]

    @override
    async def by_target(self, digest_prefix: str) -> "list[Image]":
        def matches(digest: Digest) -> bool:
            return digest.startswith(digest_prefix) or digest.hex.startswith(digest_prefix)

        return [image for image in await self.list() if matches(image.target.digest)]

    @override
    async def create(
        self,
        name: str,
        target: Descriptor,
        *,
        labels: Mapping[str, str] | None = None,
        lease: LeaseID | None = None,
    ) -> Image:
        self._check(name, labels)
        space = await self._database.change(self._namespace)
        if name in space.images:
            raise AlreadyExistsError(f"image {name} exists", subject=name)
        if lease is not None:
            space.hold(lease, Resource(kind="image", id=name))
        return self._insert(space, name, target, labels or {})

    def _insert(self, space: Space, name: str, target: Descriptor, labels: Mapping[str, str]) -> Image:
        now = self._database.clock()
        space.images[name] = Image(
            name=name, target=target, created_at=now, updated_at=now, labels=dict(labels)
        )
        return space.images[name]

    @staticmethod
    def _check(name: str, labels: Mapping[str, str] | None) -> None:
        if not name:
            raise InvalidArgumentError("an image needs a name")
        label_rules.check(labels or {})

    @override
    async def put(
        self,
        name: str,
        target: Descriptor,
        *,
        labels: Mapping[str, str] | None = None,
        displaced: str | None = None,
    ) -> Pointed:
        self._check(name, labels)
        space = await self._database.change(self._namespace)
        old = space.images.get(name)
        if old is None:
            self._insert(space, name, target, labels or {})
            return Pointed(image=space.images[name], replaced=None)
        kept = old.labels if labels is None else dict(labels)
        space.images[name] = replace(old, target=target, labels=kept, updated_at=self._database.clock())
        named = {image.target.digest for image in space.images.values()}
        if displaced is not None and old.target.digest not in named and displaced not in space.images:
            self._insert(space, displaced, old.target, {})
        return Pointed(image=space.images[name], replaced=old)

    @override
    async def update(self, name: str, *, labels: Mapping[str, str | None]) -> Image:
        label_rules.check(labels)
        space = await self._database.change(self._namespace)
        old = _find(space.images, name, "image")
        space.images[name] = replace(
            old, labels=label_rules.merge(old.labels, labels), updated_at=self._database.clock()
        )
        return space.images[name]

    @override
    async def delete(self, name: str, *, target: Descriptor | None = None) -> Image:
        space = await self._database.change(self._namespace)
        image = _find(space.images, name, "image")
        if target is not None and target.digest != image.target.digest:
            raise NotFoundError(f"image {name} points to {image.target.digest} by now", subject=name)
        return space.images.pop(name)


class MemoryLeases(leases.Manager):
    """`leases.Manager` in memory."""

    def __init__(self, database: MemoryDatabase, namespace: Namespace) -> None:
        self._database = database
        self._namespace = namespace

    @override
    async def create(self, id: LeaseID | None = None, *, labels: Mapping[str, str] | None = None) -> Lease:
        label_rules.check(labels or {})
        space = await self._database.change(self._namespace)
        chosen = id or LeaseID(f"lease-{space.version}")
        if chosen in space.leases:
            raise AlreadyExistsError(f"lease {chosen} exists", subject=chosen)
        lease = Lease(id=chosen, created_at=self._database.clock(), labels=dict(labels or {}))
        space.leases[chosen], space.held[chosen] = lease, set()
        return lease

    @override
    async def delete(self, id: LeaseID) -> None:
        space = await self._database.change(self._namespace)
        _find(space.leases, id, "lease")
        del space.leases[id], space.held[id]

    @override
    async def list(self) -> "list[Lease]":
        return sorted(
            self._database.space(self._namespace).leases.values(),
            key=lambda lease: (lease.created_at, lease.id),
        )

    @override
    async def add(self, id: LeaseID, resource: Resource) -> None:
        (await self._database.change(self._namespace)).hold(id, resource)

    @override
    async def remove(self, id: LeaseID, resource: Resource) -> None:
        space = await self._database.change(self._namespace)
        _find(space.leases, id, "lease")
        space.held[id].discard(resource)

    @override
    async def resources(self, id: LeaseID) -> "list[Resource]":
        space = self._database.space(self._namespace)
        _find(space.leases, id, "lease")
        return sorted(space.held[id], key=lambda one: (one.kind, one.id, one.snapshotter))


class MemoryContainers(containers.Store):
    """`containers.Store` in memory."""

    def __init__(self, database: MemoryDatabase, namespace: Namespace) -> None:
        self._database = database
        self._namespace = namespace

    @override
    async def get(self, id: str) -> ContainerRecord:
        return copy.deepcopy(_find(self._database.space(self._namespace).containers, id, "container"))

    @override
    async def list(self) -> "list[ContainerRecord]":
        return copy.deepcopy(list(self._database.space(self._namespace).containers.values()))

    @override
    async def create(self, record: ContainerRecord, *, durable: bool = True) -> None:
        del durable
        space = await self._database.change(self._namespace)
        if record.id in space.containers:
            raise AlreadyExistsError(f"container {record.id} exists", subject=record.id)
        self._put(space, record)

    @override
    async def update(self, record: ContainerRecord) -> None:
        space = await self._database.change(self._namespace)
        _find(space.containers, record.id, "container")
        self._put(space, record)

    @staticmethod
    def _put(space: Space, record: ContainerRecord) -> None:
        for other in space.containers.values():
            if other.name == record.name and other.id != record.id:
                raise AlreadyExistsError(f"the name {record.name!r} is taken", subject=record.name)
        space.containers[record.id] = copy.deepcopy(record)

    @override
    async def delete(self, id: str) -> None:
        space = await self._database.change(self._namespace)
        _find(space.containers, id, "container")
        del space.containers[id]


class MemoryBuilds(builds.Store):
    """`builds.Store` in memory."""

    def __init__(self, database: MemoryDatabase, namespace: Namespace) -> None:
        self._database = database
        self._namespace = namespace

    @override
    async def get(self, ref: str) -> BuildRecord:
        return _find(self._database.space(self._namespace).builds, ref, "build")

    @override
    async def list(self) -> Sequence[BuildRecord]:
        records = self._database.space(self._namespace).builds.values()
        return sorted(records, key=lambda record: (-record.created, record.ref))

    @override
    async def put(self, record: BuildRecord) -> None:
        (await self._database.change(self._namespace)).builds[record.ref] = record

    @override
    async def delete(self, ref: str) -> BuildRecord:
        space = await self._database.change(self._namespace)
        return space.builds.pop(_find(space.builds, ref, "build").ref)


class MemorySnapshots(metadata.Snapshots):
    """`metadata.Snapshots` in memory."""

    def __init__(self, database: MemoryDatabase, namespace: Namespace, snapshotter: str) -> None:
        self._database = database
        self._namespace = namespace
        self._snapshotter = snapshotter

    def _row(self, key: str) -> SnapshotRow:
        rows = self._database.space(self._namespace).snapshots
        if (self._snapshotter, key) not in rows:
            raise NotFoundError(f"no snapshot {key}", subject=key)
        return rows[self._snapshotter, key]

    @override
    async def get(self, key: str) -> SnapshotRow:
        return self._row(key)

    @override
    async def chain(self, key: str) -> Sequence[SnapshotRow]:
        rows = [self._row(key)]
        while (parent := rows[-1].info.parent) is not None:
            rows.append(self._row(parent))
        return rows

    @override
    async def list(self) -> Sequence[SnapshotRow]:
        rows = self._database.space(self._namespace).snapshots
        return [rows[scope, key] for scope, key in sorted(rows) if scope == self._snapshotter]

    @override
    async def allocate(self) -> int:
        return next(self._database.snapshot_ids)

    @override
    async def create(
        self,
        key: str,
        *,
        id: int,
        kind: Kind,
        parent: str | None,
        labels: Labels,
        usage: Usage,
        boot_id: str = "",
        extra: Mapping[str, str] | None = None,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> SnapshotRow:
        label_rules.check(labels)
        space = await self._database.change(self._namespace, Node("snapshot", key, self._snapshotter))
        if (self._snapshotter, key) in space.snapshots:
            raise AlreadyExistsError(f"snapshot {key} exists", subject=key)
        if parent is not None and self._row(parent).info.kind is not Kind.COMMITTED:
            raise InvalidArgumentError(
                f"the parent {parent} of snapshot {key} is not committed", subject=parent
            )
        self._hold(space, key, lease)
        now = self._database.clock()
        info = SnapshotInfo(
            key=key,
            kind=kind,
            parent=None if parent is None else SnapshotName(parent),
            created_at=now,
            updated_at=now,
            labels=dict(labels),
        )
        return self._put(
            space, SnapshotRow(id=id, info=info, usage=usage, boot_id=boot_id, extra=dict(extra or {}))
        )

    def _put(self, space: Space, row: SnapshotRow) -> SnapshotRow:
        space.snapshots[self._snapshotter, row.info.key] = row
        return row

    def _hold(self, space: Space, key: str, lease: LeaseID | None) -> None:
        if lease is not None:
            space.hold(lease, Resource(kind="snapshot", id=key, snapshotter=self._snapshotter))

    @override
    async def commit(
        self,
        name: str,
        key: str,
        *,
        labels: Labels,
        usage: Usage,
        boot_id: str = "",
        lease: LeaseID | None = None,
    ) -> SnapshotRow:
        label_rules.check(labels)
        space = await self._database.change(self._namespace, Node("snapshot", name, self._snapshotter))
        if (self._snapshotter, name) in space.snapshots:
            raise AlreadyExistsError(f"snapshot {name} exists", subject=name)
        active = self._row(key)
        if active.info.kind is not Kind.ACTIVE:
            raise FailedPreconditionError(f"snapshot {key} is not active", subject=key)
        self._hold(space, name, lease)
        for resources in space.held.values():
            old = Resource(kind="snapshot", id=key, snapshotter=self._snapshotter)
            if old in resources:
                resources.remove(old)
                resources.add(replace(old, id=name))
        now = self._database.clock()
        del space.snapshots[self._snapshotter, key]
        info = replace(
            active.info, key=name, kind=Kind.COMMITTED, created_at=now, updated_at=now, labels=dict(labels)
        )
        return self._put(space, replace(active, info=info, usage=usage, boot_id=boot_id))

    @override
    async def mark_durable(self, ids: Sequence[int]) -> None:
        await self._set_boot(ids, "")

    @override
    async def mark_lost(self, ids: Sequence[int]) -> None:
        await self._set_boot(ids, "lost")

    async def _set_boot(self, ids: Sequence[int], boot_id: str) -> None:
        space = await self._database.change(self._namespace)
        for row in await self.list():
            if row.id in ids:
                self._put(space, replace(row, boot_id=boot_id))

    @override
    async def discard_foreign_boots(self, boot_id: str) -> Sequence[SnapshotRow]:
        space = await self._database.change(self._namespace)
        gone: dict[str, SnapshotRow] = {}
        rows = [row for row in await self.list() if row.info.kind is Kind.COMMITTED]
        for row in rows:
            if row.boot_id not in ("", boot_id):
                gone[row.info.key] = row
        while more := {r.info.key: r for r in rows if r.info.parent in gone and r.info.key not in gone}:
            gone.update(more)
        for key in gone:
            space.drop_snapshot(self._snapshotter, key)
        return [gone[key] for key in sorted(gone)]

    @override
    async def hold(self, key: str, lease: LeaseID) -> bool:
        space = await self._database.change(self._namespace)
        exists = (self._snapshotter, key) in space.snapshots
        if exists:
            self._hold(space, key, lease)
        return exists

    @override
    async def update(self, key: str, labels: Mapping[str, str | None]) -> SnapshotRow:
        label_rules.check(labels)
        space = await self._database.change(self._namespace)
        row = self._row(key)
        merged = label_rules.merge(row.info.labels, labels)
        return self._put(
            space, replace(row, info=replace(row.info, labels=merged, updated_at=self._database.clock()))
        )

    @override
    async def delete(self, key: str) -> SnapshotRow:
        space = await self._database.change(self._namespace)
        row = self._row(key)
        if any(other.info.parent == key for other in await self.list()):
            raise FailedPreconditionError(f"snapshot {key} has a child", subject=key)
        space.drop_snapshot(self._snapshotter, key)
        return row

    @override
    async def replace(self, name: str, copy: str) -> SnapshotRow:
        space = await self._database.change(self._namespace, Node("snapshot", name, self._snapshotter))
        old, new = self._row(name), self._row(copy)
        children = [row.info.key for row in await self.list() if row.info.parent == copy]
        metadata.check_replaceable(old, new, child=children[0] if children else None)
        del space.snapshots[self._snapshotter, copy]
        self._put(space, replace(new, info=replace(old.info, updated_at=self._database.clock())))
        return old

    @override
    async def removed(self) -> AbstractSet[tuple[str, str]]:
        found = self._database.space(self._namespace).removed
        return {(key, tree) for scope, key, tree in found if scope == self._snapshotter}

    @override
    async def forget_removed(self, gone: Collection[tuple[str, str]]) -> None:
        space = await self._database.change(self._namespace)
        space.removed -= {(self._snapshotter, key, tree) for key, tree in gone}


_K = TypeVar("_K", bound=str)
_V = TypeVar("_V")


def _find(rows: Mapping[_K, _V], key: _K, what: str) -> _V:
    if key not in rows:
        raise NotFoundError(f"no {what} {key}", subject=key)
    return rows[key]


def _close_ingest(space: Space, ref: IngestRef) -> None:
    space.ingests.pop(ref, None)
    for resources in space.held.values():
        resources.discard(Resource(kind="ingest", id=ref))


class MemoryNetworks(networks.Store):
    """Networks of a namespace, in order of creation."""

    def __init__(self, database: MemoryDatabase, namespace: Namespace) -> None:
        self._database = database
        self._namespace = namespace

    @override
    async def list(self) -> "list[Network]":
        return list(self._database.space(self._namespace).networks.values())

    @override
    async def create(self, network: Network) -> None:
        space = await self._database.change(self._namespace)
        if network.id in space.networks or any(e.name == network.name for e in space.networks.values()):
            raise AlreadyExistsError(f"network {network.name} exists", subject=network.name)
        space.networks[network.id] = network

    @override
    async def delete(self, id: NetworkID) -> None:
        space = await self._database.change(self._namespace)
        if space.networks.pop(id, None) is None:
            raise NotFoundError(f"no network {id}", subject=id)


class MemoryVolumes(volumes.Store):
    """Volumes of a namespace."""

    def __init__(self, database: MemoryDatabase, namespace: Namespace) -> None:
        self._database = database
        self._namespace = namespace

    @override
    async def list(self) -> "list[Volume]":
        found = self._database.space(self._namespace).volumes
        return [found[name] for name in sorted(found)]

    @override
    async def create(self, volume: Volume) -> None:
        space = await self._database.change(self._namespace)
        if volume.name in space.volumes:
            raise AlreadyExistsError(f"volume {volume.name} exists", subject=volume.name)
        space.volumes[volume.name] = volume

    @override
    async def delete(self, name: str) -> None:
        space = await self._database.change(self._namespace)
        if space.volumes.pop(name, None) is None:
            raise NotFoundError(f"no volume {name}", subject=name)
