"""The image service: what an edge asks about images, over whichever stores are active."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Final

import anyio.lowlevel
import msgspec

from lading.core import content, events, facts, images
from lading.core.facts import Kind, ManifestFacts, Summary, TargetFacts
from lading.errors import (
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from lading.images import lookup, removal
from lading.images.listing import (
    ImageRow,
    ManifestRow,
    check_filters,
    manifest_rows,
    matches_labels,
    matches_reference,
    names,
    parse_flag,
)
from lading.images.removal import Removed, Use, Uses
from lading.kit import times
from lading.oci import platform as oci_platform
from lading.oci import reference
from lading.oci.config import History, ImageConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.reference import Reference
from lading.transfer.service import TransferService

_ROWS_AT_ONCE: Final = 256
PRUNE_FILTERS = frozenset({"dangling", "until", "label", "label!"})


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
    tagged_at: datetime
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a prune removed, and the bytes that nothing needs any more."""

    removed: Sequence[Removed]
    reclaimed: int


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
        self._pruning = False

    async def find(self, name: str) -> lookup.Found:
        """The records that a name or ID means; raises as `lading.images.lookup.find`."""
        return await lookup.find(self._records, name)

    async def total(self) -> int:
        """Bytes that all images take together: every blob and every snapshot of theirs once."""
        return await self._fact_rows.total()

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
        on in between, however many images there are.

        Raises `InvalidArgumentError` for an unknown filter; `NotFoundError` if ``before`` or ``since`` names nothing.
        """
        filters = filters or {}
        check_filters(filters)
        by_target: dict[str, list[images.Image]] = {}
        for record in await self._records.list():
            by_target.setdefault(record.target.digest, []).append(record)
        summaries = await self._summaries(by_target)
        uses = await self._uses()
        containers = Counter(use.target for use in uses)
        shown: Mapping[str, Sequence[ManifestRow]] = await self._manifest_rows(uses) if manifests else {}
        rows: list[ImageRow] = []
        for number, (digest, group) in enumerate(by_target.items()):
            if number % _ROWS_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
            summary = summaries.get(digest) or Summary(
                digest, readable=False, created=0, labels={}, size=0, shared=0
            )
            tags, digests = names(group)
            rows.append(
                ImageRow(
                    target=group[0].target,
                    tags=tags,
                    digests=digests if summary.readable else [digest],
                    created=summary.created,
                    size=summary.size,
                    shared=summary.shared if shared_size else -1,
                    labels=summary.labels,
                    containers=containers[digest],
                    manifests=shown.get(digest, ()),
                )
            )
        kept = await self._filtered(rows, by_target, filters) if filters else rows
        return sorted(kept, key=attrgetter("created"), reverse=True)

    async def _summaries(self, by_target: Mapping[str, Sequence[images.Image]]) -> Mapping[str, Summary]:
        """What rows say of each target. Only of an image that came or changed behind our back the documents are read first."""
        found = {row.digest: row for row in await self._fact_rows.summaries()}
        unknown = [group[0].target for digest, group in by_target.items() if digest not in found]
        if unknown:
            for target in unknown:
                await self.facts.remember(target)
            found = {row.digest: row for row in await self._fact_rows.summaries()}
        return found

    async def _manifest_rows(self, uses: Sequence[Use]) -> Mapping[str, Sequence[ManifestRow]]:
        """The manifests of every image, by target."""
        inventory = await self._fact_rows.inventory()
        used = _by_manifest(uses)
        found: dict[str, Sequence[ManifestRow]] = {}
        for number, known in enumerate(await self._fact_rows.list()):
            if number % _ROWS_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
            found[known.target.digest] = manifest_rows(known, inventory, used)
        return found

    async def _filtered(
        self,
        rows: Sequence[ImageRow],
        records: Mapping[str, Sequence[images.Image]],
        filters: Mapping[str, Sequence[str]],
    ) -> Sequence[ImageRow]:
        dangling = parse_flag(filters, "dangling")
        newer = max([await self._created_of(n) for n in filters.get("since", ())], default=None)
        older = [await self._created_of(n) for n in filters.get("before", ())]
        older += [times.parse_moment(t, times.now_nano()) for t in filters.get("until", ())]
        oldest = min(older, default=None)
        kept: list[ImageRow] = []
        for row in rows:
            if newer is not None and row.created <= newer:
                continue
            if oldest is not None and row.created >= oldest:
                continue
            if dangling is not None and dangling == bool(row.tags):
                continue
            if not matches_labels(row.labels, filters):
                continue
            patterns = filters.get("reference", ())
            if patterns:
                matching = [r for r in records[row.target.digest] if matches_reference(r, patterns)]
                if not matching:
                    continue
                kept.append(_with_names(row, matching))
                continue
            kept.append(row)
        return kept

    async def _created_of(self, name: str) -> int:
        return (await self.facts.target((await self.find(name)).image.target)).created

    async def inspect(self, name: str, *, platform: Platform | None = None) -> ImageDetail:
        """One image in full. Raises `NotFoundError`; `PlatformMissingError` if ``platform`` is not here."""
        found = await self.find(name)
        facts = await self.facts.target(found.image.target)
        manifest = self.choose(facts, platform, name) if platform is not None else facts.shown
        inventory = await self._fact_rows.inventory(facts.target.digest)
        tags, digests = names(found.records)
        return ImageDetail(
            target=facts.target,
            tags=tags,
            digests=digests if manifest is not None else [str(facts.target.digest)],
            manifest=manifest,
            config=await self.facts.config(manifest) if manifest is not None else None,
            rows=manifest_rows(facts, inventory, _by_manifest(await self._uses())),
            size=inventory.content(manifest) + inventory.unpacked(manifest) if manifest else 0,
            tagged_at=max(r.updated_at for r in found.records),
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
        if rows:
            tags, _ = names(found.records)
            rows[0] = HistoryRow(
                id=found.image.target.digest, history=rows[0].history, tags=tags, size=rows[0].size
            )
        return rows

    async def tag(self, source: str, name: Reference) -> None:
        """Give an image one more name; a target that loses its last name to it stays as dangling.

        Raises `NotFoundError` for the source; `InvalidArgumentError` for a name with a digest.
        """
        if name.digest is not None:
            raise InvalidArgumentError("refusing to create a tag with a digest reference", subject=str(name))
        found = await self.find(source)
        await self._transfer.point(str(name.with_default_tag()), found.image.target)
        self._publish("tag", found.image.target.digest, name.with_default_tag().familiar)

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
            await self._transfer.point(reference.dangling_name(target.digest), target)
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
        facts = await self.facts.target(found.image.target)
        if not force:
            raise InvalidArgumentError(
                "deleting a platform requires --force", hint="repeat with --force", subject=name
            )
        uses = await self._uses()
        answer: list[Removed] = []
        chosen = [self.choose(facts, platform, name) for platform in platforms]
        for manifest in chosen:
            user = next((u for u in uses if u.manifest == manifest.descriptor.digest), None)
            if user is not None:
                raise ConflictError(
                    f"conflict: unable to delete {name} (cannot be forced) - platform "
                    f"{oci_platform.formatted(manifest.platform)} is being used by container {user.container[:12]}",
                    subject=name,
                )
        for manifest in chosen:
            await self._forget_manifest(facts, manifest)
            answer.append(Removed(change=removal.Change.DELETED, subject=manifest.descriptor.digest))
            self._publish("delete", manifest.descriptor.digest, name)
        self._collect()
        return answer

    async def _forget_manifest(self, facts: TargetFacts, manifest: ManifestFacts) -> None:
        """Take the index's hold off a manifest; blobs that other images share stay, the collector sees to the rest."""
        if not facts.indexes:
            raise FailedPreconditionError("the image has a single platform", hint="remove the image itself")
        for index in facts.indexes:
            info = await self._store.info(index.digest)
            dropped: dict[str, str | None] = {
                k: None for k, v in info.labels.items() if v == manifest.descriptor.digest
            }
            if dropped:
                await self._store.update(index.digest, dropped)

    async def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> Pruned:
        """Remove dangling images, or with ``dangling=false`` all that no container uses.

        Raises `ConflictError` while another prune runs; `InvalidArgumentError` for an unknown filter.
        """
        filters = filters or {}
        check_filters(filters, PRUNE_FILTERS)
        if self._pruning:
            raise ConflictError("a prune operation is already running")
        self._pruning = True
        try:
            return await self._prune(filters)
        finally:
            self._pruning = False

    async def _prune(self, filters: Mapping[str, Sequence[str]]) -> Pruned:
        dangling_only = parse_flag(filters, "dangling") is not False
        rows = await self.list({k: v for k, v in filters.items() if k != "dangling"}, manifests=False)
        used = {u.target for u in await self._uses()}
        going = [r for r in rows if r.target.digest not in used and not (dangling_only and r.tags)]
        if dangling_only:
            going = [r for r in going if not await self._has_name(r.target)]
        reclaimed = await self._fact_rows.freed_by([row.target.digest for row in going])
        removed: list[Removed] = []
        for row in going:
            records = await self._records.by_target(row.target.digest)
            for record in records:
                await self._delete_record(record)
            removed += removal.lines(records, target=row.target.digest, gone=True)
            self._publish("delete", row.target.digest, row.target.digest)
        self._bus.publish("image", "prune", "", {"reclaimed": str(reclaimed)})
        self._collect()
        return Pruned(removed=removed, reclaimed=reclaimed)

    async def _has_name(self, target: Descriptor) -> bool:
        return any(not reference.is_dangling(r.name) for r in await self._records.by_target(target.digest))

    def _publish(self, action: str, actor: str, name: str) -> None:
        self._bus.publish("image", action, actor, {"name": name})


def _by_manifest(uses: Sequence[Use]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for use in uses:
        found.setdefault(use.manifest, []).append(use.container)
    return found


def _with_names(row: ImageRow, records: Sequence[images.Image]) -> ImageRow:
    tags, digests = names(records)
    return msgspec.structs.replace(row, tags=tags, digests=digests)
