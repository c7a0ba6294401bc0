"""The image service over the classic store: Docker's older rules of names, parents and platforms.

What lists, filters, looks up and names is the same as over the containerd store. Here stands what differs: an image is of one
platform and may have a parent; a digest is one more name; what is pushed and saved is made again from the layers.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec
from typing_extensions import override

from lading.core import content, events, facts, images
from lading.core.classic import ClassicStore
from lading.core.facts import ManifestFacts, TargetFacts
from lading.core.leases import LeaseID
from lading.core.progress import Progress
from lading.core.remotes import Registries
from lading.errors import ConflictError, InvalidArgumentError, NotFoundError, UnsupportedError
from lading.images import lookup, removal
from lading.images.exchange import ImageExchange, Login
from lading.images.listing import ImageRow, by_target, matches_reference, parse_flag
from lading.images.pruning import Pruned
from lading.images.removal import Change, Removed, Use, Uses
from lading.images.service import ImageDetail, ImageService, PlatformMissingError
from lading.images.statements import Statement
from lading.oci import platform as oci_platform
from lading.oci import reference
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import DiffID, Digest
from lading.oci.reference import Reference
from lading.transfer.archive_in import LoadedImage
from lading.transfer.archive_out import SavedImage, Sink
from lading.transfer.commit import Changes, CommitOptions
from lading.transfer.push import PushResult
from lading.transfer.service import TransferService

SEVERAL_SAVED: Final = (
    "multiple platforms not supported for this image store; "
    "use a multi-platform image store such as containerd-snapshotter"
)
SEVERAL_REMOVED: Final = "multiple platforms are not supported"
_CANDIDATES: Final = 4
"""Blobs that a registry is asked for before a layer is packed anew."""


class ClassicImageService(ImageService):
    """`ImageService` over a `ClassicStore`; see there for the arguments."""

    def __init__(
        self,
        *,
        store: content.Store,
        records: images.Store,
        transfer: TransferService,
        fact_rows: facts.Store,
        uses: Uses,
        bus: events.Bus,
        host: Platform,
        collect: Callable[[], None],
        collected: Callable[[], Awaitable[object]],
        classic: ClassicStore,
    ) -> None:
        super().__init__(
            store=store,
            records=records,
            transfer=transfer,
            fact_rows=fact_rows,
            uses=uses,
            bus=bus,
            host=host,
            collect=collect,
            collected=collected,
        )
        self._classic = classic

    @override
    async def find(self, name: str) -> lookup.Found:
        by_digest = await self._by_digest(name)
        return by_digest or await super().find(name)

    async def _by_digest(self, name: str) -> lookup.Found | None:
        """``repo@digest`` is a name of its own here: the digest is a manifest's, which is not kept."""
        try:
            ref = reference.parse(name)
            if ref.digest is None:
                return None
            record = await self._records.get(str(ref.with_digest(ref.digest)))
        except (InvalidArgumentError, NotFoundError):
            return None
        records = await self._records.by_target(record.target.digest)
        return lookup.Found(records=tuple(records), by_name=record, reference=ref)

    @override
    async def list(
        self,
        filters: Mapping[str, Sequence[str]] | None = None,
        *,
        shared_size: bool = False,
        manifests: bool = True,
        all: bool = True,
    ) -> Sequence[ImageRow]:
        rows = await super().list(filters, shared_size=shared_size, manifests=False)
        patterns = (filters or {}).get("reference", ())
        parents = await self._classic.parents()
        inner = set(parents.values())
        by_image = by_target(await self._records.list())
        return [
            msgspec.structs.replace(
                row,
                digests=digest_names(
                    [r for r in by_image.get(row.target.digest, ()) if matches_reference(r, patterns)]
                ),
                parent=str(parents.get(row.target.digest, "")),
            )
            for row in rows
            if all or row.target.digest not in inner or _named(by_image.get(row.target.digest, ()))
        ]

    @override
    async def inspect(self, name: str, *, platform: Platform | None = None) -> ImageDetail:
        detail = await super().inspect(name, platform=platform)
        image = detail.target.digest
        records = await self._records.by_target(image)
        parents = await self._classic.parents()
        return replace(
            detail,
            digests=digest_names(records),
            rows=(),
            tagged_at=await self._classic.named_at(image) or detail.tagged_at,
            parent=str(parents.get(image, "")),
            trees=await self._classic.trees(detail.manifest.chain if detail.manifest else ()),
        )

    @override
    def choose(
        self, facts: TargetFacts, platform: Platform | None, name: str, *, strict: bool = True
    ) -> ManifestFacts:
        (manifest,) = facts.manifests
        if platform is None or oci_platform.rank(platform, manifest.platform) is not None:
            return manifest
        raise PlatformMissingError(
            f"image with reference {name} was found but its platform ({oci_platform.formatted(manifest.platform)}) "
            f"does not match the specified platform ({oci_platform.formatted(platform)})",
            subject=name,
        )

    @override
    async def _lineage(self, found: lookup.Found, steps: int) -> Sequence[tuple[str, Sequence[str]]]:
        parents = await self._classic.parents()
        lineage: list[tuple[str, Sequence[str]]] = []
        image: Digest | None = found.image.target.digest
        while image is not None and len(lineage) < steps:
            lineage.append((image, _tags(await self._records.by_target(image))))
            image = parents.get(image)
        return lineage

    @override
    async def attestations(
        self,
        name: str,
        *,
        platform: Platform | None = None,
        types: Collection[str] = (),
        bodies: bool = False,
    ) -> Sequence[Statement]:
        raise UnsupportedError("image attestations are not supported by this image store", subject=name)

    # Removal.

    @override
    async def remove(
        self, name: str, *, force: bool = False, platforms: Sequence[Platform] = ()
    ) -> Sequence[Removed]:
        if len(platforms) > 1:
            raise InvalidArgumentError(SEVERAL_REMOVED, subject=name)
        found = await self.find(name)
        if platforms:
            self.choose(await self.facts.target(found.image.target), platforms[0], name)
        answer: list[Removed] = []
        try:
            if found.by_name is not None:
                await self._remove_name(found, found.by_name, name, answer, force=force)
            else:
                await self._remove_id(found, answer, force=force)
        except NotFoundError:
            if await self._records.by_target(found.image.target.digest):
                raise
            if not answer:  # another client was quicker
                await self.find(name)
        self._collect()
        return answer

    async def _remove_name(
        self, found: lookup.Found, record: images.Image, asked: str, answer: "list[Removed]", *, force: bool
    ) -> None:
        image = record.target
        named = found.named
        if not force and single(named):
            user = next(iter(await self._users(image.digest)), None)
            if user is not None:
                raise ConflictError(
                    f'conflict: unable to remove repository reference "{asked}" (must force) - '
                    f"container {user.container[:12]} is using its referenced image {image.digest.short}",
                    subject=asked,
                )
        going = removal.with_digest_names(record, named)
        await self._untag(image, going, answer)
        if len(going) == len(named):
            await self._delete(image, answer, force=force, quiet=True)

    async def _remove_id(self, found: lookup.Found, answer: "list[Removed]", *, force: bool) -> None:
        image = found.image.target
        if single(found.named):
            await self._refuse_conflict(image, stopped=not force, named=False)
            await self._untag(image, found.named, answer)
        await self._delete(image, answer, force=force, quiet=False)

    async def _untag(self, image: Descriptor, going: Sequence[images.Image], answer: "list[Removed]") -> None:
        """Take names away; an image without any stays, dangling, until it is deleted."""
        kept = {r.name for r in await self._records.by_target(image.digest)} - {r.name for r in going}
        if not kept:
            await self._transfer.point(reference.dangling_name(image.digest), image)
        for record in going:
            await self._delete_record(record)
        answer += removal.lines(going, target=image.digest, gone=False)
        for _ in going:
            self._publish("untag", image.digest, image.digest)

    async def _delete(self, image: Descriptor, answer: "list[Removed]", *, force: bool, quiet: bool) -> None:
        """Delete an image, and its parents if nothing else needs them.

        A ``quiet`` one that is needed stays without a word, unless all that needs it is that it should be forced.
        """
        try:
            await self._refuse_conflict(image, stopped=not force, named=not force)
        except _NeededError:
            if quiet:
                return
            raise
        except ConflictError:
            if quiet and _named(await self._records.by_target(image.digest)):
                return
            raise
        parent = (await self._classic.parents()).get(image.digest)
        layers = await self._own_layers(image)
        records = await self._records.by_target(image.digest)
        for record in records:
            await self._delete_record(record)
        names = removal.lines(records, target=image.digest, gone=False)
        answer += [*names, Removed(change=Change.DELETED, subject=image.digest), *layers]
        self._publish("delete", image.digest, image.digest)
        if parent is not None:
            above = await self._records.by_target(parent)
            if above:
                await self._delete(above[0].target, answer, force=False, quiet=True)

    async def _refuse_conflict(self, image: Descriptor, *, stopped: bool, named: bool) -> None:
        """Raise what stands in the way of deleting an image, in Docker's words and order."""
        short = image.digest.short
        if image.digest in set((await self._classic.parents()).values()):
            raise _NeededError(
                f"conflict: unable to delete {short} (cannot be forced) - image has dependent child images",
                subject=image.digest,
            )
        users = await self._users(image.digest)
        running = next((use for use in users if use.running), None)
        if running is not None:
            raise _NeededError(
                f"conflict: unable to delete {short} (cannot be forced) - "
                f"image is being used by running container {running.container[:12]}",
                subject=image.digest,
            )
        if named and _named(await self._records.by_target(image.digest)):
            raise ConflictError(
                f"conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories",
                subject=image.digest,
            )
        if stopped and users:
            raise _NeededError(
                f"conflict: unable to delete {short} (must be forced) - "
                f"image is being used by stopped container {users[0].container[:12]}",
                subject=image.digest,
            )

    async def _users(self, image: Digest) -> "list[Use]":
        """Containers on the image, ours first, then those of dockerd in the same data-root."""
        ours = [use for use in await self._uses() if use.target == image]
        theirs = [
            Use(container=container, target=image, manifest=image, running=False)
            for container, used in (await self._classic.foreign_uses()).items()
            if used == image
        ]
        return ours + theirs

    async def _own_layers(self, image: Descriptor) -> "list[Removed]":
        """The layers that go with an image: those that no other image has."""
        facts_ = await self.facts.target(image)
        others = {
            chain
            for known in await self._fact_rows.list()
            if known.target.digest != image.digest
            for chain in known.chains()
        }
        if await self._users(image.digest):
            return []
        chain = [each for manifest in facts_.manifests for each in manifest.chain]
        return [
            Removed(change=Change.DELETED, subject=each) for each in reversed(chain) if each not in others
        ]

    @override
    async def _prune(self, filters: Mapping[str, Sequence[str]]) -> Pruned:
        dangling_only = parse_flag(filters, "dangling") is not False
        rows = await self.list({k: v for k, v in filters.items() if k != "dangling"}, all=False)
        going = [row for row in rows if not (dangling_only and (row.tags or row.digests))]
        going = [row for row in going if not await self._users(row.target.digest)]
        reclaimed = await self.freed_by([row.target.digest for row in going])
        removed: list[Removed] = []
        for row in going:
            try:
                await self._delete(row.target, removed, force=True, quiet=False)
            except (ConflictError, NotFoundError):
                continue  # it came into use meanwhile, or went
        if not filters.keys() - {"dangling"}:
            reclaimed += await self._transfer.abandon()
        await self._collected()
        self._bus.publish("image", "prune", "", {"reclaimed": str(reclaimed)})
        return Pruned(removed=removed, reclaimed=reclaimed)


