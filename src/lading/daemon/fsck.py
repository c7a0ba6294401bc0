"""Check: does every blob still have its digest, every image its target, every layer what its blob unpacks to; and repair.

A damaged blob is fetched again from the registries that its distribution labels name, verified, and only then put in the place
of the damaged one. A damaged layer is unpacked again from its blob, as long as no container runs on it; the classic store, which
keeps no blobs, fetches it from where the layer was seen. What cannot be repaired stays as it is, and is named.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio
import msgspec

from lading.core import content, images, leases
from lading.core.classic import ClassicStore, SeenBlob
from lading.core.content import Info, IngestRef
from lading.core.labels import RECIPE
from lading.core.leases import LeaseID
from lading.core.remotes import Registries
from lading.errors import AlreadyExistsError, DataLossError, LadingError, NotFoundError
from lading.kit import aio
from lading.oci.descriptor import Descriptor
from lading.oci.digest import ChainID, Digest, new_hasher
from lading.oci.reference import Reference
from lading.transfer.labels import repositories
from lading.transfer.restoring import FromRegistry, way_of
from lading.unpack.checking import Checkable, LayerChecker
from lading.unpack.unpacker import Layer

_CHUNK: Final = 4 * 1024 * 1024
_OCTETS: Final = "application/octet-stream"
_PURPOSE: Final = {"lading.purpose": "fsck"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checker:
    """Checks one namespace."""

    store: content.Store
    records: images.Store
    leases: leases.Manager
    registries: Registries
    restorer: content.Restorer
    layers: LayerChecker
    running: Callable[[], Awaitable[Mapping[str, str]]]
    """Asks which snapshots running containers stand on, and for the name of such a container."""
    classic: ClassicStore | None = None

    async def run(self, *, repair: bool) -> AsyncIterator[dict[str, Any]]:
        """Progress in bytes (``current``, ``total``), a ``finding`` for each piece of damage, at last a ``result``."""
        blobs = [info async for info in self.store.walk()]
        layers = await self.layers.layers()
        # A layer costs what reading and unpacking its blob costs.
        total = sum(info.size for info in blobs) + sum(layer.blob.size for layer in layers)
        done = repaired = damaged = 0
        for info in blobs:
            yield {"current": done, "total": total}
            problem = await self._problem(info)
            done += info.size
            if problem:
                damaged += 1
                healed, words = await self._repair(info) if repair else (False, "")
                repaired += healed
                yield _finding("blob", info.digest, f"{problem}{words}", repaired=healed)
        present = {info.digest for info in blobs}
        for image in await self.records.list():
            if image.target.digest not in present:
                damaged += 1
                yield _finding(
                    "image", image.name, f"its target {image.target.digest} is not here", repaired=False
                )
        async for layer, problem, healed in self._check_layers(repair=repair):
            yield {"current": done, "total": total}
            done += layer.blob.size
            if problem:
                damaged += 1
                repaired += healed
                yield _finding("layer", layer.name, problem, repaired=healed)
        checked = len(blobs) + len(layers)
        async for name, problem, healed in self._check_classic(repair=repair):
            checked += 1
            if problem:
                damaged += 1
                repaired += healed
                yield _finding("layer", name, problem, repaired=healed)
        result = {"Checked": checked, "Bytes": total, "Damaged": damaged, "Repaired": repaired}
        yield {"current": total, "total": total, "result": result}

    async def _check_layers(self, *, repair: bool) -> AsyncIterator[tuple[Checkable, str, bool]]:
        """Each layer, what is wrong with it or nothing, and whether it is well again."""
        lease = await self.leases.create(labels=_PURPOSE)
        try:
            for layer in await self.layers.layers():  # of the blobs as they are now
                try:
                    problem = await self.layers.problem(layer, lease=lease.id)
                    healed, words = await self._repair_layer(layer) if problem and repair else (False, "")
                    await self.layers.forget(layer)
                except NotFoundError:
                    continue  # deleted meanwhile
                except LadingError as exc:
                    yield layer, f"cannot be checked: {exc.message}", False
                else:
                    yield layer, f"{problem}{words}", healed
        finally:
            with anyio.CancelScope(shield=True):
                await self.leases.delete(lease.id)

    async def _repair_layer(self, layer: Checkable) -> tuple[bool, str]:
        """Whether the layer is well again, and words for the finding."""
        user = (await self.running()).get(layer.name)
        if user is not None:
            return False, f"; container {user} runs on it: stop it, then repair"
        await self.layers.repair(layer)
        return True, f"; unpacked again from {layer.blob.digest}"

    async def _check_classic(self, *, repair: bool) -> AsyncIterator[tuple[ChainID, str, bool]]:
        """Each layer of the classic store, what is wrong with it or nothing, and whether it is well again."""
        if self.classic is None:
            return
        async for name, problem in self.classic.check_layers():
            healed, words = await self._remake(self.classic, name) if problem and repair else (False, "")
            yield name, f"{problem}{words}", healed

    async def _remake(self, classic: ClassicStore, name: ChainID) -> tuple[bool, str]:
        """Whether a layer is well again, out of a registry where it was seen, and words for the finding."""
        user = (await self.running()).get(name)
        if user is not None:
            return False, f"; container {user} runs on it: stop it, then repair"
        said: list[str] = []
        diff_id, blobs = await classic.seen(name)
        parent = await self.layers.parent(name)
        for seen in blobs:
            lease = await self.leases.create(labels=_PURPOSE)
            try:
                blob = await self._fetch_new(seen, lease.id)
                layer = Layer(descriptor=blob, diff_id=diff_id, chain_id=name, parent=parent)
                await self.layers.remake(layer, lease=lease.id)
            except LadingError as exc:
                said.append(f"{seen.repository.name}: {exc.message}")
            else:
                return True, f"; unpacked again from {blob.digest}, fetched from {seen.repository.name}"
            finally:
                with anyio.CancelScope(shield=True):
                    await self.leases.delete(lease.id)
        why = "; ".join(said) if said else "no registry is known that has it"
        return False, f"; {why}; remove its images and pull, load or build them again"

    async def _problem(self, info: Info) -> str:
        """What is wrong with a blob, or empty."""
        try:
            found = await self._found(info)
        except NotFoundError:
            return ""  # deleted meanwhile
        except DataLossError as exc:
            return exc.message
        except OSError as exc:
            return f"cannot be read: {exc.strerror}"
        return "" if found == info.digest else f"is damaged: its bytes are {found}"

    async def _found(self, info: Info) -> Digest:
        """The digest of a blob's bytes, or of those that would be made again; they stay away. A registry is not asked."""
        if not await self.store.last_used([info.digest]) and self.restorer.can(info):
            hasher = info.digest.hasher()
            if isinstance(way_of(info), FromRegistry):
                return info.digest
            await self.restorer.restore(info, hasher.update)
            return Digest.from_hasher(hasher, info.digest.algorithm)
        async with self.store.open_reader(info.digest) as reader:
            return await aio.run(aio.DATA, _digest_of, reader, info.digest.algorithm)

    async def _repair(self, info: Info) -> tuple[bool, str]:
        """Whether the blob is well again, and words for the finding."""
        said: list[str] = []
        lease = await self.leases.create(labels=_PURPOSE)
        try:
            for repository in repositories(info):
                try:
                    await self._fetch(info, repository, lease.id)
                except LadingError as exc:
                    said.append(f"{repository.name}: {exc.message}")
                else:
                    return True, f"; fetched again from {repository.name}"
        finally:
            await self.leases.delete(lease.id)
        return False, "; " + ("; ".join(said) if said else "no registry is known that has it")

    async def _fetch(self, info: Info, repository: Reference, lease: LeaseID) -> None:
        descriptor = Descriptor(media_type=_OCTETS, digest=info.digest, size=info.size)
        fetcher = self.registries.resolver().fetcher(repository)
        async with self.store.open_writer(IngestRef(f"fsck-{info.digest}"), lease=lease) as writer:
            await aio.run(aio.DATA, writer.truncate)
            await fetcher.fetch(descriptor, writer.write)
            if writer.offset != info.size or writer.digest(info.digest.algorithm) != info.digest:
                raise DataLossError(f"{repository.name} has other bytes for {info.digest}")
            await self.store.delete(info.digest)
            # How it was made of a snapshot is not believed any more.
            kept = {key: value for key, value in info.labels.items() if key != RECIPE}
            await writer.commit(size=info.size, expected=info.digest, labels=kept)

    async def _fetch_new(self, seen: SeenBlob, lease: LeaseID) -> Descriptor:
        """Have a blob in the store that was seen in a registry, held by ``lease``."""
        resolver = self.registries.resolver()
        blob = seen.blob
        if not blob.size:
            size = await resolver.pusher(seen.repository).size(blob.digest)
            if size is None:
                raise NotFoundError(f"it has no blob {blob.digest}", subject=blob.digest)
            blob = msgspec.structs.replace(blob, size=size)
        ref = IngestRef(f"fsck-{blob.digest}")
        try:
            async with self.store.open_writer(ref, expected=blob, lease=lease) as writer:
                await aio.run(aio.DATA, writer.truncate)
                await resolver.fetcher(seen.repository).fetch(blob, writer.write)
                await writer.commit()
        except AlreadyExistsError:
            pass  # it is here for another reason
        return blob


def _digest_of(reader: content.Reader, algorithm: str) -> Digest:
    hasher = new_hasher(algorithm)
    buffer = memoryview(bytearray(_CHUNK))
    offset = 0
    while count := reader.readinto(buffer, offset):
        hasher.update(buffer[:count])
        offset += count
    return Digest.from_hasher(hasher, algorithm)


def _finding(kind: str, name: str, problem: str, *, repaired: bool) -> dict[str, Any]:
    return {"finding": {"Kind": kind, "ID": str(name), "Problem": problem, "Repaired": repaired}}
