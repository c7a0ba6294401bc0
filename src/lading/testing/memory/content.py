"""`MemoryContentStore`: the content port over byte arrays. Stores that share a `Bytes` share blobs across namespaces."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from typing_extensions import Buffer, override

from lading.core import content, metadata
from lading.core.content import (
    NO_LABELS,
    NO_LABELS_OF_MANY,
    DigestMismatchError,
    Info,
    IngestRef,
    IngestStatus,
    Labels,
    SizeMismatchError,
)
from lading.core.leases import LeaseID
from lading.core.metadata import IngestRow, Namespace
from lading.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    UnsupportedError,
)
from lading.kit.tasks import KeyedLock
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest


class Bytes:
    """What a disk would hold."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.ingests: dict[tuple[Namespace, IngestRef], bytearray] = {}
        self.totals: dict[tuple[Namespace, IngestRef], int] = {}
        self.busy = KeyedLock()


class MemoryReader(content.Reader):
    """`content.Reader` of a byte string."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    @override
    def size(self) -> int:
        return len(self._data)

    @override
    def fileno(self) -> int:
        raise UnsupportedError("the blob is in memory")

    @override
    def pread(self, length: int, offset: int) -> bytes:
        return self._data[offset : offset + length]

    @override
    def readinto(self, buffer: Buffer, offset: int) -> int:
        view = memoryview(buffer).cast("B")
        data = self.pread(len(view), offset)
        view[: len(data)] = data
        return len(data)


class MemoryWriter(content.Writer):
    """`content.Writer` of a `MemoryContentStore`."""

    def __init__(
        self, store: "MemoryContentStore", ref: IngestRef, expected: Descriptor | None, lease: LeaseID | None
    ) -> None:
        self._store = store
        self._ref = ref
        self._expected = expected
        self._lease = lease
        self._data = store.bytes.ingests[store.namespace, ref]
        self.closed = False

    def _check_open(self) -> None:
        if self.closed:
            raise FailedPreconditionError(f"the writer of {self._ref} is closed", subject=self._ref)

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
        return Digest.of(self._data, algorithm)

    @override
    def write(self, data: Buffer) -> None:
        self._check_open()
        self._data += memoryview(data).cast("B")

    @override
    def pread(self, length: int, offset: int) -> bytes:
        return bytes(self._data[offset : offset + length])

    @override
    def truncate(self) -> None:
        self._check_open()
        self._data.clear()

    @override
    async def commit(
        self,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        labels: Labels = NO_LABELS,
        durable: bool = True,
    ) -> Info:
        self._check_open()
        if self._expected is not None:
            size = self._expected.size if size is None else size
            expected = expected or self._expected.digest
        digest = self.digest(expected.algorithm if expected else "sha256")
        self.closed = True
        if size is not None and len(self._data) != size:
            await self._store.discard(self._ref)
            raise SizeMismatchError(f"{self._ref} has {len(self._data)} bytes, not {size}", subject=self._ref)
        if expected is not None and digest != expected:
            await self._store.discard(self._ref)
            raise DigestMismatchError(f"{self._ref} has digest {digest}, not {expected}", subject=expected)
        self._store.bytes.blobs[digest] = bytes(self._data)
        info = await self._store.rows.add(
            digest, len(self._data), labels=labels, ref=self._ref, lease=self._lease, durable=durable
        )
        await self._store.discard(self._ref)
        return info


class MemoryContentStore(content.Store):
    """`content.Store` in memory.

    Args:
        rows: The namespace's rows, e.g. of a `MemoryDatabase`.
        data: The bytes, shared with stores of other namespaces; its own if not given.
        namespace: Its name.

    """

    def __init__(
        self,
        rows: metadata.Blobs,
        *,
        data: Bytes | None = None,
        namespace: Namespace = Namespace("moby"),  # noqa: B008 -- a string
    ) -> None:
        self.rows = rows
        self.bytes = data or Bytes()
        self.namespace = namespace
        self._restorer: content.Restorer | None = None
        self._used: dict[Digest, float] = {}

    @override
    def restore_by(self, restorer: content.Restorer) -> None:
        self._restorer = restorer

    def _restorable(self, info: Info) -> bool:
        return self._restorer is not None and self._restorer.can(info)

    async def _bring_back(self, info: Info) -> None:
        assert self._restorer is not None
        async with self.bytes.busy.hold((self.namespace, IngestRef(f"restore-{info.digest}"))):
            made = bytearray()

            def write(data: Buffer) -> None:
                made.extend(memoryview(data).cast("B"))

            await self._restorer.restore(info, write)
            if not info.digest.matches(made):
                raise DigestMismatchError(f"what was made is not {info.digest}", subject=info.digest)
            self.bytes.blobs[info.digest] = bytes(made)
            await self.rows.set_away({info.digest: False})

    @override
    async def intact(self, digests: Collection[Digest]) -> Mapping[Digest, Info]:
        found = await self.rows.infos(digests)
        return {digest: info for digest, info in found.items() if self._intact(info)}

    def _intact(self, info: Info) -> bool:
        data = self.bytes.blobs.get(info.digest)
        return self._restorable(info) if data is None else len(data) == info.size

    @override
    async def release(self, digest: Digest) -> int:
        if not self._restorable(await self.rows.get(digest)):
            raise FailedPreconditionError(f"nobody can make blob {digest} again", subject=digest)
        if await self.rows.elsewhere(digest):
            return 0
        freed = len(self.bytes.blobs.pop(digest, b""))
        await self.rows.set_away({digest: True})
        return freed

    @override
    async def last_used(self, digests: Collection[Digest]) -> Mapping[Digest, float]:
        return {digest: self._used.get(digest, 0.0) for digest in digests if digest in self.bytes.blobs}

    @override
    async def info(self, digest: Digest) -> Info:
        return await self.rows.get(digest)

    @override
    async def update(self, digest: Digest, labels: Mapping[str, str | None], *, durable: bool = True) -> Info:
        return await self.rows.update(digest, labels, durable=durable)

    @override
    async def walk(self) -> AsyncIterator[Info]:
        for info in await self.rows.list():
            yield info

    @override
    async def delete(self, digest: Digest) -> None:
        if await self.rows.delete(digest):
            await self.delete_file(digest)

    async def delete_file(self, digest: Digest) -> int:
        """Forget bytes without a row, as `LocalContentStore.delete_file`."""
        if await self.rows.present(digest) is not None:
            return 0
        return len(self.bytes.blobs.pop(digest, b""))

    async def delete_ingest(self, ref: IngestRef) -> None:
        """Forget an ingest without a row."""
        if not self.bytes.busy.held((self.namespace, ref)):
            self.bytes.ingests.pop((self.namespace, ref), None)

    @override
    @asynccontextmanager
    async def open_reader(self, digest: Digest) -> AsyncGenerator[MemoryReader]:
        info = await self.rows.get(digest)
        if digest not in self.bytes.blobs and self._restorable(info):
            await self._bring_back(info)
        self._used[digest] = time.time()
        data = self.bytes.blobs.get(digest)
        if data is None or len(data) != info.size:
            raise DataLossError(f"the bytes of blob {digest} are lost", subject=digest)
        yield MemoryReader(data)

    @override
    async def read(self, digest: Digest, *, limit: int) -> bytes:
        async with self.open_reader(digest) as reader:
            if reader.size > limit:
                raise ResourceExhaustedError(
                    f"blob {digest} has {reader.size} bytes, more than {limit}", subject=digest
                )
            data = reader.pread(reader.size, 0)
        if not digest.matches(data):
            raise DataLossError(f"blob {digest} has other bytes", subject=digest)
        return data

    @override
    async def read_many(self, digests: Collection[Digest], *, limit: int) -> Mapping[Digest, bytes]:
        return {digest: await self.read(digest, limit=limit) for digest in await self._here(digests)}

    @override
    async def infos(self, digests: Collection[Digest]) -> Mapping[Digest, Info]:
        return await self.rows.infos(digests)

    @override
    async def sizes(self, digests: Collection[Digest]) -> Mapping[str, int]:
        return await self.rows.sizes(digests)

    async def _here(self, digests: Collection[Digest]) -> list[Digest]:
        sizes = await self.rows.sizes(digests)
        return [digest for digest in digests if digest in sizes]

    @override
    @asynccontextmanager
    async def open_writer(
        self, ref: IngestRef, *, expected: Descriptor | None = None, lease: LeaseID | None = None
    ) -> AsyncGenerator[MemoryWriter]:
        if not ref:
            raise InvalidArgumentError("an ingest needs a ref")
        key = (self.namespace, ref)
        async with self.bytes.busy.hold(key):
            if expected is not None and await self._have(expected, lease):
                await self.discard(ref)
                raise AlreadyExistsError(f"blob {expected.digest} exists", subject=expected.digest)
            now = datetime.now(UTC)
            total = expected.size if expected else 0
            row = IngestRow(
                ref=ref,
                expected=expected.digest if expected else None,
                total=total,
                started_at=now,
                expires_at=now + timedelta(hours=24),
            )
            await self.rows.open_ingest(row, lease=lease)
            if total and self.bytes.totals.get(key, 0) not in (0, total):
                self.bytes.ingests.pop(key, None)
            self.bytes.totals[key] = total
            self.bytes.ingests.setdefault(key, bytearray())
            writer = MemoryWriter(self, ref, expected, lease)
            try:
                yield writer
            finally:
                writer.closed = True

    async def _have(self, expected: Descriptor, lease: LeaseID | None) -> bool:
        info = (await self.intact([expected.digest])).get(expected.digest)
        if info is None or info.size != expected.size:
            return False
        return lease is None or await self.rows.hold(expected.digest, lease)

    @override
    async def put_many(
        self,
        blobs: Mapping[Digest, bytes],
        *,
        labels: Mapping[Digest, Labels] = NO_LABELS_OF_MANY,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> None:
        for digest, data in blobs.items():
            if not digest.matches(data):
                raise DigestMismatchError(f"the bytes for {digest} have another digest", subject=digest)
        self.bytes.blobs.update(blobs)
        await self.rows.add_many(
            {digest: len(data) for digest, data in blobs.items()}, labels=labels, lease=lease
        )

    @override
    async def label(self, labels: Mapping[Digest, Labels], *, lease: LeaseID | None = None) -> None:
        await self.rows.label(labels, lease=lease)

    @override
    async def status(self, ref: IngestRef) -> IngestStatus:
        for status in await self.statuses():
            if status.ref == ref:
                return status
        raise NotFoundError(f"no ingest {ref}", subject=ref)

    @override
    async def statuses(self) -> list[IngestStatus]:
        return [
            IngestStatus(
                ref=row.ref,
                offset=len(self.bytes.ingests.get((self.namespace, row.ref), b"")),
                total=row.total,
                expected=row.expected,
                started_at=row.started_at,
                updated_at=row.started_at,
            )
            for row in await self.rows.ingests()
        ]

    @override
    async def abort(self, ref: IngestRef) -> None:
        await self.status(ref)
        if self.bytes.busy.held((self.namespace, ref)):
            raise UnavailableError(f"the ingest {ref} is being written", subject=ref)
        await self.discard(ref)

    async def discard(self, ref: IngestRef) -> None:
        """Forget an ingest, bytes and row."""
        self.bytes.ingests.pop((self.namespace, ref), None)
        self.bytes.totals.pop((self.namespace, ref), None)
        await self.rows.close_ingest(ref)
