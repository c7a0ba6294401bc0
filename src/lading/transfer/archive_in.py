"""Load: images out of an archive of `docker save`, `skopeo`, `buildx` or any OCI layout, packed or not.

The archive is hostile and is read once, front to back: every member goes into the content store under its digest, whatever its
path says; no path of it ever names a file here, and links are resolved among its own members only (hostile-input.md D19).
Documents are then found by name, as bytes or by digest. What nothing refers to in the end goes with the lease.
"""

import posixpath
import re
from collections.abc import AsyncIterable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import msgspec

from lading.core import content
from lading.core.content import DigestMismatchError, IngestRef, Writer
from lading.core.leases import LeaseID
from lading.core.progress import Phase, Progress
from lading.core.remotes import Document
from lading.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from lading.formats import compression
from lading.formats.compression import Compression
from lading.kit import aio
from lading.kit.tasks import map_tasks
from lading.oci import config as oci_config
from lading.oci import manifest as oci_manifest
from lading.oci import mediatypes, platform
from lading.oci import reference as oci_reference
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.document import CONFIG_LIMIT, decode, encode
from lading.oci.manifest import Index, Manifest, attested, descriptor_of, is_attestation
from lading.oci.reference import Reference
from lading.transfer import limits
from lading.transfer.archive_out import IMAGE_NAME, ORIGINAL, REF_NAME
from lading.transfer.archive_stream import ArchiveStream, Member
from lading.transfer.documents import Documents, ManifestNode, is_document

_BLOB: Final = re.compile(r"blobs/(sha256|sha384|sha512)/([0-9a-f]+)")
_DOCUMENTS: Final = frozenset({"index.json", "manifest.json", "oci-layout", "repositories"})
_LINK_HOPS: Final = 8
_SMALL: Final = 64 * 1024
"""Bytes of a member that is stored together with others: documents, and layers of a file or two."""
_BATCH: Final = 256
_LAYER_TYPES: Final = {
    Compression.NONE: mediatypes.DOCKER_LAYER,
    Compression.GZIP: mediatypes.DOCKER_LAYER_GZIP,
    Compression.ZSTD: mediatypes.DOCKER_LAYER_ZSTD,
}


class ArchiveError(InvalidArgumentError):
    """The archive is not an image archive, or is a damaged or hostile one."""

    code = "archive"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedImage:
    """An image found in an archive; ``reference`` is ``None`` if it has no usable name there."""

    reference: Reference | None
    target: Descriptor
    unpack: ManifestNode | None
    """The manifest for this host, if the archive has it whole."""


@dataclass(slots=True)
class Intake:
    """What an archive held, by the paths of its members."""

    documents: dict[str, bytes] = field(default_factory=dict[str, bytes])
    blobs: dict[str, tuple[Digest, int]] = field(default_factory=dict[str, tuple[Digest, int]])
    links: dict[str, str] = field(default_factory=dict[str, str])

    def find(self, path: str) -> tuple[Digest, int]:
        """Digest and size of the member at ``path``, through links between members.

        Raises:
            ArchiveError: There is none, or the links go in circles.

        """
        name = normal_path(path)
        for _ in range(_LINK_HOPS):
            if name in self.blobs:
                return self.blobs[name]
            if name not in self.links:
                break
            name = self.links[name]
        raise ArchiveError(f"the archive names {path[:160]!r} and does not hold it")


