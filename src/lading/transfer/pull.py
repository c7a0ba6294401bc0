"""Pull: from a reference to an image that is stored, unpacked and named.

Nothing is visible before everything is there: the image record is written last. Every manifest that is pulled is complete:
a blob is never left out because a snapshot with its contents exists already.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import anyio

from lading.core import images
from lading.core.leases import LeaseID
from lading.core.progress import Phase, Progress
from lading.core.remotes import Credentials, Document, Fetcher, Registries
from lading.core.snapshots import SnapshotName
from lading.errors import NotFoundError, ResourceExhaustedError
from lading.kit.tasks import map_tasks, task_group
from lading.oci import mediatypes, platform
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.document import CONFIG_LIMIT
from lading.oci.manifest import Index, Manifest, is_attestation
from lading.oci.reference import Reference
from lading.transfer import limits
from lading.transfer.documents import Documents, ManifestNode, Walk, check_size, parse
from lading.transfer.downloads import Downloads, Wish
from lading.transfer.holding import Holder
from lading.transfer.selection import NoMatchingPlatformError, Platforms, best, select
from lading.transfer.standing import Standing
from lading.unpack.arriving import Arriving
from lading.unpack.unpacker import Layer, Unpacker


@dataclass(frozen=True, slots=True, kw_only=True)
class PullResult:
    """What a pull brought. ``updated`` is False if the name pointed to this very target before."""

    name: str
    reference: Reference
    target: Descriptor
    """What the registry has under the reference."""
    image: Descriptor
    """The target of the record: the same in the containerd store, a config in the classic one."""
    manifests: tuple[Descriptor, ...]
    snapshot: SnapshotName | None
    updated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """An image for one platform, and where its blobs come from. ``target`` is what its name points to."""

    reference: Reference
    target: Descriptor
    node: ManifestNode
    fetcher: Fetcher


@dataclass(slots=True, kw_only=True)
class _Pull:
    """One pull in progress."""

    reference: Reference
    fetcher: Fetcher
    lease: LeaseID
    progress: Progress
    limiter: anyio.CapacityLimiter
    small: anyio.CapacityLimiter
    nodes: list[ManifestNode] = field(default_factory=list[ManifestNode])
    wishes: dict[Digest, Wish] = field(default_factory=dict[Digest, Wish])
    fresh: bool = False
    """Whether a config came that was not here: if not, only the name is new, and as dockerd nothing is said of layers."""

    async def source(self, descriptor: Descriptor) -> Arriving:
        """A layer's blob, as soon as its first bytes are there. Raises `NotFoundError` for one that is not fetched."""
        wish = self.wishes.get(descriptor.digest)
        if wish is None:
            raise NotFoundError(f"layer {descriptor.digest} is not fetched", subject=descriptor.digest)
        return await wish.source()


