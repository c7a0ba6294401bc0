"""The list of images: rows of the database, joined, filtered and kept for as long as nothing changes."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import attrgetter
from typing import Final

import anyio.lowlevel
import msgspec

from lading.core import facts, images
from lading.core.facts import Summary
from lading.images import lookup
from lading.images.listing import (
    ImageRow,
    ManifestRow,
    by_target,
    check_filters,
    containers_of,
    kept_since,
    manifest_row,
    matches_labels,
    matches_reference,
    names,
    parent,
    parse_flag,
    parse_until,
)
from lading.images.removal import Use
from lading.transfer.facts import FactReader

_ROWS_AT_ONCE: Final = 256


class Lister:
    """Lists the images of one namespace.

    Args:
        records: The namespace's image records.
        known: Reads documents of targets that have no rows yet.
        fact_rows: What images say and take.
        find: What a name in a filter means.

    """

    def __init__(
        self,
        *,
        records: images.Store,
        known: FactReader,
        fact_rows: facts.Store,
        find: Callable[[str], Awaitable[lookup.Found]],
    ) -> None:
        self._records = records
        self._known = known
        self._fact_rows = fact_rows
        self._find = find
        self._listed: tuple[object, Sequence[ImageRow]] | None = None

    async def list(
        self,
        filters: Mapping[str, Sequence[str]],
        uses: Sequence[Use],
        *,
        shared_size: bool,
        manifests: bool,
    ) -> Sequence[ImageRow]:
        """One row per target, newest first; raises as `lading.images.service.ImageService.list`."""
        check_filters(filters)
        asked = (self._fact_rows.version(), shared_size, manifests, tuple(uses))
        if not filters and self._listed is not None and self._listed[0] == asked:
            return self._listed[1]
        rows = await self._rows(uses, filters, shared_size=shared_size, manifests=manifests)
        if not filters:
            self._listed = (asked, rows)
        return rows

    async def summaries(self, targets: Mapping[str, Sequence[images.Image]]) -> Mapping[str, Summary]:
        """What rows say of each target. Only of an image that came or changed behind our back the documents are read first."""
        found = {row.digest: row for row in await self._fact_rows.summaries()}
        unknown = [group[0].target for digest, group in targets.items() if digest not in found]
        if unknown:
            for target in unknown:
                await self._known.remember(target)
            found = {row.digest: row for row in await self._fact_rows.summaries()}
        return {digest: found.get(digest) or _unreadable(digest) for digest in targets}

    async def _rows(
        self, uses: Sequence[Use], filters: Mapping[str, Sequence[str]], *, shared_size: bool, manifests: bool
    ) -> Sequence[ImageRow]:
        targets = by_target(await self._records.list())
        summaries = await self.summaries(targets)
        containers = Counter(use.target for use in uses)
        shown: Mapping[str, Sequence[ManifestRow]] = await self._manifest_rows(uses) if manifests else {}
        rows: list[ImageRow] = []
        for number, (digest, group) in enumerate(targets.items()):
            if number % _ROWS_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
            summary = summaries[digest]
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
                    parent=parent(group),
                    manifests=shown.get(digest, ()),
                )
            )
        kept = await self._filtered(rows, targets, filters) if filters else rows
        return sorted(kept, key=attrgetter("created"), reverse=True)

    async def _manifest_rows(self, uses: Sequence[Use]) -> Mapping[str, Sequence[ManifestRow]]:
        """The manifests of every image, by target."""
        used = containers_of(uses)
        found: dict[str, list[ManifestRow]] = {}
        for number, each in enumerate(await self._fact_rows.manifests()):
            if number % _ROWS_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
            found.setdefault(each.target, []).append(manifest_row(each, used))
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
        oldest = min(older, default=None)
        until = parse_until(filters)
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
            group = records[row.target.digest]
            matching = [
                r
                for r in group
                if matches_reference(r, filters.get("reference", ()))
                and (until is None or kept_since(r, row.created) < until)
            ]
            if matching:
                kept.append(row if len(matching) == len(group) else _with_names(row, matching))
        return kept

    async def _created_of(self, name: str) -> int:
        return (await self._known.target((await self._find(name)).image.target)).created


def _unreadable(digest: str) -> Summary:
    """What is shown of a target whose documents are damaged."""
    return Summary(digest, readable=False, created=0, labels={}, size=0, shared=0)


def _with_names(row: ImageRow, records: Sequence[images.Image]) -> ImageRow:
    tags, digests = names(records)
    return msgspec.structs.replace(row, tags=tags, digests=digests)