class _NeededError(ConflictError):
    """A container uses the image, or another image was made from it."""

    code = "image-needed"


class ClassicExchange(ImageExchange):
    """`ImageExchange` over a `ClassicStore`: what goes out is made again, and one platform is all there is."""

    def __init__(
        self,
        *,
        service: ImageService,
        records: images.Store,
        transfer: TransferService,
        registries: Registries,
        classic: ClassicStore,
    ) -> None:
        super().__init__(service=service, records=records, transfer=transfer, registries=registries)
        self._classic = classic

    @override
    async def push(
        self, ref: Reference, *, platform: Platform | None = None, login: Login, progress: Progress
    ) -> PushResult:
        try:
            image = (await self._records.get(str(ref))).target
        except NotFoundError as exc:
            raise NotFoundError(
                f"An image does not exist locally with the tag: {ref.familiar_name}", subject=ref.familiar
            ) from exc
        if platform is not None:
            await self._images.inspect(ref.familiar, platform=platform)
        async with self._transfer.holding(f"push {ref}") as lease:
            present = await self._present(image, ref, login)
            manifest = await self._classic.materialise(image, lease=lease, packed=True, present=present)
            result = await self._transfer.push_target(
                manifest,
                ref,
                credentials=login.credentials,
                headers=dict(login.headers or {}),
                progress=progress,
            )
            await self._classic.note(image, manifest, ref)
        await self._records.put(str(ref.with_digest(manifest.digest)), image)
        return result

    async def _present(self, image: Descriptor, ref: Reference, login: Login) -> Mapping[DiffID, Descriptor]:
        """The layers' blobs that the repository has, so that they are neither packed nor sent."""
        pusher = self._registries.resolver(login.credentials, headers=login.headers).pusher(ref)
        found: dict[DiffID, Descriptor] = {}
        for diff_id, blobs in (await self._classic.known_blobs(image, ref)).items():
            for blob in blobs[:_CANDIDATES]:
                size = await pusher.size(blob.digest)
                if size is not None and blob.size in (0, size):
                    found[diff_id] = Descriptor(media_type=blob.media_type, digest=blob.digest, size=size)
                    break
        return found

    @override
    async def commit(
        self,
        base: Descriptor,
        changes: Changes,
        options: CommitOptions,
        *,
        reference: Reference | None = None,
        parent: Digest | None = None,
    ) -> Descriptor:
        image = await super().commit(base, changes, options, reference=reference)
        if parent is not None and image.digest != parent and await self._records.by_target(parent):
            await self._classic.set_parent(image.digest, parent)
        return image

    @override
    async def save(
        self, images_: Sequence[SavedImage], sink: Sink, *, platforms: Sequence[Platform] = ()
    ) -> None:
        if len(platforms) > 1:
            raise InvalidArgumentError(SEVERAL_SAVED)
        for platform in platforms:
            await self._refuse_others(images_, platform)
        async with self._transfer.holding("save") as lease:
            await self._transfer.save([await self._made(each, lease) for each in images_], sink)

    async def _refuse_others(self, images_: Sequence[SavedImage], platform: Platform) -> None:
        for image in images_:
            known = await self._images.facts.target(image.target)
            if all(oci_platform.rank(platform, each.platform) is None for each in known.manifests):
                raise NotFoundError(
                    f"no suitable export target found for platform {oci_platform.formatted(platform)}",
                    subject=image.target.digest,
                )

    async def _made(self, image: SavedImage, lease: LeaseID) -> SavedImage:
        manifest = await self._classic.materialise(image.target, lease=lease, packed=False)
        return SavedImage(target=manifest, reference=image.reference)

    @override
    async def load(
        self, source: AsyncIterable[bytes], *, platforms: Sequence[Platform] = (), progress: Progress
    ) -> Sequence[LoadedImage]:
        if len(platforms) > 1:
            raise InvalidArgumentError(SEVERAL_SAVED)
        return await super().load(source, platforms=platforms, progress=progress)


def digest_names(records: Sequence[images.Image]) -> list[str]:
    """The digests by which registries know an image, as Docker lists them."""
    refs = [reference.parse(r.name) for r in records if not reference.is_dangling(r.name)]
    return sorted(ref.familiar for ref in refs if ref.digest is not None)


def _tags(records: Sequence[images.Image]) -> list[str]:
    refs = [reference.parse(r.name) for r in records if not reference.is_dangling(r.name)]
    return sorted(ref.familiar for ref in refs if ref.digest is None)


def _named(records: Sequence[images.Image]) -> bool:
    return any(not reference.is_dangling(record.name) for record in records)


def single(named: Sequence[images.Image]) -> bool:
    """Whether an image has names in one repository only, and at most one tag (moby: isSingleReference)."""
    refs = [reference.parse(record.name) for record in named]
    if len(refs) <= 1:
        return len(refs) == 1
    tagged = [ref for ref in refs if ref.digest is None]
    return len(tagged) <= 1 and len({ref.name for ref in refs}) == 1
