"""Blobs on their way in: one download per digest in this process, however many pulls want it.

A pull that wants a blob which another pull is fetching shows the same progress, waits, and finds the blob stored; if the
other gave up, it goes on where that one stopped. An ingest left by an earlier process is taken up likewise.
"""

import base64
import binascii
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from lading.core import content
from lading.core.content import IngestRef, Writer
from lading.core.leases import LeaseID
from lading.core.progress import Item, Phase, Progress
from lading.core.remotes import Fetcher
from lading.errors import AlreadyExistsError, DataLossError, InvalidArgumentError, NotFoundError
from lading.kit import aio
from lading.kit.tasks import KeyedLock
from lading.oci import mediatypes
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.transfer.labels import Sources, source_key
from lading.unpack.arriving import Arriving


def ingest_ref(descriptor: Descriptor) -> IngestRef:
    """The ref under which a blob is fetched: containerd's ``<kind>-<digest>``."""
    media_type = descriptor.media_type
    if mediatypes.is_manifest(media_type):
        kind = "manifest"
    elif mediatypes.is_index(media_type):
        kind = "index"
    elif media_type in mediatypes.CONFIGS:
        kind = "config"
    else:
        kind = "layer" if mediatypes.is_layer(media_type) else "unknown"
    return IngestRef(f"{kind}-{descriptor.digest}")


def check_length(descriptor: Descriptor, size: int) -> None:
    """Refuse a descriptor that gives a blob another length than it has (hostile-input.md D7)."""
    if size != descriptor.size:
        raise DataLossError(
            f"blob {descriptor.digest} is {size} bytes long, but was announced with {descriptor.size}",
            subject=descriptor.digest,
        )


@dataclass(slots=True, kw_only=True)
class Wish:
    """One blob that a pull wants. ``arriving`` is set as soon as its first bytes can be read."""

    descriptor: Descriptor
    item: Item | None = None
    started: anyio.Event = field(default_factory=anyio.Event)
    stored: anyio.Event = field(default_factory=anyio.Event)
    arriving: Arriving | None = None

    def start(self, arriving: Arriving) -> None:
        """Let whoever unpacks the blob begin."""
        self.arriving = arriving
        self.started.set()

    def settle(self) -> None:
        """The blob is in the store and verified."""
        if self.arriving is None:
            self.start(Arriving(self.descriptor))
        if self.arriving is not None:
            self.arriving.settled.set()
        self.stored.set()

    def restart(self) -> None:
        """What arrived was wrong and is fetched again."""
        arriving, self.arriving, self.started = self.arriving, None, anyio.Event()
        if arriving is not None:
            arriving.discard()

    async def source(self) -> Arriving:
        """The blob, as soon as its first bytes are there."""
        await self.started.wait()
        assert self.arriving is not None
        return self.arriving


