"""The smallest stores that keep the ports' promises, for tests of services: everything in dictionaries."""

import contextlib
import hashlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from typing_extensions import Buffer, override

from lading.core import content, events, images, leases, snapshots
from lading.core.content import Info, IngestRef, IngestStatus
from lading.core.leases import Lease, LeaseID, Resource
from lading.core.snapshots import Capability, SnapshotName
from lading.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from lading.kit.tasks import KeyedLock
from lading.oci.descriptor import Descriptor
from lading.oci.digest import DiffID, Digest

NOW = datetime(2024, 1, 1, tzinfo=UTC)


class FakeLeases(leases.Manager):
    def __init__(self) -> None:
        self.held: dict[str, tuple[Lease, set[Resource]]] = {}
        self._ids = itertools.count()

    def hold(self, lease: str | None, kind: str, id: str) -> None:
        if lease is not None:
            self._get(lease)[1].add(Resource(kind=kind, id=id))

    def _get(self, id: str) -> tuple[Lease, set[Resource]]:
        if id not in self.held:
            raise NotFoundError(f"lease {id} not found")
        return self.held[id]

    @override
    async def create(self, id: LeaseID | None = None, *, labels: Mapping[str, str] | None = None) -> Lease:
        lease = Lease(id=id or LeaseID(f"lease{next(self._ids)}"), created_at=NOW, labels=labels or {})
        self.held[lease.id] = (lease, set())
        return lease

    @override
    async def delete(self, id: LeaseID) -> None:
        self._get(id)
        del self.held[id]

    @override
    async def list(self) -> list[Lease]:
        return [lease for lease, _ in self.held.values()]

    @override
    async def add(self, id: LeaseID, resource: Resource) -> None:
        self._get(id)[1].add(resource)

    @override
    async def remove(self, id: LeaseID, resource: Resource) -> None:
        self._get(id)[1].discard(resource)

    @override
    async def resources(self, id: LeaseID) -> "list[Resource]":
        return sorted(self._get(id)[1], key=lambda r: (r.kind, r.id))


class FakeReader(content.Reader):
    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    @override
    def size(self) -> int:
        return len(self._data)

    @override
    def pread(self, length: int, offset: int) -> bytes:
        return self._data[offset : offset + length]

    @override
    def readinto(self, buffer: Buffer, offset: int) -> int:
        view = memoryview(buffer).cast("B")
        piece = self._data[offset : offset + len(view)]
        view[: len(piece)] = piece
        return len(piece)

    @override
    def fileno(self) -> int:
        raise UnsupportedError("the blob is not in a file")


class FakeWriter(content.Writer):
    def __init__(
        self,
        store: "FakeContent",
        ref: IngestRef,
        data: bytearray,
        expected: Descriptor | None,
        lease: LeaseID | None,
    ) -> None:
        self._store, self._ref, self._data = store, ref, data
        self._expected, self._lease = expected, lease

    @property
    @override
    def ref(self) -> IngestRef:
        return self._ref

    @property
    @override
    def offset(self) -> int:
        return len(self._data)

    @override
    def digest(self, algorithm: str = "sha256") -> Digest:
        return Digest.of(bytes(self._data), algorithm)

    @override
    def write(self, data: Buffer) -> None:
        self._data += data

    @override
    def pread(self, length: int, offset: int) -> bytes:
        return bytes(self._data[offset : offset + length])

    @override
    def truncate(self) -> None:
        self._data.clear()

    @override
    async def commit(
        self,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        labels: content.Labels = content.NO_LABELS,
    ) -> Info:
        if self._expected is not None:
            size = self._expected.size if size is None else size
            expected = expected or self._expected.digest
        data = bytes(self._data)
        digest = Digest.of(data, expected.algorithm if expected else "sha256")
        del self._store.ingests[self._ref]
        if size not in (None, len(data)) or expected not in (None, digest):
            raise DataLossError(f"ingest {self._ref} is not what was promised")
        self._store.blobs.setdefault(digest, (data, {}))[1].update(labels)
        self._store.leases.hold(self._lease, "content", digest)
        return await self._store.info(digest)


class FakeContent(content.Store):
    def __init__(self, manager: FakeLeases) -> None:
        self.blobs: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.ingests: dict[IngestRef, bytearray] = {}
        self.leases = manager
        self._locks = KeyedLock()
        self._open: set[IngestRef] = set()

    @override
    async def info(self, digest: Digest) -> Info:
        if digest not in self.blobs:
            raise NotFoundError(f"blob {digest} not found", subject=digest)
        data, labels = self.blobs[digest]
        return Info(
            digest=Digest(digest), size=len(data), created_at=NOW, updated_at=NOW, labels=dict(labels)
        )

    @override
    async def update(self, digest: Digest, labels: Mapping[str, str | None]) -> Info:
        await self.info(digest)
        for key, value in labels.items():
            if value is None:
                self.blobs[digest][1].pop(key, None)
            else:
                self.blobs[digest][1][key] = value
        return await self.info(digest)

    @override
    async def walk(self) -> AsyncIterator[Info]:
        for digest in sorted(self.blobs):
            yield await self.info(Digest(digest))

    @override
    async def delete(self, digest: Digest) -> None:
        await self.info(digest)
        del self.blobs[digest]

    @override
    @contextlib.asynccontextmanager
    async def open_reader(self, digest: Digest) -> AsyncGenerator[content.Reader]:
        await self.info(digest)
        yield FakeReader(self.blobs[digest][0])

    @override
    async def read(self, digest: Digest, *, limit: int) -> bytes:
        await self.info(digest)
        return self.blobs[digest][0][: limit + 1]

    def _refuse_present(self, expected: Descriptor | None, lease: LeaseID | None) -> None:
        if expected is not None and expected.digest in self.blobs:
            self.leases.hold(lease, "content", expected.digest)
            raise AlreadyExistsError(f"blob {expected.digest} exists")

    @override
    @contextlib.asynccontextmanager
    async def open_writer(
        self, ref: IngestRef, *, expected: Descriptor | None = None, lease: LeaseID | None = None
    ) -> AsyncGenerator[content.Writer]:
        self._refuse_present(expected, lease)
        async with self._locks.hold(ref):
            self._refuse_present(expected, lease)
            data = self.ingests.setdefault(ref, bytearray())
            self.leases.hold(lease, "ingest", ref)
            self._open.add(ref)
            try:
                yield FakeWriter(self, ref, data, expected, lease)
            finally:
                self._open.discard(ref)

    @override
    async def status(self, ref: IngestRef) -> IngestStatus:
        if ref not in self.ingests:
            raise NotFoundError(f"ingest {ref} not found")
        offset = len(self.ingests[ref])
        return IngestStatus(ref=ref, offset=offset, total=0, expected=None, started_at=NOW, updated_at=NOW)

    @override
    async def statuses(self) -> list[IngestStatus]:
        return [await self.status(ref) for ref in sorted(self.ingests)]

    @override
    async def abort(self, ref: IngestRef) -> None:
        await self.status(ref)
        if ref in self._open:
            raise UnavailableError(f"ingest {ref} is being written")
        del self.ingests[ref]