class Puller:
    """Pulls images into one store. One per daemon, so that concurrent pulls share their downloads."""

    def __init__(
        self,
        *,
        documents: Documents,
        downloads: Downloads,
        naming: images.Naming,
        holder: Holder,
        registries: Registries,
        unpacker: Unpacker,
        standing: Standing,
        host: Platform,
        packed: bool = True,
        max_downloads: int = limits.MAX_DOWNLOADS,
    ) -> None:
        """Without ``packed`` one platform of an image is pulled, and what its layers were packed in is not kept."""
        self._documents = documents
        self._downloads = downloads
        self._naming = naming
        self._packed = packed
        self._holder = holder
        self._registries = registries
        self._unpacker = unpacker
        self._host = host
        self._max_downloads = max_downloads
        self.downloading = anyio.CapacityLimiter(max_downloads)
        """Layers that are fetched at a time, of all pulls together."""
        self._standing = standing

    async def pull(
        self,
        reference: Reference,
        *,
        platforms: Platforms = None,
        credentials: Credentials | None = None,
        headers: dict[str, str] | None = None,
        progress: Progress | None = None,
        name: str | None = None,
        labels: dict[str, str] | None = None,
        keep_displaced: bool = True,
    ) -> PullResult:
        """Pull what ``reference`` names and point ``name`` (by default the reference itself) to it.

        ``keep_displaced`` keeps an old target of the name as a dangling image. Interrupted at any point, also by a crash,
        a pull of the same reference goes on with the bytes that are there.

        Raises:
            NotFoundError: The registry has no such image, or (`NoMatchingPlatformError`) not for the platform.
            InvalidArgumentError, UnsupportedError, DataLossError: The image is malformed, of an unsupported kind, or not what its
                digests say; nothing of it is visible.
            UnauthenticatedError, PermissionDeniedError, UnavailableError: The registry refused or did not answer.

        """
        reference = reference.with_default_tag()
        name = name or _record_name(reference)
        progress = progress or Progress()
        purpose = f"pull {reference}"
        resolver = self._registries.resolver(credentials, headers=headers)
        document = await resolver.resolve(reference, known=self._documents.known)
        check_size(document.descriptor)
        if platforms is None and not labels:
            standing = await self._standing.find(name, reference, document)
            if standing is not None:
                await self._holder.need_nothing(purpose)
                nodes, snapshot = standing
                return PullResult(
                    name=name,
                    reference=reference,
                    target=document.descriptor,
                    image=document.descriptor,
                    manifests=tuple(node.descriptor for node in nodes),
                    snapshot=snapshot,
                    updated=False,
                )
        async with self._holder.hold(purpose) as lease:
            run = self._run(reference, resolver.fetcher(reference), lease, progress)
            unpack = await self._choose(run, document, platforms)
            snapshot = await self._transfer(run, unpack)
            pointed = await self._naming.point(
                name,
                document.descriptor,
                manifest=unpack.descriptor if unpack else None,
                source=reference,
                labels=labels,
                keep_displaced=keep_displaced,
            )
        if platforms is not None and pointed.replaced is not None and pointed.moved:
            progress.messages.append(_moved(reference, pointed.replaced.target))
        return PullResult(
            name=name,
            reference=reference,
            target=document.descriptor,
            image=pointed.image.target,
            manifests=tuple(node.descriptor for node in run.nodes),
            snapshot=snapshot,
            updated=pointed.moved,
        )

    async def locate(
        self,
        reference: Reference,
        wanted: Platform,
        *,
        lease: LeaseID,
        credentials: Credentials | None = None,
        headers: dict[str, str] | None = None,
    ) -> "Located":
        """Find an image in its registry for one platform: manifest and config are fetched, its layers are not.

        An image that is no index is taken for what it is. Raises as `pull`.
        """
        reference = reference.with_default_tag()
        resolver = self._registries.resolver(credentials, headers=headers)
        document = await resolver.resolve(reference, known=self._documents.known)
        check_size(document.descriptor)
        return await self.locate_in(
            reference, document, wanted, fetcher=resolver.fetcher(reference), lease=lease
        )

    async def locate_in(
        self,
        reference: Reference,
        document: Document,
        wanted: Platform,
        *,
        fetcher: Fetcher,
        lease: LeaseID,
    ) -> "Located":
        """As `locate`, of a target that is known, with whatever serves it."""
        run = self._run(reference, fetcher, lease, Progress())
        single = not mediatypes.is_index(document.descriptor.media_type)
        await self._choose(run, document, None if single else [wanted])
        for node in run.nodes:
            if node.manifest.is_image:
                await self._fetch_config(run, node)
                return Located(
                    reference=reference, target=document.descriptor, node=node, fetcher=run.fetcher
                )
        raise NoMatchingPlatformError(f"{reference} is no image", subject=str(reference))

    async def complete(
        self, located: "Located", *, lease: LeaseID, progress: Progress
    ) -> SnapshotName | None:
        """Fetch what is missing of an image's blobs and unpack it; the top snapshot. Raises as `pull`."""
        run = self._run(located.reference, located.fetcher, lease, progress)
        run.nodes.append(located.node)
        await self._fetch_config(run, located.node)
        return await self._transfer(run, located.node)

    async def bring_layers(
        self,
        layers: Sequence[Layer],
        *,
        reference: Reference,
        fetcher: Fetcher,
        lease: LeaseID,
        progress: Progress,
    ) -> None:
        """Fetch layers that no manifest names, and unpack them on top of each other. Raises as `pull`."""
        run = self._run(reference, fetcher, lease, progress)
        async with task_group() as group:
            for layer in layers:
                if layer.descriptor.digest not in run.wishes:
                    wish = Wish(descriptor=layer.descriptor)
                    wish.item = progress.item(layer.descriptor.digest.short, layer.descriptor.size)
                    run.wishes[layer.descriptor.digest] = wish
                    group.start_soon(self._download, run, wish)
            await self._unpacker.unpack_layers(
                layers,
                lease=lease,
                source=run.source,
                progress=progress,
            )

    async def fetch_blob(self, located: "Located", descriptor: Descriptor, *, lease: LeaseID) -> None:
        """Fetch one blob of an image, if it is missing."""
        run = self._run(located.reference, located.fetcher, lease, Progress())
        await self._download(run, Wish(descriptor=descriptor))

    def _run(self, reference: Reference, fetcher: Fetcher, lease: LeaseID, progress: Progress) -> _Pull:
        return _Pull(
            reference=reference,
            fetcher=fetcher,
            lease=lease,
            progress=progress,
            limiter=self.downloading,
            small=anyio.CapacityLimiter(self._max_downloads),
        )

    async def _choose(self, run: _Pull, document: Document, platforms: Platforms) -> ManifestNode | None:
        """Fetch the manifests that are wanted into ``run.nodes``; the one to unpack for this host."""
        target = document.descriptor
        parsed = parse(document.body, target)
        keep = partial(self._documents.keep, document, lease=run.lease, repository=run.reference)
        if isinstance(parsed, Manifest):
            await keep()
            node = self._add(run, target, parsed)
            return await self._choose_single(run, node, platforms)
        async with task_group() as group:
            group.start_soon(
                keep
            )  # its manifests, each of which the lease holds, come while it is made durable
            await self._fetch_manifests(run, target, parsed, platforms)
        chosen = best(self._host, run.nodes)
        return chosen if self._packed else chosen or run.nodes[0]

    async def _fetch_manifests(
        self, run: _Pull, target: Descriptor, index: Index, platforms: Platforms
    ) -> None:
        """Fetch what is wanted of an index, in its order into ``run.nodes``, some at a time."""
        offers = await self._offers(run, target, index)
        wanted = [
            descriptor
            for descriptor in select(offers, platforms, self._host)
            if self._packed or not is_attestation(descriptor)
        ]

        async def fetch(descriptor: Descriptor) -> None:
            found = await self._fetch_document(run, descriptor)
            if isinstance(found, Manifest):
                self._add(run, descriptor, found)

        await map_tasks(fetch, wanted, limit=self._max_downloads)
        order = {descriptor.digest: number for number, descriptor in enumerate(wanted)}
        run.nodes.sort(key=lambda node: order[node.descriptor.digest])

    def _add(self, run: _Pull, descriptor: Descriptor, manifest: Manifest) -> ManifestNode:
        """A manifest to pull, if it is not too large to be one."""
        node = ManifestNode(descriptor=descriptor, manifest=manifest)
        if node.manifest.is_image and node.manifest.config.size > CONFIG_LIMIT:
            raise ResourceExhaustedError(
                f"config {manifest.config.digest} is {manifest.config.size} bytes long, more than {CONFIG_LIMIT}",
                subject=manifest.config.digest,
            )
        run.nodes.append(node)
        total = sum(len(other.manifest.layers) + 2 for other in run.nodes)
        if total > limits.DESCRIPTORS:
            raise ResourceExhaustedError(
                f"the image leads to more than {limits.DESCRIPTORS} descriptors", subject=descriptor.digest
            )
        return node

    async def _choose_single(
        self, run: _Pull, node: ManifestNode, platforms: Platforms
    ) -> ManifestNode | None:
        """A target that is one manifest: it is pulled whatever it runs on, unless another platform was named."""
        if not node.manifest.is_image:
            return None
        await self._fetch_config(run, node)
        offered = (await self._documents.config(node)).platform
        if platforms is not None and platforms != "all":
            for wanted in platforms:
                if platform.rank(wanted, offered) is None:
                    raise NoMatchingPlatformError(
                        f"image with reference {run.reference.familiar} was found but does not provide the "
                        f"specified platform ({platform.formatted(wanted)})",
                        subject=str(run.reference),
                    )
        return node if not self._packed or platform.rank(self._host, offered) is not None else None

    async def _offers(self, run: _Pull, target: Descriptor, index: Index) -> list[Descriptor]:
        """All manifests below an index, nested indexes fetched and opened (hostile-input.md D9)."""
        walk = Walk()
        walk.enter(target, 0)
        offers: list[Descriptor] = []
        pending = [(child, 1) for child in index.manifests]
        while pending:
            descriptor, depth = pending.pop(0)
            if not walk.enter(descriptor, depth):
                continue
            if not mediatypes.is_index(descriptor.media_type):
                offers.append(descriptor)
                continue
            nested = await self._fetch_document(run, descriptor)
            if isinstance(nested, Index):
                pending[:0] = [(child, depth + 1) for child in nested.manifests]
        return offers

    async def _fetch_document(self, run: _Pull, descriptor: Descriptor) -> Manifest | Index:
        return await self._documents.fetch(
            descriptor, fetcher=run.fetcher, repository=run.reference, lease=run.lease
        )

    async def _fetch_config(self, run: _Pull, node: ManifestNode) -> None:
        wish = Wish(descriptor=node.manifest.config)
        run.fresh = run.fresh or not await self._downloads.stored(wish.descriptor.digest)
        run.wishes[wish.descriptor.digest] = wish
        await self._download(run, wish)

    async def _download(self, run: _Pull, wish: Wish) -> None:
        await self._downloads.fetch(
            wish,
            fetcher=run.fetcher,
            repository=run.reference,
            lease=run.lease,
            limiter=run.limiter if wish.item else run.small,
            progress=run.progress,
        )

    async def _transfer(self, run: _Pull, unpack: ManifestNode | None) -> SnapshotName | None:
        """Download every blob and unpack one manifest meanwhile."""
        snapshot: SnapshotName | None = None
        unpacked = await self._unpacked(run)
        async with task_group() as group:

            async def unpack_one(node: ManifestNode) -> None:
                nonlocal snapshot
                snapshot = await self._unpack(run, node)

            for node in run.nodes:
                for descriptor in node.blobs():
                    if descriptor.digest in run.wishes:
                        continue
                    if descriptor.digest in unpacked:
                        if run.fresh:
                            run.progress.item(descriptor.digest.short).phase = Phase.EXISTS
                        continue
                    wish = Wish(descriptor=descriptor)
                    if descriptor.digest != node.manifest.config.digest:
                        wish.item = run.progress.item(descriptor.digest.short, descriptor.size)
                    run.wishes[descriptor.digest] = wish
                    group.start_soon(self._download, run, wish)
            if unpack is not None:
                group.start_soon(unpack_one, unpack)
            for node in run.nodes:
                group.start_soon(self._check, run, node)
        for item in run.progress.items.values():
            if item.phase is Phase.DOWNLOADED:
                item.phase = Phase.COMPLETE
        return snapshot

    async def _unpacked(self, run: _Pull) -> frozenset[Digest]:
        """Layers that need not be fetched, because only their trees are kept and those are here."""
        if self._packed:
            return frozenset()
        found: set[Digest] = set()
        for node in run.nodes:
            if node.unpackable:
                await self._fetch_config(run, node)
                config = await self._documents.config(node)
                found |= await self._unpacker.held(node.manifest, config, lease=run.lease)
        return frozenset(found)

    async def _check(self, run: _Pull, node: ManifestNode) -> None:
        """Refuse an image whose config does not fit its layers, as soon as the config is there (hostile-input.md D8)."""
        if node.unpackable:
            await run.wishes[node.manifest.config.digest].stored.wait()
            await self._documents.config(node)

    async def _unpack(self, run: _Pull, node: ManifestNode) -> SnapshotName | None:
        if not node.unpackable:
            return None
        await run.wishes[node.manifest.config.digest].stored.wait()
        config = await self._documents.config(node)

        return await self._unpacker.unpack(
            node.manifest,
            config,
            lease=run.lease,
            source=run.source,
            progress=run.progress,
        )


def _moved(reference: Reference, old: Descriptor) -> str:
    """What to say when pulling a platform made the tag mean another image: its other platforms are not under the tag now."""
    return (
        f"{reference.familiar} was {old.digest} before and means another image now; "
        f"the platforms pulled then stay without a name under that ID"
    )


def _record_name(reference: Reference) -> str:
    """Name of the image record: a digest makes the tag meaningless."""
    return str(reference.with_digest(reference.digest) if reference.digest else reference)