class _LegacyRow(msgspec.Struct, rename="pascal"):
    """One image of Docker's ``manifest.json``."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


class _LegacyList(msgspec.Struct):
    """``manifest.json`` is a list; documents are decoded as objects, so it is read inside one."""

    rows: list[_LegacyRow]


class Loader:
    """Reads archives into one store."""

    def __init__(
        self, *, store: content.Store, documents: Documents, host: Platform, packed: bool = True
    ) -> None:
        """Without ``packed`` every image is unpacked, for this host or not, because no blob of it is kept."""
        self._content = store
        self._documents = documents
        self._host = host
        self._packed = packed

    async def load(
        self,
        source: AsyncIterable[bytes],
        *,
        lease: LeaseID,
        platforms: Sequence[Platform] | None = None,
        progress: Progress | None = None,
    ) -> list[LoadedImage]:
        """Store everything the archive holds under ``lease`` and say which images are in it; naming them is the caller's.

        Raises:
            ArchiveError: It is no image archive, or is malformed.
            NotFoundError: An image is not complete for a platform that was named.
            DataLossError: A blob that the store did not have is not what its name says, or the archive ends early.

        """
        intake = await self._take_in(source, lease, progress or Progress())
        if "index.json" in intake.documents:
            found = await self._from_layout(intake, lease, platforms)
        elif "manifest.json" in intake.documents:
            found = await self._from_legacy(intake, lease)
        else:
            raise ArchiveError(
                "the archive holds no image",
                hint="it has neither index.json nor manifest.json; a root file system is for `docker import`",
            )
        return await map_tasks(
            lambda image: self._checked(*image, platforms), found, limit=limits.IMAGES_AT_ONCE
        )

    async def _take_in(self, source: AsyncIterable[bytes], lease: LeaseID, progress: Progress) -> Intake:
        intake = Intake()
        small = _Batch(self._content, lease, progress)
        async with ArchiveStream(source) as stream:
            count = 0
            while (member := await stream.next()) is not None:
                count += 1
                if count > limits.ARCHIVE_ENTRIES:
                    raise ResourceExhaustedError(
                        f"the archive has more than {limits.ARCHIVE_ENTRIES} members"
                    )
                await self._member(intake, stream, member, lease, count, progress, small)
        await small.flush()
        return intake

    async def _member(
        self,
        intake: Intake,
        stream: ArchiveStream,
        member: Member,
        lease: LeaseID,
        count: int,
        progress: Progress,
        small: "_Batch",
    ) -> None:
        path = normal_path(member.path)
        if member.link is not None:
            base = "" if member.hard else posixpath.dirname(path)
            intake.blobs.pop(path, None)
            intake.links[path] = normal_path(posixpath.join(base, member.link))
        elif not member.regular:
            return
        elif path in _DOCUMENTS:
            if member.size > limits.ARCHIVE_JSON:
                raise ResourceExhaustedError(
                    f"{path} in the archive is over {limits.ARCHIVE_JSON} bytes", subject=path
                )
            intake.documents[path] = b"".join([bytes(chunk) async for chunk in stream.data(member)])
        elif member.size <= _SMALL:
            intake.links.pop(path, None)
            data = b"".join([bytes(chunk) async for chunk in stream.data(member)])
            intake.blobs[path] = await small.add(data, _digest_in(path)), len(data)
        else:
            intake.links.pop(path, None)
            ref = IngestRef(f"load-{lease}-{count}")
            intake.blobs[path] = await self._store(stream, member, path, ref, lease, progress)

    async def _store(
        self,
        stream: ArchiveStream,
        member: Member,
        path: str,
        ref: IngestRef,
        lease: LeaseID,
        progress: Progress,
    ) -> tuple[Digest, int]:
        """Put one member into the content store; its digest and size."""
        digest = _digest_in(path)
        expected = None
        if digest is not None:
            expected = Descriptor(media_type="application/octet-stream", digest=digest, size=member.size)
        item = progress.item(expected.digest.short if expected else path[:64], member.size)
        item.phase = Phase.DOWNLOADING
        async with AsyncExitStack() as stack:
            try:
                writer: Writer = await stack.enter_async_context(
                    self._content.open_writer(ref, expected=expected, lease=lease)
                )
            except AlreadyExistsError:
                assert expected is not None
                async for _ in stream.data(member):
                    pass
                item.current, item.phase = member.size, Phase.EXISTS
                return expected.digest, (await self._content.info(expected.digest)).size
            if writer.offset:
                await aio.run(aio.DISK, writer.truncate)
            async for chunk in stream.data(member):
                await aio.run(aio.DATA, writer.write, chunk)
                item.current = writer.offset
            info = await writer.commit(size=member.size)
        item.phase = Phase.COMPLETE
        return info.digest, info.size

    async def _from_layout(
        self, intake: Intake, lease: LeaseID, platforms: Sequence[Platform] | None
    ) -> list[tuple[Reference | None, Descriptor]]:
        """The images of an OCI layout's ``index.json``, with the indexes that reduced ones stand for put back.

        Of other platforms than those named nothing is kept; the attestations about these are.
        """
        index = oci_manifest.parse(intake.documents["index.json"], mediatypes.OCI_INDEX, what="index.json")
        assert isinstance(index, Index)

        async def image(entry: Descriptor) -> tuple[Reference | None, Descriptor]:
            target = _bare(entry)
            only = await self._wanted(target, platforms) if platforms else None
            await self._documents.keep_below(target, lease=lease, only=only)
            # A store of single platforms takes one that the archive holds, not one that happens to be here still.
            original = await self._original(entry, intake, lease, only) if self._packed else None
            return _named(entry, original or target), original or target

        entries = [entry for entry in index.manifests if is_document(entry)]
        return await map_tasks(image, entries, limit=limits.IMAGES_AT_ONCE)

    async def _wanted(self, target: Descriptor, platforms: Sequence[Platform]) -> set[str]:
        """The manifests for these platforms, and the attestations about them."""
        survey = await self._documents.survey(target)
        images = [n for n in survey.tree.manifests if not is_attestation(n.descriptor) and survey.complete(n)]
        best = [platform.best(wanted, images, key=survey.platform) for wanted in platforms]
        chosen = {str(node.descriptor.digest) for node in best if node is not None}
        return chosen | {str(d.digest) for d, _ in survey.tree.entries if attested(d) in chosen}

    async def _original(
        self, entry: Descriptor, intake: Intake, lease: LeaseID, only: Collection[str] | None
    ) -> Descriptor | None:
        """The full index that a reduced one stands for, if its bytes are in the archive and it covers the reduced one."""
        named = entry.annotations.get(ORIGINAL)
        if named is None:
            return None
        digest = Digest(named)
        held = intake.blobs.get(f"blobs/{digest.algorithm}/{digest.hex}")
        if held is None:
            return None
        original = Descriptor(media_type=entry.media_type, digest=digest, size=held[1])
        full, reduced = await self._documents.read(original), await self._documents.read(_bare(entry))
        if not isinstance(full, Index) or not isinstance(reduced, Index):
            raise ArchiveError(f"the archive says that manifest {digest} is an index")
        covered = {child.digest for child in full.manifests}
        if any(
            child.digest not in covered and ORIGINAL not in child.annotations for child in reduced.manifests
        ):
            raise ArchiveError(f"the archive's reduced index is no part of {digest}")
        await self._documents.keep_below(original, lease=lease, only=only)
        return original

    async def _from_legacy(self, intake: Intake, lease: LeaseID) -> list[tuple[Reference | None, Descriptor]]:
        """The images of Docker's ``manifest.json``; each gets a manifest, which this archive format lacks."""
        body = b'{"rows":' + intake.documents["manifest.json"] + b"}"
        rows = decode(body, _LegacyList, what="manifest.json", limit=limits.ARCHIVE_JSON + 16).rows
        found: list[tuple[Reference | None, Descriptor]] = []
        for row in rows:
            target = await self._make_manifest(intake, row, lease)
            names = [_parsed(tag, target) for tag in row.repo_tags or ()]
            named = [name for name in names if name is not None]
            found += [(name, target) for name in named] or [(None, target)]
        return found

    async def _make_manifest(self, intake: Intake, row: _LegacyRow, lease: LeaseID) -> Descriptor:
        config_digest, config_size = intake.find(row.config)
        layers = [intake.find(layer) for layer in row.layers or ()]
        config_body = await self._content.read(config_digest, limit=CONFIG_LIMIT)
        oci_config.parse(config_body, layers=len(layers), what=f"config {row.config[:160]!r}")
        manifest = Manifest(
            schema_version=2,
            media_type=mediatypes.DOCKER_MANIFEST,
            config=Descriptor(media_type=mediatypes.DOCKER_CONFIG, digest=config_digest, size=config_size),
            layers=tuple([await self._layer(digest, size) for digest, size in layers]),
        )
        body = encode(manifest)
        document = Document(descriptor=descriptor_of(body, mediatypes.DOCKER_MANIFEST), body=body)
        await self._documents.keep(document, lease=lease)
        return document.descriptor

    async def _layer(self, digest: Digest, size: int) -> Descriptor:
        """A layer's descriptor; what it is compressed with is what its bytes say."""
        async with self._content.open_reader(digest) as reader:
            magic = await aio.run(aio.DISK, reader.pread, compression.MAGIC_LENGTH, 0)
        found = compression.sniff(magic)
        if found not in _LAYER_TYPES:
            raise ArchiveError(f"layer {digest} in the archive is packed with {found.value}")
        return Descriptor(media_type=_LAYER_TYPES[found], digest=digest, size=size)

    async def _checked(
        self, reference: Reference | None, target: Descriptor, platforms: Sequence[Platform] | None
    ) -> LoadedImage:
        """Make sure that something of the image is whole, and what was asked for is; find what this host runs."""
        shown = reference.familiar if reference else target.digest
        survey = await self._documents.survey(target)
        offers: list[tuple[ManifestNode, Platform | None]] = []
        for node in survey.tree.manifests:
            if not survey.complete(node):
                continue
            if node.unpackable:
                survey.config(node)
            if not is_attestation(node.descriptor):
                offers.append((node, survey.platform(node)))
        if not offers:
            raise ArchiveError(f"image {shown} in the archive is not complete for any platform")
        for wanted in platforms or ():
            if platform.best(wanted, offers, key=lambda offer: offer[1]) is None:
                raise NotFoundError(
                    f"image {shown} in the archive does not provide the platform "
                    f"{platform.formatted(wanted)} completely",
                    subject=shown,
                )
        runnable = [offer for offer in offers if offer[0].unpackable]
        if platforms and self._packed:  # what was not asked for is not kept, so it is not unpacked either
            fitting = (platform.best(wanted, runnable, key=lambda offer: offer[1]) for wanted in platforms)
            runnable = [offer for offer in fitting if offer is not None]
        wanted = platforms[0] if platforms and not self._packed else self._host
        best = platform.best(wanted, runnable, key=lambda offer: offer[1])
        if best is None and not self._packed:
            best = next(iter(runnable), None)
        return LoadedImage(reference=reference, target=target, unpack=best[0] if best else None)


