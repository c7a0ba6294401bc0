"""Push: an image to a repository, with nothing sent that is there already, and the digest unchanged.

What the local store lacks may still be pushed: the repository may have it, or another repository of the same registry, from
which blobs are mounted and manifests copied (``distribution.source`` labels). If something stays missing, the best complete
manifest goes instead of the index.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from lading.core import content
from lading.core.progress import Item, Phase, Progress
from lading.core.remotes import Credentials, Document, Registries, Resolver
from lading.core.remotes import Pusher as RemotePusher
from lading.errors import (
    ConflictError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from lading.kit.tasks import task_group
from lading.oci import platform
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.manifest import Index, Manifest, children, is_attestation
from lading.oci.reference import Reference
from lading.transfer import limits
from lading.transfer.documents import (
    Documents,
    ManifestNode,
    Survey,
    Tree,
    Walk,
    check_size,
    is_document,
    parse,
)
from lading.transfer.holding import Holder
from lading.transfer.labels import Sources


class ContentMissingError(NotFoundError):
    """Content that the operation needs is in no place where it was looked for."""

    code = "content-missing"


class AmbiguousPlatformError(ConflictError):
    """Several manifests could stand for the image, and none is for this host."""

    code = "ambiguous-platform"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """What a push did.

    ``pushed`` stands in the repository under the tag; its digest and size are what Docker reports. If that is not the image's
    ``target``, a manifest was pushed instead of the index, because of ``missing`` or because a platform was asked for.
    """

    reference: Reference
    target: Descriptor
    pushed: Descriptor
    missing: tuple[Descriptor, ...] = ()
    repacked: bool = False
    """Whether ``pushed`` is a manifest that was made for this, because nobody has the blobs of the image's own any more."""


@dataclass(slots=True, kw_only=True)
class _Push:
    """One push in progress."""

    reference: Reference
    resolver: Resolver
    remote: RemotePusher
    progress: Progress
    limiter: anyio.CapacityLimiter
    present: set[Digest] = field(default_factory=set[Digest])
    """What the repository is known to have; of the target, under its tag."""
    borrowed: dict[Digest, Document] = field(default_factory=dict[Digest, Document])
    """Documents that are not stored here, read from another repository of the same registry; outer ones first."""
    via: list[Digest] = field(default_factory=list[Digest])
    """Local documents whose ``distribution.source`` tells where blobs without a row of their own came from."""


