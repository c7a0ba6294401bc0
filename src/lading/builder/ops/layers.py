"""Layers: the differences of a tree as blobs. Those of base images keep their own; others are made in one pass, once."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

import anyio

from lading.builder.ops.records import Records
from lading.builder.ops.trees import Tree, Trees
from lading.builder.results import Compression, Layer, LayerForm
from lading.core import content
from lading.core.buildcache import BuildCache, LayerBlob
from lading.core.content import IngestRef
from lading.core.labels import UNCOMPRESSED
from lading.core.leases import LeaseID, Manager, Resource
from lading.core.snapshots import SnapshotName
from lading.errors import DataLossError, NotFoundError
from lading.formats import compression, estargz
from lading.formats.packing import LayerPacker
from lading.kit import aio
from lading.kit.tasks import KeyedLock, task_group
from lading.oci import mediatypes
from lading.oci.descriptor import Descriptor
from lading.oci.digest import ChainID, DiffID, Digest, chain_id

_READ: Final = 1 << 20
_INGESTS: Final = "build-layer-"
_TYPES: Final = {
    Compression.UNCOMPRESSED: (compression.Compression.NONE, mediatypes.OCI_LAYER),
    Compression.GZIP: (compression.Compression.GZIP, mediatypes.OCI_LAYER_GZIP),
    Compression.ESTARGZ: (compression.Compression.GZIP, mediatypes.OCI_LAYER_GZIP),
    Compression.ZSTD: (compression.Compression.ZSTD, mediatypes.OCI_LAYER_ZSTD),
}


class Layers:
    """Makes layer blobs."""

    def __init__(
        self, trees: Trees, cache: BuildCache, store: content.Store, leases: Manager, records: Records
    ) -> None:
        self._trees = trees
        self._cache = cache
        self._content = store
        self._leases = leases
        self._records = records
        self._locks = KeyedLock()

    async def layers(self, tree: Tree, form: LayerForm, lease: LeaseID) -> list[Layer]:
        """See `Ref.layers`."""
        if not form.packed:
            return await self._unpacked(tree, form.epoch, lease)
        names = await self._names(tree)
        found: dict[int, Layer] = {}
        async with task_group() as group:

            async def make(number: int, name: SnapshotName) -> None:
                found[number] = await self._layer(name, form, lease)

            for number, name in enumerate(names):
                group.start_soon(make, number, name)
        return [found[number] for number in range(len(names))]

    async def _names(self, tree: Tree) -> Sequence[SnapshotName]:
        """The snapshots whose differences make a tree, bottom first; all of them are there."""
        if tree.folder is not None:
            name = await self._trees.snapshot(tree)
            return [name] if name is not None else []
        if tree.base is not None:
            await tree.base.bring()
        return tree.layers

    async def _unpacked(self, tree: Tree, epoch: int | None, lease: LeaseID) -> list[Layer]:
        """The layers as snapshots under their chain IDs; those of base images are there already."""
        driver = self._trees.snapshotter.name
        layers: list[Layer] = []
        below: ChainID | None = None
        for name in await self._names(tree):
            arrived = await self._cache.layer(driver, name, "")
            diff_id = await self._trees.diff_id(name, epoch) if arrived is None else arrived.diff_id
            chain = chain_id(below, diff_id)
            place = SnapshotName(chain)
            async with self._locks.hold(chain):
                await self._leases.add(lease, Resource(kind="snapshot", id=place, snapshotter=driver))
                try:
                    await self._trees.snapshotter.stat(place)
                except NotFoundError:
                    parent = SnapshotName(below) if below is not None else None
                    kept = epoch if arrived is None else None
                    await self._trees.copy(name, parent, place, diff_id, epoch=kept, lease=lease)
            vertex, created = await self._records.maker(name)
            named = Descriptor(media_type=mediatypes.OCI_LAYER, digest=Digest(diff_id), size=0)
            layers.append(Layer(descriptor=named, diff_id=diff_id, vertex=vertex, created_at=created))
            below = chain
        return layers

    async def _layer(self, name: SnapshotName, form: LayerForm, lease: LeaseID) -> Layer:
        async with self._locks.hold((name, form)):
            blob = await self._known(name, form, lease)
            if blob is None:
                blob = await self._make(name, form, lease)
        vertex, created = await self._records.maker(name)
        return Layer(descriptor=blob.descriptor, diff_id=blob.diff_id, vertex=vertex, created_at=created)

    async def _known(self, name: SnapshotName, form: LayerForm, lease: LeaseID) -> LayerBlob | None:
        """A blob of this form that is there already; without force, any form will do for an image's own."""
        driver = self._trees.snapshotter.name
        kind, _ = _TYPES[form.compression]
        arrived = await self._cache.layer(driver, name, "")
        if arrived is not None:
            suits = mediatypes.LAYER_COMPRESSION.get(arrived.descriptor.media_type) == kind.value
            if form.compression is Compression.ESTARGZ:
                suits = estargz.TOC_DIGEST in arrived.descriptor.annotations
            if (suits or not form.force) and await self._hold(arrived, lease):
                return arrived
        made = await self._cache.layer(driver, name, _key(form))
        return made if made is not None and await self._hold(made, lease) else None

    async def _hold(self, blob: LayerBlob, lease: LeaseID) -> bool:
        digest = blob.descriptor.digest
        await self._leases.add(lease, Resource(kind="content", id=digest))
        try:
            await self._content.info(digest)
        except NotFoundError:
            return False
        return True

    async def _make(self, name: SnapshotName, form: LayerForm, lease: LeaseID) -> LayerBlob:
        driver = self._trees.snapshotter.name
        arrived = await self._cache.layer(driver, name, "")
        if arrived is not None and await self._hold(arrived, lease):
            async with self._content.open_reader(arrived.descriptor.digest) as reader:
                blob = await self._write(_inflated(reader), form, lease)
            if form.compression is not Compression.ESTARGZ and blob.diff_id != arrived.diff_id:
                raise DataLossError(f"layer {arrived.descriptor.digest} is not what its diff ID says")
        else:
            epoch = None if arrived is not None else form.epoch
            async with self._trees.snapshotter.open_diff(name, epoch=epoch) as chunks:
                blob = await self._write(chunks, form, lease)
        await self._cache.put_layer(driver, name, _key(form), blob)
        return blob

    async def _write(self, chunks: Iterator[bytes], form: LayerForm, lease: LeaseID) -> LayerBlob:
        """Tar in; diff ID, compressed blob and its digest out."""
        _, media_type = _TYPES[form.compression]
        ref = IngestRef(f"{_INGESTS}{secrets.token_hex(12)}")
        pack = _indexed if form.compression is Compression.ESTARGZ else _packed
        try:
            async with self._content.open_writer(ref, lease=lease) as writer:
                diff_id, annotations = await aio.run(aio.COMPRESS, pack, chunks, form, writer.write)
                # Durable with the name of the image, which is written afterwards.
                info = await writer.commit(labels={UNCOMPRESSED: diff_id}, durable=False)
        except BaseException:  # what was written of it is of no use to anybody
            with anyio.CancelScope(shield=True), suppress(NotFoundError):
                await self._content.abort(ref)
            raise
        descriptor = Descriptor(
            media_type=media_type, digest=info.digest, size=info.size, annotations=annotations
        )
        return LayerBlob(descriptor=descriptor, diff_id=diff_id)


