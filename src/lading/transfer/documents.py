"""Manifests, indexes and configs: fetched, checked, and kept byte for byte with labels for what they keep."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

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

T = TypeVar("T")
_AT_ONCE: Final = 64
"""Documents that are read at a time."""


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

    async def config_at(self, digest: Digest) -> ImageConfig:
        """A stored config. Raises `NotFoundError` and what parsing raises."""
        body = await self._content.read(digest, limit=CONFIG_LIMIT)
        return oci_config.parse(body, what=f"config {digest}")

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
                await self._content.update(descriptor.digest, labels, durable=False)

    async def keep_below(
        self, target: Descriptor, *, lease: LeaseID, only: Collection[str] | None = None
    ) -> None:
        """Label every stored document below ``target`` with what it keeps, in one transaction; ``lease`` holds them.

        With ``only``, indexes keep of their manifests these alone.
        """
        tree = await self.tree(target)
        labels = {descriptor.digest: _kept(index, only) for descriptor, index in tree.indexes}
        labels |= {node.descriptor.digest: child_labels(node.manifest) for node in tree.manifests}
        await self._content.label(labels, lease=lease)

    async def put(
        self, descriptor: Descriptor, body: bytes, *, lease: LeaseID, labels: dict[str, str] | None = None
    ) -> bool:
        """Store a small blob; whether it was new. It is held by ``lease`` either way.

        Its row is durable once something was written that is, such as the name of its image. Raises `InvalidArgumentError` for a
        manifest or config that is over the limit up to which one is read.
        """
        _check_new(descriptor, body)
        try:
            async with self._content.open_writer(
                IngestRef(ingest_ref(descriptor)), expected=descriptor, lease=lease
            ) as writer:
                if writer.offset:
                    await aio.run(aio.DISK, writer.truncate)
                await aio.run(aio.DISK, writer.write, body)
                await writer.commit(labels=labels or {}, durable=False)
        except AlreadyExistsError:
            return False
        return True

    async def put_all(self, documents: "Pending", *, lease: LeaseID) -> None:
        """Store what was made together, each manifest and index labelled with what it keeps.

        The rows are durable once something was written that is, such as the name of the image.
        """
        await self._content.put_many(documents.bodies, labels=documents.labels, lease=lease, durable=False)

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
        tree = Tree(target=target, entries=_in_order(target, await self._below(target)))
        if tree.entries[0][1] is None:
            raise NotFoundError(f"content {target.digest} is not in the local store", subject=target.digest)
        return tree

    async def survey(self, target: Descriptor) -> "Survey":
        """The tree of a target with its configs, and which blobs are here. Raises as `tree`."""
        tree = await self.tree(target)
        configs: dict[Digest, ImageConfig | LadingError] = {}
        images = [node for node in tree.manifests if node.manifest.is_image]
        for few in _few(images):
            bodies = await self._content.read_many(
                [node.manifest.config.digest for node in few], limit=CONFIG_LIMIT
            )
            for node in few:
                if (body := bodies.get(node.manifest.config.digest)) is not None:
                    configs[node.descriptor.digest] = _config(node, body)
        blobs = {blob.digest for node in tree.manifests for blob in node.blobs()}
        return Survey(tree=tree, configs=configs, sizes=await self._content.sizes(blobs))

    async def _below(self, target: Descriptor) -> dict[Digest, Manifest | Index]:
        """The documents that are stored below a target, read level by level."""
        walk = Walk()
        found: dict[Digest, Manifest | Index] = {}
        level = [target]
        depth = 0
        while level:
            entered = [each for each in level if walk.enter(each, depth)]
            level = list[Descriptor]()
            depth += 1
            for few in _few([each for each in entered if is_document(each)]):
                bodies = await self._content.read_many([each.digest for each in few], limit=MANIFEST_LIMIT)
                for each in few:
                    if (body := bodies.get(each.digest)) is None:
                        continue
                    check_length(each, len(body))
                    document = found[each.digest] = parse(body, each)
                    level += document.manifests if isinstance(document, Index) else ()
        return found


@dataclass(slots=True)
class Pending:
    """New documents and small blobs, gathered so that the disk is waited for once."""

    bodies: dict[Digest, bytes] = field(default_factory=dict[Digest, bytes])
    labels: dict[Digest, Mapping[str, str]] = field(default_factory=dict[Digest, Mapping[str, str]])

    def add(self, descriptor: Descriptor, body: bytes) -> None:
        """Have a blob stored; one that is a manifest or an index keeps what it names. Raises as `Documents.put`."""
        _check_new(descriptor, body)
        self.bodies[descriptor.digest] = body
        if is_document(descriptor):
            self.labels[descriptor.digest] = child_labels(parse(body, descriptor))


def _check_new(descriptor: Descriptor, body: bytes) -> None:
    """Refuse what could be stored, and named, but not be read again."""
    kind, limit = "manifest", MANIFEST_LIMIT
    if mediatypes.is_config(descriptor.media_type):
        kind, limit = "config", CONFIG_LIMIT
    elif not is_document(descriptor):
        return
    if len(body) > limit:
        raise InvalidArgumentError(
            f"the image's {kind} has {len(body)} bytes, more than {limit}", subject=descriptor.digest
        )


def _kept(index: Index, only: Collection[str] | None) -> dict[str, str]:
    dropped = {
        child.digest
        for child in index.manifests
        if only is not None and child.digest not in only and not mediatypes.is_index(child.media_type)
    }
    return {key: value for key, value in child_labels(index).items() if value not in dropped}


def _few(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Some at a time, so that documents of the largest size do not fill the memory."""
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]


