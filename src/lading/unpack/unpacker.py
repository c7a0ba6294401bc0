"""From a manifest to a stack of committed snapshots, while its layers are still being downloaded.

Layers are independent until they are committed, which happens in the order of the chain. A snapshotter without
`Capability.PARALLEL_LAYERS` gets a layer when its parent is there; by then the blob is usually stored.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from lading.core import content, leases
from lading.core.labels import GC_REF_SNAPSHOT, LAYER_BLOB, LAYER_SOURCE, SNAPSHOT_REF, UNCOMPRESSED
from lading.core.leases import LeaseID, Resource
from lading.core.progress import Item, Phase, Progress
from lading.core.snapshots import Capability, Kind, SnapshotName, Snapshotter
from lading.errors import AlreadyExistsError, DataLossError, LadingError, NotFoundError, UnsupportedError
from lading.kit.tasks import KeyedLock, task_group
from lading.oci import config as oci_config
from lading.oci import mediatypes
from lading.oci.config import ImageConfig
from lading.oci.descriptor import Descriptor
from lading.oci.digest import ChainID, DiffID, Digest
from lading.oci.document import CONFIG_LIMIT
from lading.oci.manifest import Manifest
from lading.unpack.arriving import Arriving
from lading.unpack.pipeline import Hashing, TarSink, unpack

PARALLEL_LAYERS: Final = 4
"""Layers that one process unpacks at a time: two threads and `QUEUE_BYTES` each."""
VERDICT_SECONDS: Final = 1.0
"""How long a layer that cannot be unpacked waits to hear whether its blob was what it should be."""

Source = Callable[[Descriptor], Awaitable[Arriving]]
"""Gives a layer's blob as soon as its first bytes are there, or at once if it is stored."""


class LayerTypeError(UnsupportedError):
    """A layer is not a file-system layer, so that the image cannot be unpacked."""

    code = "layer-type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of a stack and its place in it."""

    descriptor: Descriptor
    diff_id: DiffID
    chain_id: ChainID
    parent: ChainID | None


def stack(manifest: Manifest, config: ImageConfig) -> list[Layer]:
    """The layers of an image, bottom first; ``config`` was parsed for this manifest, so that the counts agree.

    Raises:
        LayerTypeError: A layer is of a type that cannot be unpacked; the type is named.

    """
    layers: list[Layer] = []
    parent: ChainID | None = None
    for descriptor, diff_id, chain_id in zip(
        manifest.layers, config.rootfs.diff_ids, config.chain, strict=True
    ):
        if not mediatypes.is_layer(descriptor.media_type):
            raise LayerTypeError(
                f"layer {descriptor.digest} is of type {descriptor.media_type!r}, which cannot be unpacked",
                hint="the image is stored and can be pushed or saved, but not run",
                subject=descriptor.media_type,
            )
        layers.append(Layer(descriptor=descriptor, diff_id=diff_id, chain_id=chain_id, parent=parent))
        parent = chain_id
    return layers


