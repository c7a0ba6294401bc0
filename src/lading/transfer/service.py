"""Transfer: the one door to everything that brings images in or takes them out."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from lading.core import content, events, facts, images, leases
from lading.core.diff import Differ
from lading.core.labels import PARENT
from lading.core.leases import LeaseID
from lading.core.progress import Progress
from lading.core.remotes import Credentials, Registries
from lading.core.snapshots import SnapshotName, Snapshotter
from lading.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from lading.kit.tasks import map_tasks
from lading.oci import mediatypes
from lading.oci.config import ImageConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.manifest import Manifest
from lading.oci.reference import Reference
from lading.transfer import limits
from lading.transfer.archive_in import LoadedImage, Loader
from lading.transfer.archive_out import SavedImage, Saver, Sink
from lading.transfer.commit import Changes, CommitOptions, Committer
from lading.transfer.documents import Documents, ManifestNode
from lading.transfer.downloads import Downloads
from lading.transfer.facts import FactReader
from lading.transfer.holding import Holder
from lading.transfer.import_ import Importer, ImportOptions
from lading.transfer.labels import Sources
from lading.transfer.naming import TargetNaming
from lading.transfer.pull import Puller, PullResult
from lading.transfer.push import ContentMissingError, Pusher, PushResult
from lading.transfer.repacking import Repacker
from lading.transfer.selection import Platforms
from lading.transfer.standing import Standing
from lading.unpack.unpacker import Unpacker


def _nothing() -> None:
    """Ask nobody."""


class NotAnImageError(UnsupportedError):
    """The manifest is an artifact that holds no root file system."""

    code = "not-an-image"


class TransferService:
    """Pull, push, save, load, import and commit for one namespace and one snapshotter. One per daemon.

    Publishes the image events ``pull``, ``push``, ``save``, ``load``, ``import``, ``create`` and ``tag`` when the thing is done.
    """

    def __init__(
        self,
        *,
        store: content.Store,
        image_store: images.Store,
        fact_rows: facts.Store,
        lease_manager: leases.Manager,
        snapshotter: Snapshotter,
        registries: Registries,
        bus: events.Bus,
        host: Platform,
        naming: images.Naming | None = None,
        differ: Differ | None = None,
        packed: bool = True,
        collect: Callable[[], None] = _nothing,
        max_downloads: int = limits.MAX_DOWNLOADS,
        max_uploads: int = limits.MAX_UPLOADS,
    ) -> None:
        """Build the services of a store.

        ``naming`` gives names, by default as the containerd store does. ``differ`` packs layers anew of which the snapshotter has
        the tree alone. Without ``packed`` the store keeps one platform of an image, unpacked, and no blob of a layer for longer
        than a transfer takes. ``collect`` asks the collector to come.
        """
        self._images = image_store
        self._bus = bus
        self._naming = naming or TargetNaming(image_store)
        self._holder = Holder(lease_manager, store, collect=collect, packed=packed)
        self._unpacker = Unpacker(store, lease_manager, snapshotter)
        sources = Sources(store)
        self._documents = Documents(store, sources)
        self.facts = FactReader(self._documents, fact_rows, host)
        self._puller = Puller(
            documents=self._documents,
            downloads=Downloads(store, sources),
            naming=self._naming,
            holder=self._holder,
            registries=registries,
            unpacker=self._unpacker,
            standing=Standing(
                store=store,
                documents=self._documents,
                image_store=image_store,
                unpacker=self._unpacker,
                host=host,
            ),
            host=host,
            packed=packed,
            max_downloads=max_downloads,
        )
        self._pusher = Pusher(
            store=store,
            documents=self._documents,
            sources=sources,
            holder=self._holder,
            registries=registries,
            host=host,
            max_uploads=max_uploads,
        )
        self._saver = Saver(store=store, documents=self._documents, host=host)
        self._loader = Loader(store=store, documents=self._documents, host=host, packed=packed)
        self._repacker = Repacker(
            store=store,
            documents=self._documents,
            snapshotter=snapshotter,
            differ=differ,
            registries=registries,
            host=host,
        )
        self._importer = Importer(store=store, documents=self._documents)
        self._committer = Committer(store=store, documents=self._documents)

    def limit(self, *, downloads: int, uploads: int) -> None:
        """Change how many layers are fetched and sent at a time; those under way go on."""
        self._puller.downloading.total_tokens = downloads
        self._pusher.uploading.total_tokens = uploads

    async def recover(self) -> None:
        """Let go of what a crashed process's pushes, saves and loads held. Called once, before any transfer."""
        await self._holder.recover()

    async def abandon(self) -> int:
        """Give up what interrupted transfers left to be taken up again; those under way go on. The bytes that were dropped."""
        return await self._holder.abandon()

    @property
    def puller(self) -> Puller:
        """Finds and completes images of registries, without naming them."""
        return self._puller

    @property
    def unpacker(self) -> Unpacker:
        """Unpacks layers, each once at a time."""
        return self._unpacker

    @property
    def documents(self) -> Documents:
        """Readers of stored manifests, indexes and configs."""
        return self._documents

    async def pull(
        self,
        reference: Reference,
        *,
        platforms: Platforms = None,
        credentials: Credentials | None = None,
        headers: dict[str, str] | None = None,
        progress: Progress | None = None,
        labels: dict[str, str] | None = None,
    ) -> PullResult:
        """Pull an image, unpack it for this host, and name it; see `lading.transfer.pull.Puller.pull`."""
        result = await self._puller.pull(
            reference,
            platforms=platforms,
            credentials=credentials,
            headers=headers,
            progress=progress,
            labels=labels,
        )
        await self.facts.remember(result.image)
        await self._publish("pull", result.reference.familiar, result.reference.familiar_name, result.image)
        return result

    async def push(
        self,
        name: str,
        reference: Reference,
        *,
        platform: Platform | None = None,
        credentials: Credentials | None = None,
        headers: dict[str, str] | None = None,
        progress: Progress | None = None,
    ) -> PushResult:
        """Push the image record ``name`` to ``reference``; see `lading.transfer.push.Pusher.push`.

        Raises `NotFoundError` if there is no such image.
        """
        return await self.push_target(
            (await self._images.get(name)).target,
            reference,
            platform=platform,
            credentials=credentials,
            headers=headers,
            progress=progress,
        )

    async def push_target(
        self,
        target: Descriptor,
        reference: Reference,
        *,
        platform: Platform | None = None,
        credentials: Credentials | None = None,
        headers: dict[str, str] | None = None,
        progress: Progress | None = None,
    ) -> PushResult:
        """Push what is stored under ``target``, whether or not it has a name; raises as `push`.

        Layers that are here unpacked only, and nowhere else any more, are packed anew: then another manifest is ``pushed``.
        """

        async def push(manifest: Descriptor) -> PushResult:
            return await self._pusher.push(
                manifest,
                reference,
                wanted=platform,
                credentials=credentials,
                headers=headers,
                progress=progress,
            )

        try:
            result = await push(target)
        except ContentMissingError:
            async with self._holder.hold(f"repack {target.digest}", resumable=False) as lease:
                repacked = await self._repacker.repack(target, lease=lease, wanted=platform)
                if repacked is None:
                    raise
                result = replace(await push(repacked), target=target, repacked=True)
        await self._publish("push", reference.familiar, reference.familiar_name, target)
        return result

    async def save(
        self, images: Sequence[SavedImage], sink: Sink, *, platforms: Sequence[Platform] | None = None
    ) -> None:
        """Write images as a tar to ``sink``; see `lading.transfer.archive_out.Saver.save`.

        Layers that are here unpacked only, and nowhere else any more, are packed anew: then another manifest is in the archive.
        """
        async with self._holder.hold("save", resumable=False) as lease:
            for image in images:
                await self._holder.add(lease, image.target.digest)
            try:
                await self._saver.save(images, sink, platforms=platforms)
            except NotFoundError:  # also of a platform that is not complete
                wanted = platforms[0] if platforms and len(platforms) == 1 else None
                complete = await self._repacked(images, lease, wanted)
                if complete == list(images):
                    raise
                await self._saver.save(complete, sink, platforms=platforms)
        for image in images:
            await self._publish("save", image.target.digest, image.target.digest, image.target)

    async def _repacked(
        self, images: Sequence[SavedImage], lease: LeaseID, wanted: Platform | None
    ) -> list[SavedImage]:
        """The images, with manifests that were made for those of which nobody has all layers."""
        targets = {image.target.digest: image.target for image in images}
        made = {
            digest: await self._repacker.repack(target, lease=lease, wanted=wanted)
            for digest, target in targets.items()
        }
        return [replace(image, target=made[image.target.digest] or image.target) for image in images]

    async def load(
        self,
        source: AsyncIterable[bytes],
        *,
        platforms: Sequence[Platform] | None = None,
        progress: Progress | None = None,
    ) -> list[LoadedImage]:
        """Take in an archive, unpack its images for this host and name them; an image without a name becomes dangling.

        Raises as `lading.transfer.archive_in.Loader.load`; no image of a refused archive is visible.
        """
        async with self._holder.hold("load", resumable=False) as lease:
            loaded = await self._loader.load(source, lease=lease, platforms=platforms, progress=progress)

            async def unpack(image: LoadedImage) -> None:
                if image.unpack is not None:
                    await self._unpack(image.unpack, lease, progress)

            named: dict[int, LoadedImage] = {}

            async def point(numbered: tuple[int, LoadedImage]) -> None:
                number, image = numbered
                name = str(image.reference) if image.reference else None
                manifest = image.unpack.descriptor if image.unpack else None
                pointed = await self.point(name, image.target, manifest=manifest)
                named[number] = replace(image, target=pointed.image.target)

            await map_tasks(unpack, loaded, limit=limits.IMAGES_AT_ONCE)
            await map_tasks(point, list(enumerate(loaded)), limit=limits.IMAGES_AT_ONCE)
        answer = [named[number] for number in range(len(loaded))]
        for image in answer:
            await self._publish("load", image.target.digest, image.target.digest, image.target)
        return answer

    async def import_(
        self,
        source: AsyncIterable[bytes],
        options: ImportOptions,
        *,
        reference: Reference | None = None,
        progress: Progress | None = None,
    ) -> Descriptor:
        """Make an image of one layer from a root file system's tar (packed or not); its target.

        Raises:
            InvalidArgumentError: The tar is malformed or hostile; nothing is visible.

        """
        async with self._holder.hold("import", resumable=False) as lease:
            node = await self._importer.import_(source, options, lease=lease)
            await self._unpack(node, lease, progress)
            name = str(reference.with_default_tag()) if reference else None
            image = (await self.point(name, node.descriptor)).image.target
        await self._publish_tag(reference, image)
        await self._publish("import", image.digest, image.digest, image)
        return image

    async def point(
        self,
        name: str | None,
        target: Descriptor,
        *,
        manifest: Descriptor | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> images.Pointed:
        """Make ``name`` mean what is stored under ``target``, by the same rules as a pull; see `lading.core.images.Naming`."""
        pointed = await self._naming.point(name, target, manifest=manifest, labels=labels)
        await self.facts.remember(pointed.image.target)
        return pointed

    @asynccontextmanager
    async def holding(self, purpose: str) -> AsyncGenerator[LeaseID]:
        """A lease for something that is stored for as long as it is needed here; what it held goes with it."""
        async with self._holder.hold(purpose, resumable=False) as lease:
            yield lease

    async def commit(
        self,
        base: Descriptor,
        changes: Changes,
        options: CommitOptions,
        *,
        reference: Reference | None = None,
        parent: Digest | None = None,
    ) -> Descriptor:
        """Make an image of a stored image manifest and what was changed on top of it; its target.

        ``parent`` is the target that has the manifest; the record says so. Publishes that the image was made, and its name; that
        it was made from it is news of the container. Raises as `lading.transfer.commit.Committer.commit`.
        """
        async with self._holder.hold("commit", resumable=False) as lease:
            await self._holder.add(lease, base.digest)
            node = await self._committer.commit(base, changes, options, lease=lease)
            await self._unpack(node, lease, None)
            name = str(reference.with_default_tag()) if reference else None
            labels = {PARENT: parent} if parent is not None and parent != node.descriptor.digest else None
            image = (await self.point(name, node.descriptor, labels=labels)).image.target
        await self._publish("create", image.digest, image.digest, image)
        await self._publish_tag(reference, image)
        return image

    async def ensure_unpacked(
        self,
        manifest: Descriptor,
        *,
        lease: LeaseID | None = None,
        progress: Progress | None = None,
        known: tuple[Manifest, ImageConfig] | None = None,
    ) -> SnapshotName | None:
        """See to it that the snapshots of a stored image manifest exist; the top one's name, ``None`` without layers.

        ``lease`` holds them, else a lease of our own during the work; afterwards the image's config keeps them. ``known`` are the
        manifest and its config, from whoever has just read them.

        Raises:
            NotFoundError: The manifest, its config or a layer is not stored; the message names what to pull.
            UnsupportedError: It is no image, or has a layer that cannot be unpacked.

        """
        if mediatypes.is_config(manifest.media_type):
            return await self._unpacker.kept(manifest, lease=lease)
        document = known[0] if known else await self._documents.read(manifest)
        if not isinstance(document, Manifest):
            raise InvalidArgumentError(
                f"{manifest.digest} is an index: name one of its manifests", subject=manifest.digest
            )
        node = ManifestNode(descriptor=manifest, manifest=document)
        if lease is not None:
            return await self._unpack(node, lease, progress)
        if manifest_config := known[1] if known else await self._unpackable_config(node):
            present = await self._unpacker.present(document, manifest_config)
            if present is not None:
                return present  # nothing to do, and nothing to hold meanwhile
        async with self._holder.hold(f"unpack {manifest.digest}", resumable=False) as own:
            return await self._unpack(node, own, progress)

    async def _unpackable_config(self, node: ManifestNode) -> ImageConfig | None:
        return (
            await self._documents.config(node)
            if node.manifest.config.media_type in mediatypes.CONFIGS
            else None
        )

    async def _unpack(
        self, node: ManifestNode, lease: LeaseID, progress: Progress | None
    ) -> SnapshotName | None:
        config_type = node.manifest.config.media_type
        if config_type not in mediatypes.CONFIGS:
            raise NotAnImageError(
                f"{node.descriptor.digest} is no image: its config is of type {config_type!r}",
                hint="it is stored and can be pushed or saved, but not run",
                subject=node.descriptor.digest,
            )
        config = await self._documents.config(node)
        return await self._unpacker.unpack(node.manifest, config, lease=lease, progress=progress)

    async def _publish_tag(self, reference: Reference | None, target: Descriptor) -> None:
        if reference is not None:
            await self._publish("tag", target.digest, reference.with_default_tag().familiar, target)

    async def _publish(self, action: str, actor: str, name: str, target: Descriptor) -> None:
        """Tell an event; the image's labels go along, as filters expect."""
        self._bus.publish("image", action, actor, {**await self.facts.labels(target), "name": name})