class _Batch:
    """Small members on their way into the store, many at a time."""

    def __init__(self, store: content.Store, lease: LeaseID, progress: Progress) -> None:
        self._content = store
        self._lease = lease
        self._progress = progress
        self._held: dict[Digest, bytes] = {}

    async def add(self, data: bytes, named: Digest | None) -> Digest:
        """Take one; its digest, which must be the one that its path names, if any."""
        digest = named or Digest.of(data)
        if named is not None and not named.matches(data):
            raise DigestMismatchError(f"{named} in the archive has other bytes", subject=named)
        self._held[digest] = data
        if len(self._held) >= _BATCH:
            await self.flush()
        return digest

    async def flush(self) -> None:
        """Store what is held."""
        held, self._held = self._held, {}
        if held:
            await self._content.put_many(held, lease=self._lease)
        for digest, data in held.items():
            item = self._progress.item(digest.short, len(data))
            item.current, item.phase = len(data), Phase.COMPLETE


def _digest_in(path: str) -> Digest | None:
    """The digest that a blob's path names."""
    named = _BLOB.fullmatch(path)
    return Digest(f"{named[1]}:{named[2]}") if named else None


def normal_path(path: str) -> str:
    """A member's path with ``.``, ``..`` and slashes resolved lexically; it only ever serves as a key."""
    return posixpath.normpath("/" + path.lstrip("/")).lstrip("/")


def _bare(entry: Descriptor) -> Descriptor:
    """The descriptor of an image's target: what a registry would give, without the archive's annotations."""
    return Descriptor(media_type=entry.media_type, digest=entry.digest, size=entry.size)


def _named(entry: Descriptor, target: Descriptor) -> Reference | None:
    """The name of an entry of ``index.json``; a bare tag, as OCI allows, names no repository."""
    full = entry.annotations.get(IMAGE_NAME)
    if full is not None:
        return _parsed(full, target)
    name = entry.annotations.get(REF_NAME, "")
    return _parsed(name, target) if ":" in name or "/" in name else None


def _parsed(text: str, target: Descriptor) -> Reference | None:
    """A name out of an archive, or ``None`` if it is none that an image may bring along: the image then has none.

    A digest that is not the target's would be a lie, and the name of images without one is not given away.
    """
    try:
        name = oci_reference.parse(text).with_default_tag()
    except InvalidArgumentError:
        return None
    lies = name.digest is not None and name.digest != target.digest
    return None if lies or oci_reference.is_dangling(str(name)) else name
