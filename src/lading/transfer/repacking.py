"""Repacking: an image that is here unpacked only gets packed layers again, and with them a new manifest.

Layers come without their blobs where a registry was trusted to keep those: a migration out of the classic store packs nothing
that has a digest elsewhere, and what is committed on such an image names the same blobs. When no place has them any more, the
snapshots still have every byte of the tar streams. They are packed in gzip, the same bytes each time. The config, and so what is
run, stays as it is; the manifest cannot, since it names the blobs. A snapshotter that keeps trees and no streams gives the same
files in another tar: then the config is a new one too, with that tar's diff ID in it.
"""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import aclosing
from typing import Final

import anyio
import msgspec
import structlog

from lading.core import content
from lading.core.content import Info, IngestRef, Writer
from lading.core.diff import Differ
from lading.core.leases import LeaseID
from lading.core.remotes import Document, Registries
from lading.core.snapshots import SnapshotName, Snapshotter
from lading.errors import (
    DataLossError,
    FailedPreconditionError,
    LadingError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnsupportedError,
)
from lading.formats.packing import LayerPacker
from lading.kit import aio
from lading.oci import mediatypes, platform
from lading.oci.config import ImageConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import DiffID
from lading.oci.document import encode
from lading.oci.manifest import descriptor_of, is_attestation
from lading.oci.reference import Reference
from lading.transfer.documents import Documents, ManifestNode, Survey
from lading.transfer.labels import repositories

_STEP: Final = 1 << 20
_BATCH: Final = 8 << 20
"""Bytes that one call on a thread hashes or packs: a cancelled one is waited for."""
_BLOCK: Final = 512
_FLUSHED_SECONDS: Final = 30.0
"""How long a layer may take to become durable: that is under way when it was unpacked a moment ago."""
_log: Final = structlog.get_logger(__name__)


class Repacker:
    """Packs layers of one store out of its snapshots."""

    def __init__(
        self,
        *,
        store: content.Store,
        documents: Documents,
        snapshotter: Snapshotter,
        differ: Differ | None,
        registries: Registries,
        host: Platform,
    ) -> None:
        self._content = store
        self._documents = documents
        self._snapshotter = snapshotter
        self._differ = differ
        self._registries = registries
        self._host = host

    async def repack(
        self, target: Descriptor, *, lease: LeaseID, wanted: Platform | None = None
    ) -> Descriptor | None:
        """A new manifest for the image as it is for ``wanted``, or this host, complete and held by ``lease``.

        ``None`` if that image lacks nothing, if a registry still has what it lacks, so that a pull brings it with its digest, or
        if the snapshots cannot give it.

        Raises:
            DataLossError: A snapshot does not give the bytes that its layer had.

        """
        survey = await self._documents.survey(target)
        node = self._choose(survey, wanted)
        if node is None:
            return None
        missing = [layer for layer in node.manifest.layers if not survey.present(layer)]
        if not missing or await self._to_be_had(missing, [node.descriptor, target]):
            return None
        config = survey.config(node)
        layers: list[Descriptor] = []
        diff_ids: list[DiffID] = []
        try:
            for layer, chain, diff_id in zip(
                node.manifest.layers, config.chain, config.rootfs.diff_ids, strict=True
            ):
                packed, unpacked = (
                    (layer, diff_id)
                    if survey.present(layer)
                    else await self._layer(node, SnapshotName(chain), diff_id, lease)
                )
                layers.append(packed)
                diff_ids.append(unpacked)
        except (NotFoundError, UnsupportedError, FailedPreconditionError) as exc:
            _log.info("image_not_repacked", image=str(target.digest), reason=str(exc))
            return None
        described = node.manifest.config
        if tuple(diff_ids) != config.rootfs.diff_ids:
            rootfs = msgspec.structs.replace(config.rootfs, diff_ids=tuple(diff_ids))
            written = encode(msgspec.structs.replace(config, rootfs=rootfs))
            described = descriptor_of(written, described.media_type)
            await self._documents.put(described, written, lease=lease)
        body = encode(msgspec.structs.replace(node.manifest, config=described, layers=tuple(layers)))
        made = descriptor_of(body, node.descriptor.media_type)
        await self._documents.keep(Document(descriptor=made, body=body), lease=lease)
        _log.warning("image_repacked", image=str(target.digest), manifest=str(made.digest))
        return made

    def _choose(self, survey: Survey, wanted: Platform | None) -> ManifestNode | None:
        offers = [
            (node, survey.platform(node))
            for node in survey.tree.manifests
            if node.manifest.is_image
            and not is_attestation(node.descriptor)
            and isinstance(config := survey.configs.get(node.descriptor.digest), ImageConfig)
            and len(config.rootfs.diff_ids) == len(node.manifest.layers)
        ]
        best = platform.best(
            wanted or self._host, offers, key=lambda offer: offer[1], strict=wanted is not None
        )
        if best is None and wanted is None and len(offers) == 1:
            best = offers[0]
        return best[0] if best is not None else None

    async def _to_be_had(self, blobs: Sequence[Descriptor], documents: Sequence[Descriptor]) -> bool:
        """Whether a repository that had the image has all these blobs, or may have: it wants credentials first."""
        for repository in {each for document in documents for each in await self._seen_in(document)}:
            pusher = self._registries.resolver().pusher(repository)
            try:
                if all([await pusher.size(blob.digest) is not None for blob in blobs]):
                    return True
            except (PermissionDeniedError, UnauthenticatedError):
                return True
            except LadingError as exc:
                _log.info("registry_not_asked", repository=repository.name, reason=str(exc))
        return False

    async def _seen_in(self, document: Descriptor) -> Sequence[Reference]:
        return repositories(await self._content.info(document.digest))

    async def _layer(
        self, node: ManifestNode, name: SnapshotName, diff_id: DiffID, lease: LeaseID
    ) -> tuple[Descriptor, DiffID]:
        """A layer in gzip, and its diff ID: the one that it had, unless there is only the tree."""
        await self._wait_until_durable(name)
        try:
            async with self._snapshotter.open_stream(name) as fd:
                length = await _length(fd, name, diff_id)
                info, _ = await self._pack(_file(fd, length), name, diff_id.algorithm, lease)
        except UnsupportedError:
            if self._differ is None:
                raise
            async with self._differ.open_diff(name) as chunks:
                info, diff_id = await self._pack(chunks, name, diff_id.algorithm, lease)
        docker = node.descriptor.media_type == mediatypes.DOCKER_MANIFEST
        kind = mediatypes.DOCKER_LAYER_GZIP if docker else mediatypes.OCI_LAYER_GZIP
        return Descriptor(media_type=kind, digest=info.digest, size=info.size), diff_id

    async def _pack(
        self, chunks: Iterator[bytes], name: SnapshotName, algorithm: str, lease: LeaseID
    ) -> tuple[Info, DiffID]:
        packer = LayerPacker(algorithm=algorithm)
        async with self._content.open_writer(IngestRef(f"repack-{lease}-{name}"), lease=lease) as writer:
            await _last(_packed(chunks, packer, writer))
            return await writer.commit(), packer.diff_id()

    async def _wait_until_durable(self, name: SnapshotName) -> None:
        """Layers are flushed in the background, moments after they were unpacked."""
        with anyio.move_on_after(_FLUSHED_SECONDS):
            while True:
                try:
                    async with self._snapshotter.open_stream(name):
                        return
                except UnsupportedError:
                    return
                except FailedPreconditionError:
                    await anyio.sleep(0.1)