class FakeImages(images.Store):
    def __init__(self) -> None:
        self.records: dict[str, images.Image] = {}

    @override
    async def get(self, name: str) -> images.Image:
        if name not in self.records:
            raise NotFoundError(f"image {name} not found")
        return self.records[name]

    @override
    async def list(self) -> list[images.Image]:
        return [self.records[name] for name in sorted(self.records)]

    @override
    async def by_target(self, digest_prefix: str) -> "list[images.Image]":
        bare = digest_prefix.removeprefix("sha256:")
        return [image for image in await self.list() if image.target.digest.hex.startswith(bare)]

    @override
    async def put(
        self,
        name: str,
        target: Descriptor,
        *,
        labels: Mapping[str, str] | None = None,
        displaced: str | None = None,
    ) -> images.Image | None:
        old = self.records.get(name)
        self.records[name] = images.Image(
            name=name, target=target, created_at=NOW, updated_at=NOW, labels=labels or {}
        )
        kept = {image.target.digest for image in self.records.values()}
        if old is not None and displaced is not None and old.target.digest not in kept:
            await self.put(displaced, old.target)
        return old

    @override
    async def delete(self, name: str, *, target: Descriptor | None = None) -> images.Image:
        image = await self.get(name)
        del self.records[name]
        return image


class FakeLayerWriter(snapshots.LayerWriter):
    def __init__(self, owner: "FakeSnapshotter", name: str, parent: str | None) -> None:
        self._owner, self._name, self._parent = owner, name, parent
        self._hasher = hashlib.sha256()
        self._finished = False

    @override
    def write(self, data: Buffer) -> None:
        if self._owner.failure is not None:
            raise self._owner.failure
        self._hasher.update(data)
        self._owner.written += memoryview(data).nbytes

    @override
    def finish(self) -> DiffID:
        self._finished = True
        return DiffID("sha256:" + self._hasher.hexdigest())

    @override
    async def commit(self, *, labels: snapshots.Labels = snapshots.NO_LABELS) -> None:
        missing = self._parent is not None and self._parent not in self._owner.committed
        if missing or not self._finished:
            raise FailedPreconditionError(f"layer {self._name} cannot be committed yet")
        self._owner.committed[self._name] = self._parent


class FakeSnapshotter(snapshots.Snapshotter):
    """Counts what it is given and remembers the stack; what cannot be asked of it, no transfer asks."""

    def __init__(self, *, parallel: bool) -> None:
        self.committed: dict[str, str | None] = {}
        self.failure: Exception | None = None
        self.written = 0
        self._parallel = parallel

    @property
    @override
    def name(self) -> str:
        return "overlayfs"

    @property
    @override
    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.PARALLEL_LAYERS} if self._parallel else ())

    @override
    async def stat(self, key: str) -> snapshots.SnapshotInfo:
        if key not in self.committed:
            raise NotFoundError(f"snapshot {key} not found")
        parent = self.committed[key]
        return snapshots.SnapshotInfo(
            key=key,
            kind=snapshots.Kind.COMMITTED,
            parent=SnapshotName(parent) if parent else None,
            created_at=NOW,
            updated_at=NOW,
        )

    @override
    @contextlib.asynccontextmanager
    async def open_layer(
        self,
        name: SnapshotName,
        parent: SnapshotName | None,
        *,
        diff_id: DiffID,
        compressed_size: int = 0,
        lease: LeaseID | None = None,
    ) -> AsyncGenerator[snapshots.LayerWriter]:
        if name in self.committed:
            raise AlreadyExistsError(f"snapshot {name} exists")
        if not self._parallel and parent is not None and parent not in self.committed:
            raise FailedPreconditionError(f"parent {parent} is not committed")
        yield FakeLayerWriter(self, name, parent)


class FakeBus(events.Bus):
    def __init__(self) -> None:
        self.events: list[events.Event] = []

    @override
    def publish(
        self, type: str, action: str, actor: str, attributes: Mapping[str, str] | None = None
    ) -> events.Event:
        event = events.Event(
            type=type, action=action, actor=actor, attributes=attributes or {}, time_nano=len(self.events)
        )
        self.events.append(event)
        return event

    @override
    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[events.Event]]:
        raise NotImplementedError

    @override
    def history(self, since_nano: int, until_nano: int) -> list[events.Event]:
        return [event for event in self.events if since_nano <= event.time_nano <= until_nano]
