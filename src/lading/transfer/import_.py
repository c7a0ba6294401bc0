"""Import: a root file system as a tar becomes an image of one layer."""

from collections.abc import AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from typing_extensions import Buffer

from lading.core import content
from lading.core.content import IngestRef, Writer
from lading.core.leases import LeaseID
from lading.core.progress import Item, Phase, Progress
from lading.core.remotes import Document
from lading.formats import compression
from lading.formats.compression import Compression
from lading.kit import aio
from lading.oci import mediatypes
from lading.oci.config import History, ImageConfig, RootFS, RunConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import DiffID, new_hasher
from lading.oci.document import encode
from lading.oci.manifest import Manifest, descriptor_of
from lading.transfer.archive_stream import pieces, unpacker
from lading.transfer.documents import Documents, ManifestNode

_KEPT: Final = {
    Compression.GZIP: mediatypes.OCI_LAYER_GZIP,
    Compression.ZSTD: mediatypes.OCI_LAYER_ZSTD,
}
"""Compressions that an OCI layer may have: such a tar is stored as it came. Anything else is packed with gzip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the new image says of itself. ``created`` is now unless given."""

    platform: Platform
    config: RunConfig = field(default_factory=RunConfig)
    message: str = ""
    author: str = ""
    created: datetime | None = None


class Importer:
    """Makes images from tars in one store."""

    def __init__(self, *, store: content.Store, documents: Documents) -> None:
        self._content = store
        self._documents = documents

    async def import_(
        self,
        source: AsyncIterable[bytes],
        options: ImportOptions,
        *,
        lease: LeaseID,
        progress: Progress | None = None,
    ) -> ManifestNode:
        """Store layer, config and manifest under ``lease``. That the tar can be unpacked shows when it is.

        Raises:
            InvalidArgumentError: The compression is damaged.

        """
        item = (progress or Progress()).item("import")
        layer, diff_id = await self._take_layer(source, lease, item)
        config = encode(_config(options, diff_id))
        config_descriptor = descriptor_of(config, mediatypes.OCI_CONFIG)
        await self._documents.put(config_descriptor, config, lease=lease)
        manifest = Manifest(
            schema_version=2, media_type=mediatypes.OCI_MANIFEST, config=config_descriptor, layers=(layer,)
        )
        body = encode(manifest)
        descriptor = descriptor_of(body, mediatypes.OCI_MANIFEST)
        await self._documents.keep(Document(descriptor=descriptor, body=body), lease=lease)
        return ManifestNode(descriptor=descriptor, manifest=manifest)

    async def _take_layer(
        self, source: AsyncIterable[bytes], lease: LeaseID, item: Item
    ) -> tuple[Descriptor, DiffID]:
        ref = IngestRef(f"import-{lease}")
        item.phase = Phase.DOWNLOADING
        async with (
            self._content.open_writer(ref, lease=lease) as writer,
            aclosing(pieces(source)) as incoming,
        ):
            piece = await anext(incoming, b"")  # without a byte it is an empty tree, as it is for Docker
            intake = _Intake(writer, piece)
            while piece:
                await aio.run(aio.COMPRESS, intake.feed, piece)
                item.current += len(piece)
                piece = await anext(incoming, b"")
            diff_id = await aio.run(aio.COMPRESS, intake.finish)
            info = await writer.commit()
        item.phase = Phase.COMPLETE
        return Descriptor(media_type=intake.media_type, digest=info.digest, size=info.size), diff_id


class _Intake:
    """Takes a tar as it comes, writes a layer blob, and computes the diff ID on the way. Blocking."""

    def __init__(self, writer: Writer, first: bytes) -> None:
        kind = compression.sniff(first)
        self.media_type = _KEPT.get(kind, mediatypes.OCI_LAYER_GZIP)
        self._writer = writer
        self._decompressor = unpacker(first)
        self._compressor = None if kind in _KEPT else compression.compressor(Compression.GZIP)
        self._hasher = new_hasher()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the input."""
        if self._compressor is None:
            self._writer.write(data)
        for chunk in self._decompressor.feed(data):
            self._take(chunk)

    def finish(self) -> DiffID:
        """No more input: flush everything; the diff ID."""
        for chunk in self._decompressor.finish():
            self._take(chunk)
        if self._compressor is not None:
            self._writer.write(self._compressor.finish())
        return DiffID.from_hasher(self._hasher)

    def _take(self, chunk: Buffer) -> None:
        self._hasher.update(chunk)
        if self._compressor is not None:
            for packed in self._compressor.feed(chunk):
                self._writer.write(packed)


def _config(options: ImportOptions, diff_id: DiffID) -> ImageConfig:
    created = (options.created or datetime.now(UTC)).isoformat().replace("+00:00", "Z")
    return ImageConfig(
        created=created,
        author=options.author,
        architecture=options.platform.architecture,
        os=options.platform.os,
        variant=options.platform.variant,
        config=options.config,
        rootfs=RootFS(type="layers", diff_ids=(diff_id,)),
        history=(History(created=created, author=options.author, comment=options.message),),
    )