async def _last(steps: Generator[int]) -> int:
    """Take blocking steps on a thread; what the last one gives."""
    last = 0
    async with aclosing(aio.each(aio.COMPRESS, steps)) as given:
        async for value in given:
            last = value
    return last


async def _length(fd: int, name: SnapshotName, diff_id: DiffID) -> int:
    """How many bytes of a file are the tar stream with this diff ID: all but zeros at the end, as many as fit."""
    length = await _last(_matches(fd, diff_id))
    if length < 0:
        raise DataLossError(
            f"the snapshot {name} does not give the bytes of its layer",
            hint="run lading fsck",
            subject=name,
        )
    return length


def _matches(fd: int, diff_id: DiffID) -> Generator[int]:
    """Steps through a file; the last one yields the length of the stream, or -1."""
    whole = os.fstat(fd).st_size
    end = _end_of_content(fd, whole)
    hasher = diff_id.hasher()
    for start in range(0, end, _BATCH):
        for at in range(start, min(start + _BATCH, end), _STEP):
            hasher.update(os.pread(fd, min(_STEP, end - at), at))
        yield start
    while hasher.hexdigest() != diff_id.hex:
        more = min(_BLOCK - end % _BLOCK, whole - end)
        if not more:
            yield -1
            return
        hasher.update(bytes(more))
        end += more
    yield end


def _end_of_content(fd: int, whole: int) -> int:
    """Where the last byte that is no zero ends."""
    at = whole
    while at:
        start = max(0, at - _STEP)
        if found := os.pread(fd, at - start, start).rstrip(b"\0"):
            return start + len(found)
        at = start
    return 0


def _file(fd: int, length: int) -> Iterator[bytes]:
    """The first ``length`` bytes of a file."""
    for at in range(0, length, _STEP):
        yield os.pread(fd, min(_STEP, length - at), at)


def _packed(chunks: Iterator[bytes], packer: LayerPacker, writer: Writer) -> Generator[int]:
    """Compress a tar stream step by step; yields how much went in."""
    done = step = 0
    for chunk in chunks:
        for packed in packer.feed(chunk):
            writer.write(packed)
        done += len(chunk)
        if done - step >= _BATCH:
            step = done
            yield done
    writer.write(packer.finish())
    yield done
