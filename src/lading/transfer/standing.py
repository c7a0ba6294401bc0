"""What a pull would bring stands there already: found out by reading alone, so that pulling again commits nothing.

The name keeps what it points to, so no lease is needed to look. Whatever is not plainly so (another target, a lost file,
another repository, nested indexes) is left to the pull itself, which heals and records it.
"""

from collections.abc import Mapping

from lading.core import content, images
from lading.core.labels import GC_REF_SNAPSHOT
from lading.core.remotes import Document
from lading.core.snapshots import SnapshotName
from lading.errors import LadingError, NotFoundError
from lading.oci import mediatypes, platform
from lading.oci.config import ImageConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.document import MANIFEST_LIMIT
from lading.oci.manifest import Index, Manifest
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
            return await self._look(reference, document)
        except LadingError:
            return None  # the pull says what is wrong, or repairs it

    async def _look(self, reference: Reference, document: Document) -> Found | None:
        target = document.descriptor
        parsed = parse(document.body, target)
        if isinstance(parsed, Manifest):
            nodes = [ManifestNode(descriptor=target, manifest=parsed)]
        else:
            nodes = await self._nodes(parsed)
        manifests = [node.descriptor for node in nodes]
        wanted = [target, *manifests, *(blob for node in nodes for blob in node.blobs())]
        infos = await self._content.intact({each.digest for each in wanted})
        if not all(_seen(each, infos.get(each.digest), reference) for each in wanted):
            return None
        if isinstance(parsed, Index):
            kept = set(infos[target.digest].labels.values())
            if not nodes or any(each.digest not in kept for each in manifests):
                return None  # one was removed from this image, and is here for another one's sake
        chosen = nodes[0] if isinstance(parsed, Manifest) else selection.best(self._host, nodes)
        if chosen is None or not chosen.unpackable:
            return nodes, None
        config = await self._documents.config(chosen)
        if isinstance(parsed, Manifest) and platform.rank(self._host, config.platform) is None:
            return nodes, None
        return nodes, await self._snapshot(chosen, config, infos)

    async def _nodes(self, index: Index) -> list[ManifestNode]:
        """The manifests of an index that are wanted here; none if that is not plain."""
        if any(mediatypes.is_index(child.media_type) for child in index.manifests):
            return []
        wanted = selection.select(index.manifests, None, self._host)
        bodies = await self._content.read_many([each.digest for each in wanted], limit=MANIFEST_LIMIT)
        nodes: list[ManifestNode] = []
        for descriptor in wanted:
            found = parse(bodies[descriptor.digest], descriptor) if descriptor.digest in bodies else None
            if not isinstance(found, Manifest):
                return []
            nodes.append(ManifestNode(descriptor=descriptor, manifest=found))
        return nodes

    async def _snapshot(
        self, node: ManifestNode, config: ImageConfig, infos: Mapping[Digest, content.Info]
    ) -> SnapshotName | None:
        """The top snapshot, there and kept by the config. Raises `NotFoundError` if it is not."""
        layers = stack(node.manifest, config)
        if not layers:
            return None
        snapshotter = self._unpacker.snapshotter
        name = SnapshotName(layers[-1].chain_id)
        await snapshotter.stat(name)
        labels = infos[node.manifest.config.digest].labels
        if labels.get(f"{GC_REF_SNAPSHOT}{snapshotter.name}") != name:
            raise NotFoundError(f"nothing keeps snapshot {name}", subject=name)
        return name


def _seen(descriptor: Descriptor, info: content.Info | None, reference: Reference) -> bool:
    """Whether the blob is here with its length, and it is recorded that the repository holds it."""
    if info is None or info.size != descriptor.size:
        return False
    return reference.path in info.labels.get(source_key(reference), "").split(",")
