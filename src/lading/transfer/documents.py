"""Manifests, indexes and configs: fetched, checked, and kept byte for byte with labels for what they keep."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from lading.core import content
from lading.core.content import IngestRef
from lading.core.leases import LeaseID
from lading.core.remotes import Document, Fetcher
from lading.errors import (
    AlreadyExistsError,
    DataLossError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    ResourceExhaustedError,
)
from lading.kit import aio
from lading.oci import config as oci_config
from lading.oci import manifest as oci_manifest
from lading.oci import mediatypes
from lading.oci.config import ImageConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.document import CONFIG_LIMIT, MANIFEST_LIMIT
from lading.oci.manifest import Index, Manifest
from lading.oci.reference import Reference
from lading.transfer import limits
from lading.transfer.downloads import check_length, ingest_ref
from lading.transfer.labels import Sources, child_labels, source_key


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestNode:
    """An image manifest with its descriptor, as it stands below a target."""

    descriptor: Descriptor
    manifest: Manifest

    @property
    def unpackable(self) -> bool:
        """Whether this is an image of file-system layers; anything else is stored and never run (hostile-input.md D11)."""
        layers = self.manifest.layers
        return self.manifest.is_image and all(mediatypes.is_layer(layer.media_type) for layer in layers)

    def blobs(self) -> Iterator[Descriptor]:
        """Config and layers, each digest once."""
        seen: set[str] = set()
        for descriptor in (self.manifest.config, *self.manifest.layers):
            if descriptor.digest not in seen:
                seen.add(descriptor.digest)
                yield descriptor


def is_document(descriptor: Descriptor) -> bool:
    """Whether a descriptor points to a manifest or an index (schema 1 included, so that parsing explains it)."""
    media_type = descriptor.media_type
    return (
        mediatypes.is_index(media_type)
        or mediatypes.is_manifest(media_type)
        or media_type in mediatypes.SCHEMA1
    )


def parse(body: bytes, descriptor: Descriptor) -> Manifest | Index:
    """The document of a descriptor; raises as `lading.oci.manifest.parse`."""
    kind = "index" if mediatypes.is_index(descriptor.media_type) else "manifest"
    return oci_manifest.parse(body, descriptor.media_type, what=f"{kind} {descriptor.digest}")


class Documents:
    """The documents of one content store."""

    def __init__(self, store: content.Store, sources: Sources) -> None:
        self._content = store
        self._sources = sources

    async def read(self, descriptor: Descriptor) -> Manifest | Index:
        """A stored manifest or index. Raises `NotFoundError` and what parsing raises."""
        return parse(await self.body(descriptor), descriptor)

    async def body(self, descriptor: Descriptor) -> bytes:
        """The bytes of a stored manifest or index. Raises `NotFoundError`; `DataLossError` if the size is not as described."""
        body = await self._content.read(descriptor.digest, limit=MANIFEST_LIMIT)
        check_length(descriptor, len(body))
        return body

    async def config(self, node: ManifestNode) -> ImageConfig:
        """The stored config of an image manifest, checked to fit it (hostile-input.md D8)."""
        config = node.manifest.config
        body = await self._content.read(config.digest, limit=CONFIG_LIMIT)
        return oci_config.parse(
            body, layers=len(node.manifest.layers), what=f"config {config.digest} of {node.descriptor.digest}"
        )

    async def present(self, descriptor: Descriptor) -> bool:
        """Whether the blob is in the store. Raises `DataLossError` if it has another size than the descriptor says."""
        try:
            info = await self._content.info(descriptor.digest)
        except NotFoundError:
            return False
        check_length(descriptor, info.size)
        return True

    async def complete(self, node: ManifestNode) -> bool:
        """Whether everything that a manifest names is in the store."""
        for descriptor in node.blobs():
            if not await self.present(descriptor):
                return False
        return True

    async def known(self, digest: Digest, media_type: str) -> Document | None:
        """A manifest or index that is stored, whole and undamaged; `lading.core.remotes.Known`."""
        if not (mediatypes.is_index(media_type) or mediatypes.is_manifest(media_type)):
            return None
        try:
            body = await self._content.read(digest, limit=MANIFEST_LIMIT)
            if not digest.matches(body):
                return None
            descriptor = Descriptor(media_type=media_type, digest=digest, size=len(body))
            parse(body, descriptor)
        except LadingError:
            return None  # then it is fetched, and what is wrong is said by those who need it
        return Document(descriptor=descriptor, body=body)

    async def keep(self, document: Document, *, lease: LeaseID, repository: Reference | None = None) -> None:
        """Store a document, labelled with what it keeps and where it came from."""
        descriptor = document.descriptor
        labels = child_labels(parse(document.body, descriptor))
        if repository is not None:
            labels[source_key(repository)] = repository.path
        if not await self.put(descriptor, document.body, lease=lease, labels=labels):
            if repository is not None:
                del labels[source_key(repository)]
                await self._sources.add(descriptor.digest, repository)
            present = (await self._content.info(descriptor.digest)).labels
            if not labels.items() <= dict(present).items():
                await self._content.update(descriptor.digest, labels)

    async def put(
        self, descriptor: Descriptor, body: bytes, *, lease: LeaseID, labels: dict[str, str] | None = None
    ) -> bool:
        """Store a small blob; whether it was new. It is held by ``lease`` either way."""
        try:
            async with self._content.open_writer(
                IngestRef(ingest_ref(descriptor)), expected=descriptor, lease=lease
            ) as writer:
                if writer.offset:
                    await aio.run(aio.DISK, writer.truncate)
                await aio.run(aio.DISK, writer.write, body)
                await writer.commit(labels=labels or {})
        except AlreadyExistsError:
            return False
        return True

    async def fetch(
        self, descriptor: Descriptor, *, fetcher: Fetcher, repository: Reference, lease: LeaseID
    ) -> Manifest | Index:
        """A document, out of the store if it is there, else from the registry and then stored."""
        check_size(descriptor)
        try:
            body = await self._content.read(descriptor.digest, limit=MANIFEST_LIMIT)
        except NotFoundError:
            body = (await fetcher.document(descriptor)).body
            if not descriptor.digest.matches(body):
                raise DataLossError(
                    f"the registry sent other bytes than manifest {descriptor.digest}",
                    subject=descriptor.digest,
                ) from None
        check_length(descriptor, len(body))
        await self.keep(Document(descriptor=descriptor, body=body), lease=lease, repository=repository)
        return parse(body, descriptor)

    async def tree(self, target: Descriptor) -> "Tree":
        """Everything stored below a target; what is absent is listed, not raised.

        Raises:
            NotFoundError: The target itself is absent.
            InvalidArgumentError: Its indexes nest too deep or it names too much.

        """
        tree = Tree(target=target)
        async for descriptor, document in self._walk(target):
            if document is None:
                if descriptor.digest == target.digest:
                    raise NotFoundError(
                        f"content {target.digest} is not in the local store", subject=target.digest
                    )
                tree.absent.append(descriptor)
            elif isinstance(document, Manifest):
                tree.manifests.append(ManifestNode(descriptor=descriptor, manifest=document))
            else:
                tree.indexes.append((descriptor, document))
        return tree

    async def _walk(self, target: Descriptor) -> AsyncIterator[tuple[Descriptor, Manifest | Index | None]]:
        walk = Walk()
        pending = [(target, 0)]
        while pending:
            descriptor, depth = pending.pop(0)
            if not walk.enter(descriptor, depth):
                continue
            try:
                document = await self.read(descriptor) if is_document(descriptor) else None
            except NotFoundError:
                document = None
            yield descriptor, document
            if isinstance(document, Index):
                pending[:0] = [(child, depth + 1) for child in document.manifests]

    async def platform(self, node: ManifestNode) -> Platform | None:
        """The platform of a manifest: what its index says, else its config; ``None`` for what is no image."""
        if node.descriptor.platform is not None:
            return node.descriptor.platform
        if not node.manifest.is_image:
            return None
        try:
            return (await self.config(node)).platform
        except (NotFoundError, InvalidArgumentError):
            return None


@dataclass(slots=True, kw_only=True)
class Tree:
    """What is stored below a target, in the order of the documents."""

    target: Descriptor
    indexes: list[tuple[Descriptor, Index]] = field(default_factory=list[tuple[Descriptor, Index]])
    manifests: list[ManifestNode] = field(default_factory=list[ManifestNode])
    absent: list[Descriptor] = field(default_factory=list[Descriptor])


@dataclass(slots=True)
class Walk:
    """Bounds a walk through indexes: no cycle, no bottomless nesting, no flood (hostile-input.md D9)."""

    seen: set[str] = field(default_factory=set[str])

    def enter(self, descriptor: Descriptor, depth: int) -> bool:
        """Whether this descriptor is to be visited; False the second time."""
        if descriptor.digest in self.seen:
            return False
        if depth > limits.INDEX_DEPTH:
            raise InvalidArgumentError(
                f"indexes are nested deeper than {limits.INDEX_DEPTH} levels at {descriptor.digest}",
                subject=descriptor.digest,
            )
        self.seen.add(descriptor.digest)
        if len(self.seen) > limits.DESCRIPTORS:
            raise InvalidArgumentError(f"the image leads to more than {limits.DESCRIPTORS} descriptors")
        return True


def check_size(descriptor: Descriptor) -> None:
    """Refuse a document that is too long before anything of it is fetched (hostile-input.md D5)."""
    if descriptor.size > MANIFEST_LIMIT:
        raise ResourceExhaustedError(
            f"manifest {descriptor.digest} is {descriptor.size} bytes long, more than {MANIFEST_LIMIT}",
            subject=descriptor.digest,
        )
