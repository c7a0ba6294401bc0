"""Save: images as one tar that every tool reads: an OCI layout, with Docker's ``manifest.json`` and ``repositories``.

Only what is stored is written, and what is written is consistent: where an index names manifests that are not there, a
reduced index stands in its place and says so in the annotation `ORIGINAL`. The original's bytes go along, so that loading
the archive here restores the digest. Blobs are written as they are, never recompressed.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from lading.core import content
from lading.errors import NotFoundError
from lading.formats.tar.entry import Entry, EntryType
from lading.formats.tar.writer import END, header, padding
from lading.kit import aio
from lading.oci import mediatypes, platform
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.document import encode
from lading.oci.manifest import Index, attested, descriptor_of, is_attestation
from lading.oci.reference import Reference
from lading.transfer.documents import Documents, ManifestNode, Survey, Tree
from lading.transfer.push import ContentMissingError

ORIGINAL: Final = "lading.index.original"
"""Annotation on a reduced index's descriptor: the digest of the index that it stands for, which is in the archive too."""
IMAGE_NAME: Final = "io.containerd.image.name"
"""Annotation on an entry of ``index.json``: the full name, as containerd and Docker write it."""
REF_NAME: Final = "org.opencontainers.image.ref.name"
"""Annotation on an entry of ``index.json``: the tag (OCI annotations.md)."""
CHUNK: Final = 1024 * 1024

Sink = Callable[[bytes], Awaitable[None]]
"""Takes the next bytes of an archive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedImage:
    """An image to save. Without ``reference`` it is saved by its digest alone."""

    target: Descriptor
    reference: Reference | None = None


@dataclass(slots=True)
class _Layout:
    """The archive's documents and the blobs that it will hold, each once."""

    blobs: dict[Digest, int] = field(default_factory=dict[Digest, int])
    made: dict[Digest, bytes] = field(default_factory=dict[Digest, bytes])
    """Blobs that are not in the store: reduced indexes."""
    entries: list[Descriptor] = field(default_factory=list[Descriptor])
    manifest_json: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    repositories: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])