class Pusher:
    """Pushes images out of one store."""

    def __init__(
        self,
        *,
        store: content.Store,
        documents: Documents,
        sources: Sources,
        holder: Holder,
        registries: Registries,
        host: Platform,
        max_uploads: int = limits.MAX_UPLOADS,
    ) -> None:
        self._content = store
        self._documents = documents
        self._sources = sources
        self._holder = holder
        self._registries = registries
        self._host = host
        self.uploading = anyio.CapacityLimiter(max_uploads)
        """Blobs that are looked for or sent at a time, by all pushes together."""

    async def push(
        self,
        target: Descriptor,
        reference: Reference,
        *,
        wanted: Platform | None = None,
        credentials: Credentials | None = None,
        headers: dict[str, str] | None = None,
        progress: Progress | None = None,
    ) -> PushResult:
        """Push ``target`` to the repository and tag of ``reference``; of an index only ``wanted``, if given.

        Idempotent; repeating it after an interruption sends only what is not there yet.

        Raises:
            InvalidArgumentError: The reference has a digest.
            NotFoundError: The image is not for the platform, or (`ContentMissingError`) is too incomplete to push anything.
            ConflictError: It is incomplete, and several manifests, none for this host, could be pushed instead.
            UnauthenticatedError, PermissionDeniedError, UnavailableError: The registry refused or did not answer.

        """
        if reference.digest:
            raise InvalidArgumentError("cannot push a digest reference", subject=str(reference))
        reference = reference.with_default_tag()
        resolver = self._registries.resolver(credentials, headers=headers)
        run = _Push(
            reference=reference,
            resolver=resolver,
            remote=resolver.pusher(reference),
            progress=progress or Progress(),
            limiter=self.uploading,
        )
        async with self._holder.hold(f"push {reference}", resumable=False) as lease:
            await self._holder.add(lease, target.digest)
            return await self._push(run, target, wanted)

    async def _push(self, run: _Push, target: Descriptor, wanted: Platform | None) -> PushResult:
        survey = await self._documents.survey(target)
        tree = survey.tree
        run.via = [target.digest, *(node.descriptor.digest for node in tree.manifests)]
        missing: list[Descriptor] = []
        if wanted is not None:
            tree = _only(_of_platform(survey, wanted, run.reference))
        missing = await self._missing(run, survey, tree)
        if missing:
            if wanted is not None or not tree.indexes:
                raise _lacks(missing)
            run.borrowed.clear()
            tree = _only(self._best_complete(survey, missing))
        await self._upload(run, tree)
        return PushResult(reference=run.reference, target=target, pushed=tree.target, missing=tuple(missing))

    def _best_complete(self, survey: Survey, missing: Sequence[Descriptor]) -> ManifestNode:
        """What to push instead of an incomplete index: the host's manifest, else the only one there is."""
        offers = [(node, survey.platform(node)) for node in _images(survey.tree) if survey.complete(node)]
        found = platform.best(self._host, offers, key=lambda offer: offer[1])
        if found is not None:
            return found[0]
        if len(offers) > 1:
            names = ", ".join(platform.formatted(offer) for _, offer in offers if offer)
            raise AmbiguousPlatformError(
                f"the image is incomplete, and several of its platforms could be pushed instead: {names}",
                hint="name one with --platform, or pull the image for all platforms",
                subject=survey.tree.target.digest,
            )
        if not offers:
            raise _lacks(missing)
        return offers[0][0]

    async def _missing(self, run: _Push, survey: Survey, tree: Tree) -> list[Descriptor]:
        """What is neither here, nor in the repository, nor mountable into it. Mounts what can be."""
        absent = list(tree.absent)
        for node in tree.manifests:
            absent += [blob for blob in node.blobs() if not survey.present(blob)]
        missing: list[Descriptor] = []
        walk = Walk()
        while absent:
            descriptor = absent.pop(0)
            if not walk.enter(descriptor, 0):
                continue
            if await run.remote.exists(descriptor):
                run.present.add(descriptor.digest)
            elif is_document(descriptor):
                document = await self._borrow(run, descriptor)
                absent += children(document) if document is not None else ()
                missing += [descriptor] if document is None else ()
            elif await self._mount(
                run, descriptor, run.progress.item(descriptor.digest.short, descriptor.size)
            ):
                run.present.add(descriptor.digest)
            else:
                missing.append(descriptor)
        return missing

    async def _borrow(self, run: _Push, descriptor: Descriptor) -> Manifest | Index | None:
        """A manifest or index that only the registry has, in the repository where the image came from; it is not stored here.

        A manifest cannot be mounted as a blob can; it is small, so it is read there and put here.
        """
        check_size(descriptor)
        for source in await self._seen_in(run, descriptor.digest):
            repository = Reference(domain=run.reference.domain, path=source)
            try:
                document = await run.resolver.fetcher(repository).document(descriptor)
            except (NotFoundError, UnauthenticatedError, PermissionDeniedError):
                continue
            run.borrowed[descriptor.digest] = document
            return parse(document.body, descriptor)
        return None

    async def _seen_in(self, run: _Push, digest: Digest) -> list[str]:
        """Other repositories of the same registry that are known to have a blob, or else the image that it is part of."""
        known = await self._sources.list(digest, run.reference)
        for via in run.via if not known else ():
            known += await self._sources.list(via, run.reference)
        return [source for source in dict.fromkeys(known) if source != run.reference.path]

    async def _upload(self, run: _Push, tree: Tree) -> None:
        """Blobs first, then manifests, then indexes from the inside out, the tag last of all.

        What is there already is asked for all at once, so that pushing again takes one round trip.
        """
        seen: set[Digest] = set()
        documents = [*(node.descriptor for node in tree.manifests), *(each for each, _ in tree.indexes)]
        async with task_group() as group:
            for descriptor in documents:
                tag = run.reference.tag if descriptor.digest == tree.target.digest else None
                group.start_soon(self._find, run, descriptor, tag)
            for node in tree.manifests:
                for blob in node.blobs():
                    if blob.digest not in seen:
                        seen.add(blob.digest)
                        item = run.progress.item(blob.digest.short, blob.size)
                        group.start_soon(self._upload_blob, run, blob, item)
        for document in reversed(run.borrowed.values()):
            await run.remote.put(document.descriptor, document.body)
        for node in tree.manifests:
            if node.descriptor.digest != tree.target.digest:
                await self._put(run, node.descriptor, tag=None)
        for descriptor, _ in reversed(tree.indexes):
            if descriptor.digest != tree.target.digest:
                await self._put(run, descriptor, tag=None)
        await self._put(run, tree.target, tag=run.reference.tag)

    async def _upload_blob(self, run: _Push, blob: Descriptor, item: Item) -> None:
        async with run.limiter:
            if blob.digest in run.present or await run.remote.exists(blob):
                item.phase = Phase.EXISTS if item.phase is not Phase.MOUNTED else item.phase
            elif not await self._mount(run, blob, item):
                item.total, item.phase = blob.size, Phase.UPLOADING

                def on_bytes(done: int) -> None:
                    item.current = done

                async with self._content.open_reader(blob.digest) as reader:
                    await run.remote.push(blob, reader, on_bytes=on_bytes)
                item.phase = Phase.UPLOADED
            item.current = item.total = blob.size
        await self._sources.add(blob.digest, run.reference)

    async def _mount(self, run: _Push, blob: Descriptor, item: Item) -> bool:
        """Try to mount the blob from wherever on the same registry it is known to be."""
        for source in await self._seen_in(run, blob.digest):
            if await run.remote.mount(blob, source):
                item.phase, item.detail = Phase.MOUNTED, source
                return True
        return False

    async def _find(self, run: _Push, descriptor: Descriptor, tag: str | None) -> None:
        """Note a document that the repository has, under this tag if one is given."""
        async with run.limiter:
            # A host that does not answer this may still take the document, or else says why not.
            with contextlib.suppress(LadingError):
                if await run.remote.exists(descriptor, tag=tag):
                    run.present.add(descriptor.digest)

    async def _put(self, run: _Push, descriptor: Descriptor, *, tag: str | None) -> None:
        if descriptor.digest in run.present:
            return
        await run.remote.put(descriptor, await self._documents.body(descriptor), tag=tag)
        await self._sources.add(descriptor.digest, run.reference)


def _of_platform(survey: Survey, wanted: Platform, reference: Reference) -> ManifestNode:
    offers = [(node, survey.platform(node)) for node in _images(survey.tree)]
    found = platform.best(wanted, offers, key=lambda offer: offer[1], strict=True)
    if found is None:
        raise NotFoundError(
            f"image with reference {reference.familiar} was found but does not provide the specified "
            f"platform ({platform.formatted(wanted)})",
            subject=str(reference),
        )
    return found[0]


def _only(node: ManifestNode) -> Tree:
    return Tree(target=node.descriptor, entries=[(node.descriptor, node.manifest)])


def _images(tree: Tree) -> list[ManifestNode]:
    return [n for n in tree.manifests if n.manifest.is_image and not is_attestation(n.descriptor)]


def _lacks(missing: Sequence[Descriptor]) -> ContentMissingError:
    names = ", ".join(f"{d.digest} ({d.media_type})" for d in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return ContentMissingError(
        f"the image is incomplete: {names}{more} is neither stored here nor in the repository",
        hint="pull the image again to complete it",
        subject=missing[0].digest,
    )
