"""Checking layers: each is unpacked once more from its blob, compared with what is there, and takes its place if that is damaged.

What was not unpacked from a blob, such as the steps of a build, has nothing that it could be compared with.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lading.core import content
from lading.core.content import Info
from lading.core.labels import LAYER_BLOB, LAYER_SOURCE, UNCOMPRESSED
from lading.core.leases import LeaseID
from lading.core.snapshots import Capability, Kind, SnapshotInfo, SnapshotName, Snapshotter
from lading.errors import FailedPreconditionError, NotFoundError
from lading.oci import mediatypes
from lading.oci.descriptor import Descriptor
from lading.oci.digest import ChainID, DiffID, Digest
from lading.unpack.unpacker import Layer, Unpacker


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkable:
    """A committed layer, and a blob that unpacks to it."""

    snapshot: SnapshotInfo
    blob: Info

    @property
    def name(self) -> SnapshotName:
        """Of the snapshot."""
        return SnapshotName(self.snapshot.key)


class LayerChecker:
    """Checks the layers of one snapshotter."""

    def __init__(self, store: content.Store, unpacker: Unpacker, *, packed: bool = True) -> None:
        """Without ``packed`` the blobs of layers are not kept, and none can be compared with its layer."""
        self._content = store
        self._unpacker = unpacker
        self._packed = packed

    @property
    def _snapshotter(self) -> Snapshotter:
        return self._unpacker.snapshotter

    async def layers(self) -> Sequence[Checkable]:
        """What can be checked, parents before what stands on them."""
        if not self._packed or Capability.REPLACES not in self._snapshotter.capabilities:
            return []
        known = [info async for info in self._snapshotter.walk() if info.kind is Kind.COMMITTED]
        blobs: dict[str, Info] = {}
        by_digest: dict[str, Info] = {}
        async for info in self._content.walk():
            if UNCOMPRESSED in info.labels:
                by_digest[info.digest] = info
                blobs.setdefault(info.labels[UNCOMPRESSED], info)
        found: list[Checkable] = []
        for info in _parents_first(known):
            source = info.labels.get(LAYER_SOURCE)
            blob = by_digest.get(source or "") or blobs.get(info.labels.get(UNCOMPRESSED, ""))
            if source is not None and blob is not None:
                found.append(Checkable(snapshot=info, blob=blob))
        return found

    async def problem(self, layer: Checkable, *, lease: LeaseID) -> str:
        """What is wrong with a layer, or empty. A copy that shows it stays, held by ``lease``, for `repair` or `forget`.

        Raises:
            NotFoundError: The layer went meanwhile.
            DataLossError: Its blob is damaged, so that there is nothing to compare it with.

        """
        away = not await self._content.last_used([layer.blob.digest])
        await self.forget(layer)
        try:
            await self._unpacker.copy(_plain(layer), _copy(layer), labels=_form(layer), lease=lease)
        finally:
            if away:  # it came back to be read
                with suppress(NotFoundError, FailedPreconditionError):
                    await self._content.release(layer.blob.digest)
        return await self._snapshotter.compare(layer.name, _copy(layer))

    async def repair(self, layer: Checkable) -> None:
        """Put the copy that `problem` made in the layer's place. Nothing that is mounted may stand on it."""
        await self._snapshotter.replace(layer.name, _copy(layer))

    async def remake(self, layer: Layer, *, lease: LeaseID) -> None:
        """Unpack a layer again from its blob, which is stored, and put that in its place. Nothing mounted may stand on it.

        Raises as `Unpacker.copy`; nothing has changed then.
        """
        name = SnapshotName(layer.chain_id)
        copy = _copy_of(name)
        with suppress(NotFoundError):
            await self._snapshotter.remove(copy)
        await self._unpacker.copy(layer, copy, labels={}, lease=lease)
        await self._snapshotter.replace(name, copy)

    async def parent(self, layer: ChainID) -> ChainID | None:
        """What a layer stands on. Raises `NotFoundError`."""
        found = (await self._snapshotter.stat(layer)).parent
        return None if found is None else ChainID(found)

    async def forget(self, layer: Checkable) -> None:
        """Delete the copy that `problem` made; idempotent."""
        with suppress(NotFoundError):
            await self._snapshotter.remove(_copy(layer))


def _copy(layer: Checkable) -> SnapshotName:
    return _copy_of(layer.name)


def _copy_of(name: SnapshotName) -> SnapshotName:
    return SnapshotName(f"fsck-{name}")


def _plain(layer: Checkable) -> Layer:
    """A layer as the unpacker takes it. What its blob is packed in shows in the blob."""
    blob, parent = layer.blob, layer.snapshot.parent
    return Layer(
        descriptor=Descriptor(media_type=mediatypes.OCI_LAYER, digest=blob.digest, size=blob.size),
        diff_id=DiffID(blob.labels[UNCOMPRESSED]),
        chain_id=ChainID(layer.name),
        parent=None if parent is None else ChainID(parent),
    )


def _form(layer: Checkable) -> Mapping[str, str]:
    """Labels that make the copy what the layer is: one whose contents are a cache, or one that keeps them."""
    blob = layer.snapshot.labels.get(LAYER_BLOB)
    return {LAYER_BLOB: blob} if blob and Digest(blob) == layer.blob.digest else {}


def _parents_first(known: Sequence[SnapshotInfo]) -> list[SnapshotInfo]:
    by_key = {info.key: info for info in known}
    placed: dict[str, SnapshotInfo] = {}
    for info in known:
        stack = [info]
        while (parent := stack[-1].parent) in by_key and parent not in placed:
            stack.append(by_key[parent])
        placed |= {each.key: each for each in reversed(stack)}
    return list(placed.values())
