"""The image service: what an edge asks about images, over whichever stores are active."""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from lading.core import content, events, facts, images
from lading.core.facts import Kind, ManifestFacts, TargetFacts
from lading.errors import (
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from lading.images import lookup, pruning, removal, statements
from lading.images.lister import Lister
from lading.images.listing import (
    ImageRow,
    ManifestRow,
    by_target,
    check_filters,
    containers_of,
    manifest_row,
    names,
    parent,
)
from lading.images.pruning import Pruned
from lading.images.removal import Removed, Use, Uses
from lading.images.statements import Identity, Statement
from lading.kit import times
from lading.oci import platform as oci_platform
from lading.oci import reference
from lading.oci.config import History, ImageConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import ALGORITHMS, Digest
from lading.oci.reference import Reference
from lading.transfer.service import TransferService


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDetail:
    """One image in full. ``manifest`` is the one that was asked for or fits best; ``None`` if none is here."""

    target: Descriptor
    tags: Sequence[str]
    digests: Sequence[str]
    manifest: ManifestFacts | None
    config: ImageConfig | None
    rows: Sequence[ManifestRow]
    size: int
    tagged_at: int
    """When it last got a name: nanoseconds since the epoch."""
    parent: str = ""
    trees: Mapping[str, str] | None = None
    """Where the classic store has the image's layers, as Docker's ``GraphDriver.Data``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """One step of an image, with the bytes that its layer takes unpacked (0 for an empty or absent layer)."""

    id: str
    history: History
    tags: Sequence[str]
    size: int


class PlatformMissingError(NotFoundError):
    """The image is here, but not for that platform."""

    code = "no-such-platform"


class ImageService:
    """Lists, inspects, tags and removes the images of one namespace.

    Args:
        store: The namespace's blobs.
        records: The namespace's image records.
        transfer: Points names by the same rules as a pull.
        fact_rows: What images say and take.
        uses: Asks which containers use images.
        bus: Where events go.
        host: What this machine runs.
        collect: Called after something was let go, to wake the collector; must not block.
        collected: Collects and waits for it, where the answer is about what is gone.

    """

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
    ) -> None:
        self.facts = transfer.facts
        self.host = host
        self._store = store
        self._records = records
        self._transfer = transfer
        self._fact_rows = fact_rows
        self._uses = uses
        self._bus = bus
        self._collect = collect
        self._collected = collected
        self._pruning = False
        self._lister = Lister(records=records, known=transfer.facts, fact_rows=fact_rows, find=self.find)

    async def find(self, name: str) -> lookup.Found:
        """The records that a name or ID means; raises as `lading.images.lookup.find`."""
        return await lookup.find(self._records, name)

    async def find_one(self, name: str) -> images.Image:
        """The record that was meant, or any of an ID's; raises as `find`."""
        return await lookup.tagged(self._records, name) or (await self.find(name)).image

    async def total(self) -> int:
        """Bytes that all images take together: every blob and every snapshot of theirs once."""
        return await self._fact_rows.total()

    async def freed_by(self, targets: Collection[Digest]) -> int:
        """Bytes that removing these targets would free: what no other image has too."""
        return (await self._fact_rows.exclusive(targets)).total

    async def list(
        self,
        filters: Mapping[str, Sequence[str]] | None = None,
        *,
        shared_size: bool = False,
        manifests: bool = True,
        all: bool = True,  # noqa: ARG002 - every image of this store is one that a user made or pulled
    ) -> Sequence[ImageRow]:
        """One row per target, newest first, out of rows alone.

        ``all`` shows nameless images that others were made from, too. Without ``manifests`` the rows have none. Other calls go
        on in between, however many images there are. While nothing has changed the answer is the same object.

        Raises `InvalidArgumentError` for an unknown filter; `NotFoundError` if ``before`` or ``since`` names nothing.
        """
        return await self._lister.list(
            filters or {}, await self._uses(), shared_size=shared_size, manifests=manifests
        )

    async def inspect(self, name: str, *, platform: Platform | None = None) -> ImageDetail:
        """One image in full. Raises `NotFoundError`; `PlatformMissingError` if ``platform`` is not here."""
        found = await self.find(name)
        facts = await self.facts.target(found.image.target)
        manifest = self.choose(facts, platform, name) if platform is not None else facts.shown
        inventory = await self._fact_rows.inventory(facts.target.digest)
        used = containers_of(await self._uses())
        tags, digests = names(found.records)
        return ImageDetail(
            target=facts.target,
            tags=tags,
            digests=digests if manifest is not None else [str(facts.target.digest)],
            manifest=manifest,
            config=await self.facts.config(manifest) if manifest is not None else None,
            rows=[manifest_row(each, used) for each in await self._fact_rows.manifests(facts.target.digest)],
            size=inventory.content(manifest) + inventory.unpacked(manifest) if manifest else 0,
            tagged_at=times.of_datetime(max(r.updated_at for r in found.records)),
            parent=parent(found.records),
        )

    def choose(
        self, facts: TargetFacts, platform: Platform | None, name: str, *, strict: bool = True
    ) -> ManifestFacts:
        """The manifest for a platform, or the one that fits this host best; its config is here.

        Raises `PlatformMissingError` with Docker's words.
        """
        if platform is None:
            if facts.shown is not None:
                return facts.shown
            platform = self.host
        present = [m for m in facts.manifests if m.kind is Kind.IMAGE and m.config is not None]
        chosen = oci_platform.best(platform, present, key=lambda m: m.platform, strict=strict)
        if chosen is None:
            shown = oci_platform.formatted(oci_platform.normalize(platform))
            raise PlatformMissingError(
                f"image with reference {name} was found but does not provide the specified platform ({shown})",
                subject=name,
            )
        return chosen

    async def history(self, name: str, *, platform: Platform | None = None) -> Sequence[HistoryRow]:
        """The steps of an image, newest first. Raises as `inspect`."""
        found = await self.find(name)
        facts = await self.facts.target(found.image.target)
        manifest = self.choose(facts, platform, name, strict=False)
        config = await self.facts.config(manifest)
        inventory = await self._fact_rows.inventory(facts.target.digest)
        steps = (config.history if config else None) or ()
        chain = iter(manifest.chain)
        rows: list[HistoryRow] = []
        for step in steps:
            layer = None if step.empty_layer else next(chain, None)
            rows.append(
                HistoryRow(
                    id="<missing>",
                    history=step,
                    tags=(),
                    size=inventory.snapshots.get(layer, 0) if layer else 0,
                )
            )
        rows.reverse()
        for number, (image, tags) in enumerate(await self._lineage(found, len(rows))):
            rows[number] = replace(rows[number], id=image, tags=tags)
        return rows

    async def _lineage(self, found: lookup.Found, steps: int) -> Sequence[tuple[str, Sequence[str]]]:
        """ID and tags of an image and of those that it was made from, newest first; of ``steps`` images at most."""
        lineage: list[tuple[str, Sequence[str]]] = []
        records: Sequence[images.Image] = found.records
        while records and len(lineage) < steps:
            lineage.append((records[0].target.digest, names(records)[0]))
            above = parent(records)
            records = await self._records.by_target(above) if above else ()
        return lineage

    async def tag(self, source: str, name: Reference) -> None:
        """Give an image one more name; a target that loses its last name to it stays as dangling.

        Raises `NotFoundError` for the source; `InvalidArgumentError` for a name with a digest.
        """
        if name.familiar_name in ALGORITHMS:
            raise InvalidArgumentError(
                "refusing to create an ambiguous tag using digest algorithm as name", subject=str(name)
            )
        if name.digest is not None:
            raise InvalidArgumentError("refusing to create a tag with a digest reference", subject=str(name))
        found = await self.find(source)
        await self._transfer.point(
            str(name.with_default_tag()), found.image.target, labels=found.image.labels
        )
        labels = await self.facts.labels(found.image.target)
        shown = name.with_default_tag().familiar
        self._bus.publish("image", "tag", found.image.target.digest, {**labels, "name": shown})

    async def remove(
        self, name: str, *, force: bool = False, platforms: Sequence[Platform] = ()
    ) -> Sequence[Removed]:
        """Remove a name, or an image by its ID, or only some platforms of it.

        Raises `NotFoundError`; `ConflictError` in Docker's words when something stands in the way.
        """
        found = await self.find(name)
        if platforms:
            return await self._remove_platforms(found, name, platforms, force=force)
        plan = removal.plan(found, name, await self._uses(), force=force)
        target = found.image.target
        if plan.keep_dangling:
            await self._transfer.point(
                reference.dangling_name(target.digest), target, labels=found.image.labels
            )
        for record in plan.delete:
            if not (plan.keep_dangling and reference.is_dangling(record.name)):
                await self._delete_record(record)
        answer = removal.lines(plan.delete, target=target.digest, gone=plan.last)
        for line in answer:
            self._publish(
                "untag" if line.change is removal.Change.UNTAGGED else "delete", target.digest, line.subject
            )
        self._collect()
        return answer

    async def _delete_record(self, record: images.Image) -> None:
        try:
            await self._records.delete(record.name, target=record.target)
        except NotFoundError:
            return  # someone else removed or moved it meanwhile: either way this name no longer means the target

    async def _remove_platforms(
        self, found: lookup.Found, name: str, platforms: Sequence[Platform], *, force: bool
    ) -> Sequence[Removed]:
        if not force:
            raise InvalidArgumentError(
                "the platform's content is removed from every image that refers to it",
                hint="repeat with --force",
                subject=name,
            )
        facts = await self.facts.target(found.image.target)
        chosen = [m for platform in platforms if (m := self._removable(facts, platform, name)) is not None]
        for manifest in chosen:
            self._check_unused(manifest, name, await self._uses())
        dropped = {m.descriptor.digest for m in chosen}
        dropped |= {m.descriptor.digest for m in facts.manifests if m.attests in dropped}
        if dropped and not facts.indexes:
            raise FailedPreconditionError("the image has a single platform", hint="remove the image itself")
        for index in facts.indexes:
            await self._let_go(index.digest, dropped)
        await self._collected()
        return [Removed(change=removal.Change.DELETED, subject=m.descriptor.digest) for m in chosen]

    def _removable(self, facts: TargetFacts, platform: Platform, name: str) -> ManifestFacts | None:
        """The manifest of a platform; ``None`` if it is gone already, which is no failure of a removal by force."""
        try:
            return self.choose(facts, platform, name)
        except PlatformMissingError:
            if any(oci_platform.same(platform, m.platform) for m in facts.manifests if m.kind is Kind.IMAGE):
                return None
            raise

    @staticmethod
    def _check_unused(manifest: ManifestFacts, name: str, uses: Sequence[Use]) -> None:
        user = next((u for u in uses if u.manifest == manifest.descriptor.digest), None)
        if user is not None:
            raise ConflictError(
                f"conflict: unable to delete {name} (cannot be forced) - platform "
                f"{oci_platform.formatted(manifest.platform)} is being used by container {user.container[:12]}",
                subject=name,
            )

    async def _let_go(self, index: Digest, manifests: Collection[str]) -> None:
        """Take an index's hold off manifests; blobs that other images share stay, the collector sees to the rest."""
        labels = (await self._store.info(index)).labels
        dropped: dict[str, str | None] = {key: None for key, value in labels.items() if value in manifests}
        if dropped:
            await self._store.update(index, dropped)

    async def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> Pruned:
        """Remove dangling names, or with ``dangling=false`` all that no container uses; see `lading.images.pruning`.

        Without another filter, what interrupted pulls left to be taken up again goes too.

        Raises `ConflictError` while another prune runs; `InvalidArgumentError` for an unknown filter.
        """
        filters = filters or {}
        check_filters(filters, pruning.FILTERS)
        if self._pruning:
            raise ConflictError("a prune operation is already running")
        self._pruning = True
        try:
            return await self._prune(filters)
        finally:
            self._pruning = False

    async def _prune(self, filters: Mapping[str, Sequence[str]]) -> Pruned:
        passes, dangling = pruning.accepts(filters), pruning.dangling_only(filters)
        records = await self._records.list()
        summaries = await self._lister.summaries(by_target(records))

        def accept(record: images.Image) -> bool:
            return passes(record, summaries[record.target.digest])

        going = pruning.choose(records, await self._uses(), accept=accept, dangling=dangling)
        gone = pruning.gone(records, going)
        freed, before = await self._fact_rows.exclusive(gone), await self.total()
        documents = {d: [x for x in await self._documents(d) if x in freed.blobs] for d in gone}
        removed: list[Removed] = []
        left = Counter(record.target.digest for record in going)
        for record in going:
            await self._delete_record(record)
            digest = record.target.digest
            left[digest] -= 1
            removed += removal.lines([record], target=digest, gone=False)
            self._publish("untag", digest, _shown(record))
            if not left[digest] and (deleted := documents.get(digest)):
                removed += [Removed(change=removal.Change.DELETED, subject=each) for each in deleted]
                self._publish("delete", digest, _shown(record))
        dropped = 0 if filters.keys() - {"dangling"} else await self._transfer.abandon()
        await self._collected()
        # More than what no other image has may go: a base that another image has too, but not unpacked. What arrives meanwhile
        # makes the difference smaller, never what was freed.
        reclaimed = max(freed.total, before - await self.total()) + dropped
        self._bus.publish("image", "prune", "", {"reclaimed": str(reclaimed)})
        return Pruned(removed=removed, reclaimed=reclaimed)

    async def _documents(self, target: Digest) -> Sequence[Digest]:
        """The target and the indexes and manifests below it, as far as its facts are known."""
        known = await self._fact_rows.get(target)
        if known is None:
            return [target]
        return [
            target,
            *(d.digest for d in known.indexes[1:]),
            *(m.descriptor.digest for m in known.manifests if m.descriptor.digest != target),
        ]

    async def attestations(
        self,
        name: str,
        *,
        platform: Platform | None = None,
        types: Collection[str] = (),
        bodies: bool = False,
    ) -> Sequence[Statement]:
        """The in-toto statements about a platform of an image; empty if there are none.

        Raises `NotFoundError`; `PlatformMissingError`; as `lading.images.statements.read`.
        """
        facts = await self.facts.target((await self.find(name)).image.target)
        about = statements.attestation_for(facts, self.choose(facts, platform, name))
        return [] if about is None else await statements.read(self._store, about, types=types, bodies=bodies)

    async def identities(self, digests: Collection[Digest]) -> Mapping[str, Identity]:
        """Where targets and manifests came from, of those that are here."""
        return await statements.identities(self._store, digests)

    def _publish(self, action: str, actor: str, name: str) -> None:
        self._bus.publish("image", action, actor, {"name": name})


def _shown(record: images.Image) -> str:
    """A record's name as users write it; of a dangling one the digest."""
    return (
        record.target.digest if reference.is_dangling(record.name) else reference.parse(record.name).familiar
    )
