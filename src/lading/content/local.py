"""`LocalContentStore`: blobs in files, what they are in rows."""

import contextlib
import os
import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
)
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import anyio
from typing_extensions import override

from lading.content.files import LocalFiles, translate
from lading.content.many import check_digests, place_many
from lading.content.reader import LocalReader
from lading.content.writer import LocalWriter
from lading.core import content, metadata
from lading.core.content import NO_LABELS_OF_MANY, Info, IngestRef, IngestStatus, Labels
from lading.core.leases import LeaseID
from lading.core.metadata import IngestRow, Namespace
from lading.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from lading.kit import aio
from lading.kit.failpoints import failpoint
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest

_OCTETS: Final = "application/octet-stream"
EXPIRY: Final = timedelta(hours=24)
"""How long an ingest is kept that no lease holds."""


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class LocalContentStore(content.Store):
    """`content.Store` of one namespace on local files.

    Args:
        root: The directory, or the `LocalFiles` that it shares with stores of other namespaces.
        blobs: The namespace's rows.
        namespace: Its name, which keeps equal refs of different namespaces apart.
        clock: The time.

    """

    def __init__(
        self,
        root: Path | LocalFiles,
        blobs: metadata.Blobs,
        *,
        namespace: Namespace = Namespace("moby"),  # noqa: B008 -- a string
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.files = root if isinstance(root, LocalFiles) else LocalFiles(root)
        self._blobs = blobs
        self._namespace = namespace
        self._clock = clock
        self._restorer: content.Restorer | None = None

    @override
    def restore_by(self, restorer: content.Restorer) -> None:
        self._restorer = restorer

    @override
    async def info(self, digest: Digest) -> Info:
        return await self._blobs.get(digest)

    @override
    async def update(self, digest: Digest, labels: Mapping[str, str | None], *, durable: bool = True) -> Info:
        return await self._blobs.update(digest, labels, durable=durable)

    @override
    async def walk(self) -> AsyncIterator[Info]:
        for info in await self._blobs.list():
            yield info

    @override
    async def delete(self, digest: Digest) -> None:
        if await self._blobs.delete(digest):
            await self.delete_file(digest)

    async def delete_file(self, digest: Digest) -> int:
        """Delete the bytes of a blob that no namespace has any more; the number of bytes freed, 0 if there were none.

        Does nothing for a blob that has come back. Idempotent.
        """
        async with self.files.blobs.hold(digest):
            if await self._blobs.present(digest) is not None:
                return 0
            return await aio.run(aio.DISK, self._unlink, digest)

    def _unlink(self, digest: Digest) -> int:
        size = self.files.size(digest)
        if size is None:
            return 0
        failpoint("delete.before_unlink")
        self.files.blob(digest).unlink(missing_ok=True)
        return size

    @override
    @asynccontextmanager
    async def open_reader(self, digest: Digest) -> AsyncGenerator[LocalReader]:
        info = await self._blobs.get(digest)
        with await self._reader(info) as reader:
            if reader.size != info.size:
                raise self._lost(digest, f"has {reader.size} bytes instead of {info.size}")
            yield reader

    async def _reader(self, info: Info) -> LocalReader:
        try:
            return await aio.run(aio.DISK, self._open_used, info)
        except FileNotFoundError as exc:
            if not self._restorable(info):
                raise self._lost(info.digest, "is missing") from exc
        await self._bring_back(info)
        try:
            return await aio.run(aio.DISK, self._open_used, info)
        except FileNotFoundError as exc:  # it was released again, or deleted
            raise self._lost(info.digest, "is missing") from exc

    def _open_used(self, info: Info) -> LocalReader:
        path = self.files.blob(info.digest)
        reader = LocalReader(path)
        if self._restorable(info):
            os.utime(path)
        return reader

    def _restorable(self, info: Info) -> bool:
        return self._restorer is not None and self._restorer.can(info)

    async def _bring_back(self, info: Info) -> None:
        """Have the bytes of a blob made again. Whoever wants them, too, waits for the one who does it."""
        ref = IngestRef(f"restore-{info.digest}")
        descriptor = Descriptor(media_type=_OCTETS, digest=info.digest, size=info.size)
        try:
            async with self._writing(ref, descriptor, None, self._here) as writer:
                await self._restore(info, writer)
        except AlreadyExistsError:
            return

    async def _restore(self, info: Info, writer: LocalWriter) -> None:
        assert self._restorer is not None
        try:
            await aio.run(aio.DATA, writer.truncate)
            await self._restorer.restore(info, writer.write)
            failpoint("blob.restored")
            await writer.commit()
        except BaseException:
            with anyio.CancelScope(shield=True):  # the next attempt begins anew
                await aio.run(aio.DISK, writer.close)
                await self._discard(writer.ref, self.files.ingest(self._namespace, writer.ref))
            raise

    @override
    async def intact(self, digests: Collection[Digest]) -> Mapping[Digest, Info]:
        found = await self._blobs.infos(digests)
        return await aio.run(
            aio.DISK, lambda: {digest: info for digest, info in found.items() if self._intact(info)}
        )

    def _intact(self, info: Info) -> bool:
        size = self.files.size(info.digest)
        return size == info.size or (size is None and self._restorable(info))

    @override
    async def release(self, digest: Digest) -> int:
        if not self._restorable(await self._blobs.get(digest)):
            raise FailedPreconditionError(f"nobody can make blob {digest} again", subject=digest)
        if await self._blobs.elsewhere(digest):
            return 0
        async with self.files.blobs.hold(digest):
            freed = await aio.run(aio.DISK, self._unlink, digest)
            failpoint("blob.released")
            await self._blobs.set_away({digest: True})
            return freed

    @override
    async def last_used(self, digests: Collection[Digest]) -> Mapping[Digest, float]:
        return await aio.run(aio.DISK, lambda: dict(self._times(digests)))

    def _times(self, digests: Collection[Digest]) -> Iterator[tuple[Digest, float]]:
        for digest in digests:
            with contextlib.suppress(FileNotFoundError):
                yield digest, self.files.blob(digest).stat().st_mtime

    def open_file(self, digest: Digest) -> int:
        """A descriptor of a blob's file, for whoever hashes what it reads. Blocking. Raises `FileNotFoundError`."""
        return os.open(self.files.blob(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    @staticmethod
    def _lost(digest: Digest, how: str) -> DataLossError:
        return DataLossError(f"the file of blob {digest} {how}", hint="pull its image again", subject=digest)

    @override
    async def read(self, digest: Digest, *, limit: int) -> bytes:
        info = await self._blobs.get(digest)
        if self._restorable(info):
            with await self._reader(info):
                pass
        return await aio.run(aio.DISK, self._read, digest, info.size, limit)

    def _read(self, digest: Digest, size: int, limit: int) -> bytes:
        try:
            with LocalReader(self.files.blob(digest)) as reader:
                if reader.size != size:
                    raise self._lost(digest, f"has {reader.size} bytes instead of {size}")
                if size > limit:
                    raise ResourceExhaustedError(
                        f"blob {digest} has {size} bytes, more than {limit}", subject=digest
                    )
                data = reader.pread(size, 0)
        except FileNotFoundError as exc:
            raise self._lost(digest, "is missing") from exc
        if not digest.matches(data):
            raise self._lost(digest, "has other bytes")
        return data

    @override
    async def read_many(self, digests: Collection[Digest], *, limit: int) -> Mapping[Digest, bytes]:
        sizes = await self._blobs.sizes(digests)
        return await aio.run(
            aio.DISK,
            lambda: {
                digest: self._read(digest, sizes[digest], limit) for digest in digests if digest in sizes
            },
        )

    @override
    async def infos(self, digests: Collection[Digest]) -> Mapping[Digest, Info]:
        return await self._blobs.infos(digests)

    @override
    async def sizes(self, digests: Collection[Digest]) -> Mapping[str, int]:
        return await self._blobs.sizes(digests)

    async def verify(self, digest: Digest) -> None:
        """Hash a whole blob. Raises `NotFoundError`; `DataLossError` if it is damaged."""
        async with self.open_reader(digest):
            if not await aio.run(aio.DATA, self.files.rehash, self.files.blob(digest), digest):
                raise self._lost(digest, "has other bytes")

    @override
    @asynccontextmanager
    async def open_writer(
        self, ref: IngestRef, *, expected: Descriptor | None = None, lease: LeaseID | None = None
    ) -> AsyncGenerator[LocalWriter]:
        if not ref:
            raise InvalidArgumentError("an ingest needs a ref")
        async with self._writing(ref, expected, lease, self._have) as writer:
            yield writer

    @asynccontextmanager
    async def _writing(
        self,
        ref: IngestRef,
        expected: Descriptor | None,
        lease: LeaseID | None,
        have: Callable[[Descriptor, LeaseID | None], Awaitable[bool]],
    ) -> AsyncGenerator[LocalWriter]:
        directory = self.files.ingest(self._namespace, ref)
        async with self.files.ingests.hold(directory):
            if expected is not None and await have(expected, lease):
                if await aio.run(aio.DISK, directory.exists):
                    await self._discard(ref, directory)
                raise AlreadyExistsError(f"blob {expected.digest} exists", subject=expected.digest)

            async def publish(digest: Digest, size: int, labels: Labels, durable: bool) -> Info:
                return await self._blobs.add(
                    digest, size, labels=labels, ref=ref, lease=lease, durable=durable
                )

            async def discard() -> None:
                await self._discard(ref, directory)

            writer = LocalWriter(
                self.files, directory, ref, expected=expected, publish=publish, discard=discard
            )
            try:
                await self._open(writer, directory, expected, lease)
                yield writer
            finally:
                with anyio.CancelScope(shield=True):
                    await aio.run(aio.DISK, writer.release)

    async def _open(
        self, writer: LocalWriter, directory: Path, expected: Descriptor | None, lease: LeaseID | None
    ) -> None:
        now = self._clock()
        try:
            new = await aio.run(aio.DISK, self.files.create_ingest, directory, writer.ref, now)
            failpoint("open.after_directory")
            row = IngestRow(
                ref=writer.ref,
                expected=expected.digest if expected else None,
                total=expected.size if expected else 0,
                started_at=now,
                expires_at=now + EXPIRY,
            )
            try:
                await self._blobs.open_ingest(row, lease=lease)
            except LadingError:
                if new:
                    await self.files.discard_ingest(directory)
                raise
            failpoint("open.after_row")
            await aio.run(aio.DATA, writer.open)
        except OSError as exc:
            raise translate(exc, writer.ref, self.files.root) from exc

    async def _have(self, expected: Descriptor, lease: LeaseID | None) -> bool:
        """Whether the namespace has the blob, whole; then it joins ``lease``. One whose file is lost is written again."""
        info = (await self.intact([expected.digest])).get(expected.digest)
        if info is None or info.size != expected.size:
            return False
        return lease is None or await self._blobs.hold(expected.digest, lease)

    async def _here(self, expected: Descriptor, lease: LeaseID | None) -> bool:
        """Whether the bytes of a blob are here; the leases of its row are left alone."""
        del lease
        return await aio.run(aio.DISK, self.files.size, expected.digest) == expected.size

    @override
    async def put_many(
        self,
        blobs: Mapping[Digest, bytes],
        *,
        labels: Mapping[Digest, Labels] = NO_LABELS_OF_MANY,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> None:
        await aio.run(aio.DATA, check_digests, blobs)
        directory = self.files.ingest(self._namespace, IngestRef(f"many-{uuid.uuid4()}"))
        with anyio.CancelScope(shield=True):
            async with self.files.ingests.hold(directory), AsyncExitStack() as stack:
                for digest in sorted(blobs):  # in order, so that two calls never wait for each other
                    await stack.enter_async_context(self.files.blobs.hold(digest))
                known = await self._blobs.sizes(blobs)
                try:
                    await aio.run(aio.DISK, place_many, self.files, directory, blobs, known)
                    await self._blobs.add_many(
                        {d: len(data) for d, data in blobs.items()},
                        labels=labels,
                        lease=lease,
                        durable=durable,
                    )
                finally:
                    await self.files.discard_ingest(directory)

    @override
    async def label(self, labels: Mapping[Digest, Labels], *, lease: LeaseID | None = None) -> None:
        await self._blobs.label(labels, lease=lease)

    @override
    async def status(self, ref: IngestRef) -> IngestStatus:
        for row in await self._blobs.ingests():
            if row.ref == ref:
                return await aio.run(aio.DISK, self._status, row)
        raise NotFoundError(f"no ingest {ref}", subject=ref)

    @override
    async def statuses(self) -> list[IngestStatus]:
        rows = await self._blobs.ingests()
        return await aio.run(aio.DISK, lambda: [self._status(row) for row in rows])

    def _status(self, row: IngestRow) -> IngestStatus:
        directory = self.files.ingest(self._namespace, row.ref)
        try:
            status = (directory / "data").stat()
            offset, updated_at = status.st_size, datetime.fromtimestamp(status.st_mtime, UTC)
        except FileNotFoundError:  # a row is there a moment before its file
            offset, updated_at = 0, row.started_at
        try:
            started_at = datetime.fromisoformat((directory / "startedat").read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            started_at = row.started_at
        return IngestStatus(
            ref=row.ref,
            offset=offset,
            total=row.total,
            expected=row.expected,
            started_at=started_at,
            updated_at=max(updated_at, started_at),
        )

    @override
    async def abort(self, ref: IngestRef) -> None:
        if all(row.ref != ref for row in await self._blobs.ingests()):
            raise NotFoundError(f"no ingest {ref}", subject=ref)
        directory = self.files.ingest(self._namespace, ref)
        if self.files.ingests.held(directory):
            raise UnavailableError(f"the ingest {ref} is being written", hint="end that first", subject=ref)
        async with self.files.ingests.hold(directory):
            await self._discard(ref, directory)

    async def delete_ingest(self, ref: IngestRef) -> None:
        """Delete the files of an ingest whose row is gone, unless it is being written; idempotent."""
        directory = self.files.ingest(self._namespace, ref)
        if not self.files.ingests.held(directory):
            async with self.files.ingests.hold(directory):
                await self.files.discard_ingest(directory)

    async def _discard(self, ref: IngestRef, directory: Path) -> None:
        await self.files.discard_ingest(directory)
        await self._blobs.close_ingest(ref)