def _in_order(target: Descriptor, found: Mapping[Digest, Manifest | Index]) -> "list[Entry]":
    """What `Documents._below` found, in the order of the documents, each digest once."""
    entries: list[Entry] = []
    seen: set[Digest] = set()
    pending = [target]
    while pending:
        descriptor = pending.pop()
        if descriptor.digest in seen:
            continue
        seen.add(descriptor.digest)
        document = found.get(descriptor.digest)
        entries.append((descriptor, document))
        if isinstance(document, Index):
            pending.extend(reversed(document.manifests))
    return entries


def _config(node: ManifestNode, body: bytes) -> ImageConfig | LadingError:
    try:
        return oci_config.parse(
            body,
            layers=len(node.manifest.layers),
            what=f"config {node.manifest.config.digest} of {node.descriptor.digest}",
        )
    except LadingError as exc:
        return exc


Entry = tuple[Descriptor, Manifest | Index | None]
"""A descriptor below a target, and its document if it is one and is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What is stored below a target, in the order of the documents, each digest once."""

    target: Descriptor
    entries: list[Entry]

    @property
    def indexes(self) -> list[tuple[Descriptor, Index]]:
        """The indexes that are here, the outermost first."""
        return [(entry, document) for entry, document in self.entries if isinstance(document, Index)]

    @property
    def manifests(self) -> list[ManifestNode]:
        """The manifests that are here."""
        return [
            ManifestNode(descriptor=entry, manifest=document)
            for entry, document in self.entries
            if isinstance(document, Manifest)
        ]

    @property
    def absent(self) -> list[Descriptor]:
        """What is named and is not here, or is no document."""
        return [entry for entry, document in self.entries if document is None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A tree, the configs of its manifests (or what is wrong with them) by the manifest's digest, and the sizes of blobs here."""

    tree: Tree
    configs: Mapping[Digest, ImageConfig | LadingError]
    sizes: Mapping[str, int]

    def config(self, node: ManifestNode) -> ImageConfig:
        """The config of an image manifest. Raises `NotFoundError`; what parsing raised (hostile-input.md D8)."""
        found = self.configs.get(node.descriptor.digest)
        if found is None:
            digest = node.manifest.config.digest
            raise NotFoundError(f"config {digest} is not in the local store", subject=digest)
        if isinstance(found, LadingError):
            raise found
        return found

    def platform(self, node: ManifestNode) -> Platform | None:
        """The platform of a manifest: what its index says, else its config; ``None`` for what is no image."""
        if node.descriptor.platform is not None:
            return node.descriptor.platform
        found = self.configs.get(node.descriptor.digest)
        return found.platform if isinstance(found, ImageConfig) else None

    def present(self, blob: Descriptor) -> bool:
        """Whether the blob is here. Raises `DataLossError` if it has another size than the descriptor says."""
        size = self.sizes.get(blob.digest)
        if size is not None:
            check_length(blob, size)
        return size is not None

    def complete(self, node: ManifestNode) -> bool:
        """Whether everything that a manifest names is here."""
        return all(self.present(blob) for blob in node.blobs())


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
