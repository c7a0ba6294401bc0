"""Commit: an image and the changes of a container become an image with one layer more."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from lading.core import content
from lading.core.content import IngestRef, Writer
from lading.core.leases import LeaseID
from lading.core.remotes import Document
from lading.errors import InvalidArgumentError
from lading.formats.packing import LayerPacker
from lading.formats.tar import writer as tar
from lading.kit import aio
from lading.oci import mediatypes
from lading.oci.config import History, ImageConfig, RunConfig
from lading.oci.descriptor import Descriptor
from lading.oci.digest import DiffID, Digest
from lading.oci.document import encode
from lading.oci.manifest import Manifest, descriptor_of
from lading.transfer.documents import Documents, ManifestNode

_PIECE = 1 << 20
Changes = AbstractAsyncContextManager[Iterator[bytes]]
"""As `lading.core.diff.Differ.open_diff` gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitOptions:
    """What the new image says of itself. ``config`` is the whole run configuration; ``created_by`` the command that ran."""

    config: RunConfig
    created_by: str = ""
    comment: str = ""
    author: str = ""


class Committer:
    """Makes images from images and changes, in one store."""

    def __init__(self, *, store: content.Store, documents: Documents) -> None:
        self._content = store
        self._documents = documents

    async def commit(
        self, base: Descriptor, changes: Changes, options: CommitOptions, *, lease: LeaseID
    ) -> ManifestNode:
        """Store layer, config and manifest under ``lease``. Without any change there is no new layer.

        Raises:
            NotFoundError: Manifest or config of ``base`` is not stored.
            FailedPreconditionError: A changed path has no form in a layer.

        """
        old, below = await self._base(base)
        layer, diff_id = await self._take_layer(changes, lease)
        config = encode(_config(old, options, diff_id))
        described = descriptor_of(config, mediatypes.OCI_CONFIG)
        await self._documents.put(described, config, lease=lease)
        manifest = Manifest(
            schema_version=2,
            media_type=mediatypes.OCI_MANIFEST,
            config=described,
            layers=(*below, *([layer] if layer else [])),
        )
        body = encode(manifest)
        descriptor = descriptor_of(body, mediatypes.OCI_MANIFEST)
        await self._documents.keep(Document(descriptor=descriptor, body=body), lease=lease)
        return ManifestNode(descriptor=descriptor, manifest=manifest)

    async def _base(self, base: Descriptor) -> tuple[ImageConfig, tuple[Descriptor, ...]]:
        """The config and the layers of what the new image stands on.

        The classic store has no packed layers: there a layer is named by its diff ID, and its snapshot is all that is asked for.
        """
        if mediatypes.is_config(base.media_type):
            old = await self._documents.config_at(base.digest)
            named = [Digest(each) for each in old.rootfs.diff_ids]
            return old, tuple(
                Descriptor(media_type=mediatypes.OCI_LAYER, digest=each, size=0) for each in named
            )
        document = await self._documents.read(base)
        if not isinstance(document, Manifest):
            raise InvalidArgumentError(f"{base.digest} is an index: name one of its manifests")
        return await self._documents.config(ManifestNode(descriptor=base, manifest=document)), document.layers

    async def _take_layer(self, changes: Changes, lease: LeaseID) -> tuple[Descriptor | None, DiffID | None]:
        ref = IngestRef(f"commit-{lease}")
        async with changes as chunks:
            first = await aio.run(aio.DATA, _piece, chunks)
            if first == tar.END:
                return None, None
            async with self._content.open_writer(ref, lease=lease) as writer:
                packer = LayerPacker()
                piece = first
                while piece:
                    await aio.run(aio.COMPRESS, _feed, packer, piece, writer)
                    piece = await aio.run(aio.DATA, _piece, chunks)
                await aio.run(aio.COMPRESS, lambda: writer.write(packer.finish()))
                info = await writer.commit()
        layer = Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=info.digest, size=info.size)
        return layer, packer.diff_id()


def _piece(chunks: Iterator[bytes]) -> bytes:
    """About a mebibyte, so that thread hops are worth their cost; empty at the end."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        if len(held) >= _PIECE:
            break
    return bytes(held)


def _feed(packer: LayerPacker, piece: bytes, writer: Writer) -> None:
    for packed in packer.feed(piece):
        writer.write(packed)


def _config(old: ImageConfig, options: CommitOptions, diff_id: DiffID | None) -> ImageConfig:
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    entry = History(
        created=created,
        created_by=options.created_by,
        author=options.author,
        comment=options.comment,
        empty_layer=diff_id is None,
    )
    layers = (*old.rootfs.diff_ids, *([diff_id] if diff_id else []))
    return msgspec.structs.replace(
        old,
        created=created,
        author=options.author,
        config=options.config,
        rootfs=msgspec.structs.replace(old.rootfs, diff_ids=layers),
        history=(*(old.history or ()), entry),
    )