class Downloads:
    """All downloads of one content store."""

    def __init__(self, store: content.Store, sources: Sources) -> None:
        self._content = store
        self._sources = sources
        self._flights = KeyedLock()
        self._items: dict[Digest, Item] = {}

    async def fetch(
        self,
        wish: Wish,
        *,
        fetcher: Fetcher,
        repository: Reference,
        lease: LeaseID,
        limiter: anyio.CapacityLimiter,
        progress: Progress,
    ) -> None:
        """See to it that the blob is in the store, whole, and labelled with its source.

        ``lease`` holds the manifest that names the blob, and so the blob if it is there; what is fetched joins the lease.
        Its row is durable once something was written that is, such as the name of its image.

        Raises:
            DataLossError: What arrived is not what the descriptor says; nothing of it is kept.
            NotFoundError: No host of the repository has it.
            UnavailableError: No host answered; what arrived is kept for the next try.

        """
        descriptor, digest = wish.descriptor, wish.descriptor.digest
        item = self._share(wish.item, digest, progress)
        fresh = False
        if not await self.stored(digest):
            async with self._flights.hold(digest):
                self._items[digest] = item
                try:
                    fresh = await self._fetch_alone(wish, item, fetcher, repository, lease, limiter)
                finally:
                    self._items.pop(digest, None)
        if not fresh:
            check_length(descriptor, (await self._content.info(digest)).size)
            if item.phase is Phase.WAITING:
                item.phase = Phase.EXISTS
            item.current = item.total = descriptor.size
            await self._sources.add(digest, repository)
        wish.settle()

    async def stored(self, digest: Digest) -> bool:
        """Whether the blob is there, its file too: one that was lost is fetched again."""
        return digest in await self._content.intact([digest])

    def _share(self, item: Item | None, digest: Digest, progress: Progress) -> Item:
        """The item of a running download of the blob, put in place of our own; else our own."""
        own = item or Item(id=digest.short)
        shared = self._items.get(digest)
        if shared is None:
            return own
        if item is not None:
            progress.items[item.id] = shared
        return shared

    async def _fetch_alone(
        self,
        wish: Wish,
        item: Item,
        fetcher: Fetcher,
        repository: Reference,
        lease: LeaseID,
        limiter: anyio.CapacityLimiter,
    ) -> bool:
        """Whether the blob had to be fetched. A prefix that turns out bad is thrown away and fetched once more."""
        descriptor = wish.descriptor
        ref = ingest_ref(descriptor)
        labels = {source_key(repository): repository.path}
        for attempt in itertools.count():
            try:
                async with self._content.open_writer(ref, expected=descriptor, lease=lease) as writer:
                    resumed_at = writer.offset
                    try:
                        async with self._followed(wish):
                            await self._receive(wish, item, writer, fetcher, limiter)
                            await writer.commit(labels=labels, durable=False)
                    except DataLossError:
                        if attempt or not resumed_at:
                            raise
                        wish.restart()
                        continue
            except AlreadyExistsError:
                return False
            break
        item.phase = Phase.DOWNLOADED
        return True

    @asynccontextmanager
    async def _followed(self, wish: Wish) -> AsyncGenerator[None]:
        """While the blob's writer is used: afterwards nobody reads the ingest that it writes.

        Followers read on while the blob is made durable, which can take as long as it took to arrive.
        """
        try:
            yield
        finally:
            if wish.arriving is not None:
                with anyio.CancelScope(shield=True):
                    await aio.run(aio.DISK, wish.arriving.detach)

    async def _receive(
        self, wish: Wish, item: Item, writer: Writer, fetcher: Fetcher, limiter: anyio.CapacityLimiter
    ) -> None:
        descriptor = wish.descriptor
        size = descriptor.size
        if writer.offset > size:
            await aio.run(aio.DISK, writer.truncate)
        item.total, item.current = size, writer.offset
        if descriptor.data is not None:
            await self._take_inline(descriptor, writer)
            return
        if writer.offset == size:
            return
        arriving = Arriving(descriptor, resumed=writer.offset > 0)
        arriving.attach(writer.pread, writer.offset)
        wish.start(arriving)

        def sink(data: memoryview) -> None:
            end = writer.offset + data.nbytes
            if end > size:
                raise DataLossError(f"blob {descriptor.digest} is longer than its {size} bytes")
            writer.write(data)
            arriving.advance(end)
            item.current = end

        try:
            async with limiter:
                item.phase = Phase.DOWNLOADING
                await fetcher.fetch(descriptor, sink, offset=writer.offset)
        except NotFoundError as exc:
            raise _foreign(descriptor, exc) from exc

    async def _take_inline(self, descriptor: Descriptor, writer: Writer) -> None:
        """Use the descriptor's own ``data`` (OCI descriptor.md), which must be what the descriptor says (D14)."""
        try:
            data = base64.b64decode(descriptor.data or "", validate=True)
        except binascii.Error as exc:
            raise InvalidArgumentError(f"descriptor {descriptor.digest} has data that is not base64") from exc
        if len(data) != descriptor.size or not descriptor.digest.matches(data):
            raise InvalidArgumentError(f"descriptor {descriptor.digest} has data with another digest or size")
        await aio.run(aio.DISK, writer.truncate)
        await aio.run(aio.DISK, writer.write, data)


def _foreign(descriptor: Descriptor, error: NotFoundError) -> NotFoundError:
    """Say what a foreign layer is: fetching from the URLs that an image names is off (D12)."""
    if descriptor.media_type not in mediatypes.FOREIGN_LAYERS:
        return error
    return NotFoundError(
        f"layer {descriptor.digest} is foreign, and the registry does not hold it",
        hint="its content is not fetched from URLs that the image names; push it to the registry",
        subject=descriptor.digest,
    )
