"""What a pull would bring stands there already: found out by reading alone, so that pulling again commits nothing.

The name keeps what it points to, so no lease is needed to look. Whatever is not plainly so (another target, a lost file,
another repository, nested indexes) is left to the pull itself, which heals and records it.
"""

from lading.core import content, images
from lading.core.labels import GC_REF_SNAPSHOT
from lading.core.remotes import Document
from lading.core.snapshots import SnapshotName
from lading.errors import LadingError, NotFoundError
from lading.oci import mediatypes, platform
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.manifest import Manifest
from lading.oci.reference import Reference
from lading.transfer import selection
from lading.transfer.documents import Documents, ManifestNode, parse
from lading.transfer.labels import source_key
from lading.unpack.unpacker import Unpacker, stack

Found = tuple[list[ManifestNode], SnapshotName | None]
"""The manifests of a complete image, and the top snapshot of the one for this host."""


class Standing:
    """Looks for images that are complete."""

    def __init__(
        self,
        *,
        store: content.Store,
        documents: Documents,
        image_store: images.Store,
        unpacker: Unpacker,
        host: Platform,
    ) -> None:
        self._content = store
        self._documents = documents
        self._images = image_store
        self._unpacker = unpacker
        self._host = host

    async def find(self, name: str, reference: Reference, document: Document) -> Found | None:
        """The image if ``name`` is it and nothing of it is missing."""
        try:
            if (await self._images.get(name)).target.digest != document.descriptor.digest:
                return None
            found = await self._nodes(reference, document)
            if found is None:
                return None
            nodes, unpack = found
            if not all([await self._complete(node, reference) for node in nodes]):
                return None
            snapshot = await self._snapshot(unpack) if unpack else None
        except LadingError:
            return None  # the pull says what is wrong, or repairs it
        return nodes, snapshot

    async def _nodes(
        self, reference: Reference, document: Document
    ) -> tuple[list[ManifestNode], ManifestNode | None] | None:
        """The manifests of the image and the one that is unpacked here; ``None`` if that is not plain."""
        parsed = parse(document.body, document.descriptor)
        if not await self._seen(document.descriptor, reference):
            return None
        if isinstance(parsed, Manifest):
            node = ManifestNode(descriptor=document.descriptor, manifest=parsed)
            if not parsed.is_image:
                return [node], None
            offered = (await self._documents.config(node)).platform
            return [node], node if platform.rank(self._host, offered) is not None else None
        if any(mediatypes.is_index(child.media_type) for child in parsed.manifests):
            return None
        kept = set((await self._content.info(document.descriptor.digest)).labels.values())
        nodes: list[ManifestNode] = []
        for descriptor in selection.select(parsed.manifests, None, self._host):
            if descriptor.digest not in kept:
                return None  # it was removed from this image, and is here for another one's sake
            found = await self._documents.read(descriptor)
            if not isinstance(found, Manifest) or not await self._seen(descriptor, reference):
                return None
            nodes.append(ManifestNode(descriptor=descriptor, manifest=found))
        return nodes, selection.best(self._host, nodes)

    async def _complete(self, node: ManifestNode, reference: Reference) -> bool:
        for descriptor in node.blobs():
            if not await self._content.intact(descriptor.digest):
                return False
            if (await self._content.info(descriptor.digest)).size != descriptor.size:
                return False
            if not await self._seen(descriptor, reference):
                return False
        return True

    async def _seen(self, descriptor: Descriptor, reference: Reference) -> bool:
        """Whether it is recorded that the repository holds the blob."""
        labels = (await self._content.info(descriptor.digest)).labels
        return reference.path in labels.get(source_key(reference), "").split(",")

    async def _snapshot(self, node: ManifestNode) -> SnapshotName | None:
        """The top snapshot, there and kept by the config. Raises `NotFoundError` if it is not."""
        layers = stack(node.manifest, await self._documents.config(node)) if node.unpackable else []
        if not layers:
            return None
        snapshotter = self._unpacker.snapshotter
        name = SnapshotName(layers[-1].chain_id)
        await snapshotter.stat(name)
        labels = (await self._content.info(node.manifest.config.digest)).labels
        if labels.get(f"{GC_REF_SNAPSHOT}{snapshotter.name}") != name:
            raise NotFoundError(f"nothing keeps snapshot {name}", subject=name)
        return name