class Unpacker:
    """Unpacks images into one snapshotter. One per daemon and snapshotter, so that no layer is unpacked twice at once."""

    def __init__(
        self,
        store: content.Store,
        manager: leases.Manager,
        snapshotter: Snapshotter,
        *,
        parallel_layers: int = PARALLEL_LAYERS,
    ) -> None:
        self._content = store
        self._leases = manager
        self._snapshotter = snapshotter
        self._chains = KeyedLock()
        self._parallel_layers = parallel_layers
        self._slots: anyio.CapacityLimiter | None = None

    @property
    def snapshotter(self) -> Snapshotter:
        """Where the layers go."""
        return self._snapshotter

    async def stored(self, descriptor: Descriptor) -> Arriving:
        """The `Source` for images whose layers are all stored.

        Raises:
            NotFoundError: The layer is not in the store.

        """
        try:
            await self._content.info(descriptor.digest)
        except NotFoundError as exc:
            raise NotFoundError(
                f"layer {descriptor.digest} is not in the local store",
                hint="pull the image again to complete it",
                subject=descriptor.digest,
            ) from exc
        arriving = Arriving(descriptor)
        arriving.settled.set()
        return arriving

    async def present(self, manifest: Manifest, config: ImageConfig) -> SnapshotName | None:
        """The top snapshot's name if the image is unpacked and its config keeps the snapshots; else ``None``. Writes nothing."""
        if not manifest.layers or not config.chain:
            return None
        name = SnapshotName(config.chain[-1])
        try:
            if (await self._snapshotter.stat(name)).kind is not Kind.COMMITTED:
                return None
            labels = (await self._content.info(manifest.config.digest)).labels
        except NotFoundError:
            return None
        return name if labels.get(f"{GC_REF_SNAPSHOT}{self._snapshotter.name}") == name else None

    async def unpack(
        self,
        manifest: Manifest,
        config: ImageConfig,
        *,
        lease: LeaseID,
        source: Source | None = None,
        progress: Progress | None = None,
    ) -> SnapshotName | None:
        """Make every snapshot of the image; the name of the top one, ``None`` for an image without layers.

        Labels each layer blob with its verified diff ID and the config with the top snapshot, which keeps it.
        Cancel-safe: what was committed stays, held by ``lease``; the rest leaves no trace.
        """
        layers = stack(manifest, config)
        if not layers:
            return None
        name = SnapshotName(layers[-1].chain_id)
        source, progress = source or self.stored, progress or Progress()
        if await self._hold(layers[-1].chain_id, lease):
            for layer in layers:
                short = layer.descriptor.digest.short
                await self._vouch(layer, source, progress.items.get(short) or Item(id=short))
        else:
            await self._unpack_all(layers, lease, source, progress)
        label = f"{GC_REF_SNAPSHOT}{self._snapshotter.name}"
        config_digest = manifest.config.digest
        if (await self._content.info(config_digest)).labels.get(label) != name:
            await self._content.update(config_digest, {label: name}, durable=False)
        return name

    async def unpack_layers(
        self, layers: Sequence[Layer], *, lease: LeaseID, source: Source, progress: Progress
    ) -> None:
        """Make the snapshots of layers that no image holds; ``lease`` does. As `unpack`."""
        if layers and not await self._hold(layers[-1].chain_id, lease):
            await self._unpack_all(layers, lease, source, progress)

    async def copy(
        self, layer: Layer, name: SnapshotName, *, labels: Mapping[str, str], lease: LeaseID
    ) -> None:
        """Unpack a stored layer once more, into the snapshot ``name``, which ``lease`` holds.

        Raises:
            NotFoundError: Its blob is not stored.
            DataLossError: Its blob is damaged, or is not this layer.

        """
        parent = SnapshotName(layer.parent) if layer.parent else None
        async with self._snapshotter.open_layer(
            name, parent, diff_id=layer.diff_id, compressed_size=layer.descriptor.size, lease=lease
        ) as writer:
            async with self._limiter():
                diff_id = await self._feed(
                    await self.stored(layer.descriptor), writer, Item(id=layer.descriptor.digest.short)
                )
            _check(layer, diff_id)
            await writer.commit(labels=labels)

    async def kept(self, image: Descriptor, *, lease: LeaseID | None) -> SnapshotName | None:
        """The top snapshot of an image that is kept unpacked: ``image`` is its config.

        Raises `NotFoundError` if the snapshot is not there: it cannot be made again from here.
        """
        config = oci_config.parse(await self._content.read(image.digest, limit=CONFIG_LIMIT))
        if not config.chain:
            return None
        top = config.chain[-1]
        if lease is not None:
            await self._leases.add(
                lease, Resource(kind="snapshot", id=top, snapshotter=self._snapshotter.name)
            )
        await self._snapshotter.stat(top)
        return SnapshotName(top)

    async def held(self, manifest: Manifest, config: ImageConfig, *, lease: LeaseID) -> set[Digest]:
        """The blobs of layers whose snapshots are here; ``lease`` holds those snapshots from now on."""
        return {
            layer.descriptor.digest
            for layer in stack(manifest, config)
            if await self._hold(layer.chain_id, lease)
        }

    async def _unpack_all(
        self, layers: Sequence[Layer], lease: LeaseID, source: Source, progress: Progress
    ) -> None:
        committed = {layer.chain_id: anyio.Event() for layer in layers}
        async with task_group() as group:
            for layer in layers:
                item = progress.item(layer.descriptor.digest.short, layer.descriptor.size)
                group.start_soon(self._unpack_layer, layer, lease, source, committed, item)

    async def _unpack_layer(
        self,
        layer: Layer,
        lease: LeaseID,
        source: Source,
        committed: dict[ChainID, anyio.Event],
        item: Item,
    ) -> None:
        parent = committed[layer.parent] if layer.parent else None
        if parent and Capability.PARALLEL_LAYERS not in self._snapshotter.capabilities:
            await parent.wait()
        async with self._chains.hold(layer.chain_id):
            if await self._hold(layer.chain_id, lease):
                await self._vouch(layer, source, item)
                if item.phase is not Phase.EXISTS:  # neither fetched nor unpacked
                    item.phase = Phase.COMPLETE
            else:
                await self._make(layer, lease, source, parent, item)
                item.phase = Phase.COMPLETE
        committed[layer.chain_id].set()

    async def _make(
        self, layer: Layer, lease: LeaseID, source: Source, parent: anyio.Event | None, item: Item
    ) -> None:
        """Unpack one layer, and once more if it failed because a resumed prefix of its blob was damaged."""
        while True:
            blob = await source(layer.descriptor)
            try:
                await self._make_once(layer, lease, blob, parent, item)
            except AlreadyExistsError:
                await self._hold(layer.chain_id, lease)
            except LadingError:
                # Wrong bytes explain any error of what they unpack to; a long download is not waited for.
                with anyio.move_on_after(math.inf if blob.resumed else VERDICT_SECONDS):
                    await blob.settled.wait()
                if not blob.discarded:
                    raise
                continue
            return

    async def _make_once(
        self, layer: Layer, lease: LeaseID, blob: Arriving, parent: anyio.Event | None, item: Item
    ) -> None:
        async with self._snapshotter.open_layer(
            SnapshotName(layer.chain_id),
            SnapshotName(layer.parent) if layer.parent else None,
            diff_id=layer.diff_id,
            compressed_size=layer.descriptor.size,
            lease=lease,
        ) as writer:
            # A slot is given back before waiting for the parent, whose own unpacking may need it.
            async with self._limiter():
                diff_id = await self._feed(blob, writer, item)
            _check(layer, diff_id)
            if parent:
                await parent.wait()
            labels = {
                SNAPSHOT_REF: str(layer.chain_id),
                LAYER_SOURCE: str(layer.descriptor.digest),
                UNCOMPRESSED: str(layer.diff_id),
            }
            if Capability.REBUILDS in self._snapshotter.capabilities:
                labels[LAYER_BLOB] = layer.descriptor.digest
            await writer.commit(labels=labels)
        await self._label(layer)

    async def _vouch(self, layer: Layer, source: Source, item: Item) -> None:
        """See that the blob of a layer that was unpacked before is this layer, if in another form: it will be pushed and saved.

        A blob that is not kept needs no check, and one that was checked is labelled.
        """
        if layer.descriptor.digest == layer.diff_id:
            return
        while True:
            try:
                blob = await source(layer.descriptor)
                await blob.settled.wait()
                info = await self._content.info(layer.descriptor.digest)
            except NotFoundError:
                return
            if not blob.discarded:
                break
        if info.labels.get(UNCOMPRESSED) == layer.diff_id:
            return
        async with self._limiter():
            _check(layer, await self._feed(blob, Hashing(layer.diff_id.algorithm), item))
        await self._label(layer)

    async def _label(self, layer: Layer) -> None:
        """Write down what the blob unpacks to. It can be found out again, so nobody waits for the disk."""
        labels = {UNCOMPRESSED: layer.diff_id}
        await self._content.update(layer.descriptor.digest, labels, durable=False)

    async def _feed(self, blob: Arriving, writer: TarSink, item: Item) -> DiffID:
        """Run the pipeline on a blob, out of its ingest first and out of the store once it is committed."""
        cursor = blob.follow()
        async with task_group() as group:

            async def switch_to_store() -> None:
                await blob.settled.wait()
                if blob.discarded:
                    return
                item.phase = Phase.EXTRACTING
                async with self._content.open_reader(blob.descriptor.digest) as reader:
                    cursor.attach(reader.pread)
                    try:
                        await anyio.sleep_forever()
                    finally:
                        cursor.detach()

            group.start_soon(switch_to_store)
            diff_id = await unpack(cursor, writer, item=item)
            await blob.settled.wait()
            if blob.discarded:
                digest = blob.descriptor.digest
                raise DataLossError(f"what was kept of blob {digest} was damaged", subject=digest)
            group.cancel_scope.cancel()
        return diff_id

    async def _hold(self, chain_id: ChainID, lease: LeaseID) -> bool:
        """Whether the snapshot is committed. It joins the lease first, so that it cannot vanish after the look."""
        resource = Resource(kind="snapshot", id=chain_id, snapshotter=self._snapshotter.name)
        await self._leases.add(lease, resource)
        try:
            await self._snapshotter.stat(chain_id)
        except NotFoundError:
            return False
        return True

    def _limiter(self) -> anyio.CapacityLimiter:
        if self._slots is None:
            self._slots = anyio.CapacityLimiter(self._parallel_layers)
        return self._slots


def _check(layer: Layer, found: DiffID) -> None:
    if found != layer.diff_id:
        raise DataLossError(
            f"layer {layer.descriptor.digest} unpacks to {found}, but the config promises {layer.diff_id}",
            subject=layer.descriptor.digest,
        )