class Saver:
    """Writes archives out of one store."""

    def __init__(self, *, store: content.Store, documents: Documents, host: Platform) -> None:
        self._content = store
        self._documents = documents
        self._host = host

    async def save(
        self, images: Sequence[SavedImage], sink: Sink, *, platforms: Sequence[Platform] | None = None
    ) -> None:
        """Write an archive of ``images`` to ``sink``, in chunks of at most 1 MiB, holding no layer in memory.

        With one platform its manifest is saved in place of the index; with several, a reduced index with the attestations about
        them. Nothing is written before
        everything that can be refused has been.

        Raises:
            NotFoundError: An image is not for a platform that was named, or has no complete manifest at all.

        """
        layout = _Layout()
        for image in images:
            await self._add(layout, image, platforms)
        async for chunk in self._archive(layout):
            await sink(chunk)

    async def _add(self, layout: _Layout, image: SavedImage, platforms: Sequence[Platform] | None) -> None:
        survey = await self._documents.survey(image.target)
        tree = survey.tree
        complete = [node for node in tree.manifests if survey.complete(node)]
        if platforms is not None:
            complete = _of_platforms(image, survey, complete, platforms)
        if not complete:
            raise ContentMissingError(
                f"image {_shown(image)} has no platform whose content is complete here",
                hint="pull it again to complete it",
                subject=image.target.digest,
            )
        for node in complete:
            layout.blobs[node.descriptor.digest] = node.descriptor.size
            layout.blobs.update({blob.digest: blob.size for blob in node.blobs()})
        if platforms is not None and len(platforms) == 1:
            top = complete[0].descriptor
        else:
            top = self._reduce(layout, tree, image.target, {node.descriptor.digest for node in complete})
        layout.entries.append(_entry(top, image.reference))
        self._add_legacy(layout, image, survey, complete)

    def _reduce(self, layout: _Layout, tree: Tree, descriptor: Descriptor, kept: set[Digest]) -> Descriptor:
        """``descriptor`` itself if everything below it is kept, else a new index of what is; its blobs join the layout."""
        index = next((i for d, i in tree.indexes if d.digest == descriptor.digest), None)
        if index is None:
            return descriptor
        layout.blobs[descriptor.digest] = descriptor.size
        children: list[Descriptor] = []
        for child in index.manifests:
            if mediatypes.is_index(child.media_type):
                if any(d.digest == child.digest for d, _ in tree.indexes):
                    children.append(self._reduce(layout, tree, child, kept))
            elif child.digest in kept:
                children.append(child)
        if children == list(index.manifests):
            return descriptor
        body = encode(msgspec.structs.replace(index, manifests=tuple(children)))
        reduced = descriptor_of(body, descriptor.media_type)
        layout.made[reduced.digest] = body
        return msgspec.structs.replace(
            reduced, annotations={**descriptor.annotations, ORIGINAL: descriptor.digest}
        )

    def _add_legacy(
        self, layout: _Layout, image: SavedImage, survey: Survey, nodes: Sequence[ManifestNode]
    ) -> None:
        """Name the host's manifest, or else the first, in ``manifest.json``, which readers without OCI use."""
        offers = [
            (node, survey.platform(node))
            for node in nodes
            if node.manifest.is_image and not is_attestation(node.descriptor)
        ]
        if not offers:
            return
        node, _ = platform.best(self._host, offers, key=lambda offer: offer[1]) or offers[0]
        tag = image.reference.familiar if image.reference and image.reference.tag else None
        config = _path(node.manifest.config.digest)
        layers = [_path(layer.digest) for layer in node.manifest.layers]
        for row in layout.manifest_json:
            if row["Config"] == config and row["Layers"] == layers:
                row["RepoTags"] = [*(row["RepoTags"] or []), *([tag] if tag else [])] or None
                break
        else:
            row = {"Config": config, "RepoTags": [tag] if tag else None, "Layers": layers}
            layout.manifest_json.append(row)
        if image.reference and image.reference.tag and node.manifest.layers:
            tags = layout.repositories.setdefault(image.reference.familiar_name, {})
            tags[image.reference.tag] = node.manifest.layers[-1].digest.hex

    async def _archive(self, layout: _Layout) -> AsyncIterator[bytes]:
        """The members in the order in which containerd writes them: sorted by path."""
        blobs = {**layout.blobs, **{digest: len(body) for digest, body in layout.made.items()}}
        yield _directory("blobs/")
        for algorithm in sorted({digest.algorithm for digest in blobs}):
            yield _directory(f"blobs/{algorithm}/")
        for digest in sorted(blobs):
            async for chunk in self._blob(digest, blobs[digest], layout.made.get(digest)):
                yield chunk
        documents = {
            "index.json": _index_json(layout.entries),
            "manifest.json": _json(layout.manifest_json),
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        }
        if layout.repositories:
            documents["repositories"] = _json(layout.repositories)
        for name, body in sorted(documents.items()):
            yield _file(name, len(body)) + body + padding(len(body))
        yield END

    async def _blob(self, digest: Digest, size: int, made: bytes | None) -> AsyncIterator[bytes]:
        yield _file(_path(digest), size)
        if made is not None:
            yield made
        else:
            async with self._content.open_reader(digest) as reader:
                for offset in range(0, size, CHUNK):
                    yield await aio.run(aio.DATA, reader.pread, min(CHUNK, size - offset), offset)
        yield padding(size)


def _of_platforms(
    image: SavedImage, survey: Survey, nodes: Sequence[ManifestNode], platforms: Sequence[Platform]
) -> list[ManifestNode]:
    offers = [(node, survey.platform(node)) for node in nodes if not is_attestation(node.descriptor)]
    chosen: list[ManifestNode] = []
    for wanted in platforms:
        found = platform.best(wanted, offers, key=lambda offer: offer[1], strict=True)
        if found is None:
            raise NotFoundError(
                f"image with reference {_shown(image)} was found but does not provide the specified "
                f"platform ({platform.formatted(wanted)})",
                subject=image.target.digest,
            )
        chosen.append(found[0])
    if len(platforms) == 1:
        return chosen  # saved as a manifest, which has no place for what is said about it
    digests = {node.descriptor.digest for node in chosen}
    return [*chosen, *(node for node in nodes if attested(node.descriptor) in digests)]


def _directory(path: str) -> bytes:
    return header(Entry(name=path, type=EntryType.DIRECTORY, mode=0o755))


def _file(path: str, size: int) -> bytes:
    return header(Entry(name=path, type=EntryType.FILE, mode=0o444, size=size, real_size=size))


def _entry(top: Descriptor, reference: Reference | None) -> Descriptor:
    """The entry of ``index.json`` for an image."""
    annotations = dict(top.annotations)
    if reference is not None:
        annotations[IMAGE_NAME] = str(reference)
        if reference.tag:
            annotations[REF_NAME] = reference.tag
    return msgspec.structs.replace(top, annotations=annotations)


def _index_json(entries: Sequence[Descriptor]) -> bytes:
    return encode(Index(schema_version=2, media_type=mediatypes.OCI_INDEX, manifests=tuple(entries)))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _shown(image: SavedImage) -> str:
    return image.reference.familiar if image.reference else image.target.digest