async def abandon(store: content.Store, leases: Manager, lease: LeaseID) -> None:
    """Drop the layers that a killed daemon was writing under a lease: nobody can go on with them.

    Raises `NotFoundError` if the lease does not exist.
    """
    for resource in await leases.resources(lease):
        if resource.kind == "ingest" and resource.id.startswith(_INGESTS):
            with suppress(NotFoundError):
                await store.abort(IngestRef(resource.id))


def _packed(
    chunks: Iterable[bytes], form: LayerForm, write: Callable[[bytes], object]
) -> tuple[DiffID, dict[str, str]]:
    """Compress a tar stream; its diff ID, and no annotations. Blocking."""
    packer = LayerPacker(_TYPES[form.compression][0], form.level)
    for chunk in chunks:
        for out in packer.feed(chunk):
            write(out)
    write(packer.finish())
    return packer.diff_id(), {}


def _indexed(
    chunks: Iterable[bytes], form: LayerForm, write: Callable[[bytes], object]
) -> tuple[DiffID, dict[str, str]]:
    """Make an eStargz of a tar stream; its diff ID, and what is said of it. Blocking."""
    writer = estargz.Writer(form.level)
    for chunk in chunks:
        for out in writer.feed(chunk):
            write(out)
    for out in writer.finish():
        write(out)
    return writer.diff_id(), {
        estargz.TOC_DIGEST: str(writer.toc_digest),
        estargz.UNCOMPRESSED_SIZE: str(writer.uncompressed_size),
    }


def _key(form: LayerForm) -> str:
    level = "" if form.level is None else str(form.level)
    epoch = "" if form.epoch is None else str(form.epoch)
    return f"{form.compression.value}:{level}:{epoch}"


def _inflated(reader: content.Reader) -> Iterator[bytes]:
    decompressor = compression.decompressor(compressed_size=reader.size)
    offset = 0
    while data := reader.pread(_READ, offset):
        offset += len(data)
        for chunk in decompressor.feed(data):
            yield bytes(chunk)
    for chunk in decompressor.finish():
        yield bytes(chunk)
