"""Image records of a classic store: rows that answer, and Docker's files, which are written whenever a row changes.

A record points to a config. An image is there as long as it has a record, be it the one that stands for a dangling image; when
its last record goes, so does its config. The labels of the stored config keep its layers against the collector.
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

import anyio
from typing_extensions import override

from lading.classic.imagedb import ImageDatabase, Names
from lading.core import images, leases
from lading.core.images import Image, Pointed
from lading.core.leases import LeaseID
from lading.errors import NotFoundError
from lading.kit import aio
from lading.kit.failpoints import failpoint
from lading.oci import reference
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest

_KNOWN: Final = "classic.known."


class ClassicRecords(images.Store):
    """`images.Store` of one namespace over a classic store; the only one for it in this process.

    ``database`` is where the images are; who changes or reads them here goes through this one.
    """

    def __init__(
        self, rows: images.Store, database: ImageDatabase, names: Names, leases: leases.Manager
    ) -> None:
        self._rows = rows
        self._leases = leases
        self.database = database
        self._names = names
        self._one = anyio.Lock()

    @override
    async def get(self, name: str) -> Image:
        return await self._rows.get(name)

    @override
    async def list(self) -> "list[Image]":
        return await self._rows.list()

    @override
    async def by_target(self, digest_prefix: str) -> "list[Image]":
        return await self._rows.by_target(digest_prefix)

    @override
    async def create(
        self,
        name: str,
        target: Descriptor,
        *,
        labels: Mapping[str, str] | None = None,
        lease: LeaseID | None = None,
    ) -> Image:
        async with self._one:
            made = await self._rows.create(name, target, labels=labels, lease=lease)
            await self._write()
            return made

    @override
    async def put(
        self,
        name: str,
        target: Descriptor,
        *,
        labels: Mapping[str, str] | None = None,
        displaced: str | None = None,
    ) -> Pointed:
        async with self._one, self._leaving(None if displaced else name, unless=target):
            pointed = await self._rows.put(name, target, labels=labels, displaced=displaced)
            await self._write()
            if pointed.replaced is not None and pointed.moved:
                await self._drop_nameless(pointed.replaced.target.digest)
            return pointed

    @override
    async def update(self, name: str, *, labels: Mapping[str, str | None]) -> Image:
        return await self._rows.update(name, labels=labels)

    @override
    async def delete(self, name: str, *, target: Descriptor | None = None) -> Image:
        async with self._one, self._leaving(name):
            gone = await self._rows.delete(name, target=target)
            failpoint("classic.unnamed")
            await self._write()
            failpoint("classic.nameless")
            await self._drop_nameless(gone.target.digest)
            return gone

    @contextlib.asynccontextmanager
    async def _leaving(self, name: str | None, *, unless: Descriptor | None = None) -> AsyncGenerator[None]:
        """Note for the next start, while this goes on, that the image is to go whose only name this is."""
        image = await self._only_named(name) if name else None
        if image is None or (unless is not None and unless.digest == image):
            yield
            return
        await aio.run(aio.DISK, self.database.begin_removal, image)
        try:
            yield
        except BaseException:
            with anyio.CancelScope(shield=True):
                if await self._rows.by_target(image):
                    await aio.run(aio.DISK, self.database.end_removal, image)
            raise

    async def _only_named(self, name: str) -> Digest | None:
        try:
            image = (await self._rows.get(name)).target.digest
        except NotFoundError:
            return None
        return image if len(await self._rows.by_target(image)) == 1 else None

    async def _write(self) -> None:
        """Bring repositories.json in line. Shielded: a cancelled caller must not leave the two apart."""
        with anyio.CancelScope(shield=True):
            listed = repositories(await self._rows.list())
            await aio.run(aio.DISK, self._names.write, listed)

    async def _drop_nameless(self, image: Digest) -> None:
        if not await self._rows.by_target(image):
            with anyio.CancelScope(shield=True):
                await aio.run(aio.DISK, self.database.remove, image)
                with contextlib.suppress(NotFoundError):
                    await self._leases.delete(known_lease(image))


def known_lease(image: Digest) -> LeaseID:
    """The lease that keeps the manifest, and the index, that an image was pulled as."""
    return LeaseID(f"{_KNOWN}{image.hex}")


def known_image(lease: LeaseID) -> Digest | None:
    """The image that a `known_lease` is of, ``None`` for other leases."""
    return Digest(f"sha256:{lease.removeprefix(_KNOWN)}") if lease.startswith(_KNOWN) else None


def repositories(records: Sequence[Image]) -> dict[str, tuple[str, Digest]]:
    """What repositories.json says of these records: familiar name to repository and image."""
    found: dict[str, tuple[str, Digest]] = {}
    for record in records:
        if not reference.is_dangling(record.name):
            ref = reference.parse(record.name)
            found[ref.familiar] = (ref.familiar_name, record.target.digest)
    return found
